"""OpenAI's `POST /v1/completions` with a suffix, as most clients and services have it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from talaria.coder.serve.exchange import (
    MOST_CHOICES,
    Asked,
    Body,
    Choice,
    Given,
    Refusal,
    parsed,
)
from talaria.coder.source import Piece

done: str | None = "[DONE]"

REASONS = {"stop": "stop", "length": "length", "deadline": "length"}


class Extra(BaseModel):
    """An excerpt of another file, by llama.cpp's names."""

    model_config = ConfigDict(strict=True, extra="ignore")

    text: str
    filename: str = ""

    def piece(self) -> Piece:
        """The excerpt as the engine has it."""
        text = self.text.replace("\r\n", "\n")
        return Piece(self.filename, text if text.endswith("\n") else f"{text}\n")


class StreamOptions(BaseModel):
    """What a stream contains besides text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class Completion(Body):
    """The fields that have a meaning here; `input_extra` is llama.cpp's, for Talaria's own client.

    Not sampling by default, as OpenAI does, suits code; nor does its default of 16 tokens.
    """

    prompt: str | list[str] = ""
    suffix: str = ""
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    logprobs: int | bool | None = None
    stream_options: StreamOptions = StreamOptions()
    input_extra: list[Extra] = Field(default_factory=list)


def asked(body: bytes, headers: Mapping[str, str]) -> Asked:
    """What a body asks, as `Format` has it."""
    return asked_by(parsed(Completion, body), headers)


def asked_by(fields: Completion, headers: Mapping[str, str]) -> Asked:
    """What these fields ask."""
    prompts = [fields.prompt] if isinstance(fields.prompt, str) else fields.prompt
    if len(prompts) != 1:
        raise Refusal(f"prompt has {len(prompts)} texts; send each in a request", field="prompt")
    return Asked(
        prompts[0],
        fields.suffix,
        fields.options(fields.max_tokens, fields.n),
        tuple(each.piece() for each in fields.input_extra),
        fields.stops,
        fields.stream,
        # 0 is "of the chosen tokens alone", and equal to False.
        logprobs=fields.logprobs is not None and fields.logprobs is not False,
        document=fields.document(headers),
        usage=fields.stream_options.include_usage,
    )


def answer(given: Given, asked: Asked, number: str) -> dict[str, Any]:
    """The body of an answer, as `Format` has it."""
    choices = [
        shown(place, each.text, REASONS[each.finish], logprobs(each) if asked.logprobs else None)
        for place, each in enumerate(given.choices)
    ]
    return {**head(given.model, number), "choices": choices, "usage": usage(given)}


def piece(text: str, asked: Asked, model: str, number: str) -> dict[str, Any]:
    """An event of a stream, as `Format` has it."""
    return {**head(model, number), "choices": [shown(0, text)]}


def last(given: Given, rest: str, asked: Asked, number: str) -> Iterator[dict[str, Any]]:
    """The events that end a stream, as `Format` has it."""
    for place, each in enumerate(given.choices):
        logs = logprobs(each) if asked.logprobs else None
        text = each.text if place else rest
        choices = [shown(place, text, REASONS[each.finish], logs)]
        yield {**head(given.model, number), "choices": choices}
    if asked.usage:
        yield {**head(given.model, number), "choices": [], "usage": usage(given)}


def error(refusal: Refusal) -> dict[str, Any]:
    """The body of an answer without a completion, as `Format` has it."""
    return {
        "error": {
            "message": str(refusal),
            "type": refusal.kind,
            "param": refusal.field,
            "code": None,
        }
    }


def head(model: str, number: str) -> dict[str, Any]:
    """What all answers begin with."""
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def shown(
    place: int, text: str, reason: str | None = None, logs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A choice, or a part of one."""
    return {"index": place, "text": text, "logprobs": logs, "finish_reason": reason}


def usage(given: Given) -> dict[str, Any]:
    """The tokens that a request took; `nfe` and its quotient are Talaria's own."""
    return {
        "prompt_tokens": given.context,
        "completion_tokens": given.written,
        "total_tokens": given.context + given.written,
        "prompt_tokens_details": {"cached_tokens": given.reused},
        "nfe": given.nfe,
        "tokens_per_forward": round(given.written / max(1, given.nfe), 3),
    }


def logprobs(choice: Choice) -> dict[str, Any]:
    """The log-probabilities of a choice's tokens; of no others."""
    offsets, length = [], 0
    for token in choice.tokens:
        offsets.append(length)
        length += len(token.text)
    return {
        "tokens": [token.text for token in choice.tokens],
        "token_logprobs": [token.log_probability for token in choice.tokens],
        "top_logprobs": [{token.text: token.log_probability} for token in choice.tokens],
        "text_offset": offsets,
    }
