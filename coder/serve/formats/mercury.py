"""Inception's `POST /v1/fim/completions`, for its Mercury models: OpenAI's, and canvases.

With `stream` and `diffusing`, each event has the whole text so far, which later ones may change.
Next edits (`/v1/edit/completions`) need a model that was trained for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from talaria.coder.serve.exchange import Asked, Refusal, parsed
from talaria.coder.serve.formats import openai
from talaria.coder.serve.formats.openai import answer, done, error, last, piece

__all__ = ["EDITS", "answer", "asked", "done", "error", "last", "piece"]

EDITS = Refusal(
    "the model that is served fills holes and cannot propose edits; "
    "ask /v1/fim/completions with prompt and suffix",
    status=501,
    kind="not_supported_error",
)


class Completion(openai.Completion):
    """OpenAI's fields, and whether canvases are wanted."""

    diffusing: bool = False


def asked(body: bytes, headers: Mapping[str, str]) -> Asked:
    """What a body asks, as `Format` has it."""
    fields = parsed(Completion, body)
    return replace(openai.asked_by(fields, headers), whole=fields.diffusing)
