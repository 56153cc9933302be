"""llama.cpp's `POST /infill`, which llama.vim, llama.vscode and other plugins speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from talaria.coder.serve.exchange import Asked, Body, Given, Refusal, parsed
from talaria.coder.serve.formats.openai import Extra

done: str | None = None

KINDS = {"stop": "eos", "length": "limit", "deadline": "limit"}


class Infill(Body):
    """The fields that have a meaning here.

    prompt            what stands before the cursor, behind `input_prefix`
    n_predict         tokens, at most; 0 only reads the context, below 0 sets no limit
    t_max_prompt_ms, t_max_predict_ms   together the deadline: what is committed by then is sent
    response_fields   of the answer, by paths such as `timings/prompt_n`; others are left out
    """

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] = Field(default_factory=list)
    prompt: str = ""
    n_predict: int = -1
    t_max_prompt_ms: float = Field(0, ge=0)
    t_max_predict_ms: float = Field(0, ge=0)
    response_fields: list[str] | None = None
    n_probs: int = 0


def asked(body: bytes, headers: Mapping[str, str]) -> Asked:
    """What a body asks, as `Format` has it."""
    fields = parsed(Infill, body)
    milliseconds = fields.t_max_predict_ms and fields.t_max_predict_ms + fields.t_max_prompt_ms
    return Asked(
        fields.input_prefix + fields.prompt,
        fields.input_suffix,
        fields.options(fields.n_predict if fields.n_predict > 0 else None),
        tuple(each.piece() for each in fields.input_extra),
        fields.stops,
        fields.stream,
        logprobs=fields.n_probs > 0,
        document=fields.document(headers),
        seconds=milliseconds / 1000 or None,
        ahead=fields.n_predict == 0,
        fields=None if fields.response_fields is None else tuple(fields.response_fields),
    )


def answer(given: Given, asked: Asked, number: str) -> dict[str, Any]:
    """The body of an answer, as `Format` has it."""
    best = given.choices[0]
    whole: dict[str, Any] = {
        "index": 0,
        "content": best.text,
        "id_slot": 0,
        "stop": True,
        "model": given.model,
        "tokens_predicted": given.written,
        "tokens_evaluated": given.context,
        "tokens_cached": given.context + given.written,
        "truncated": False,
        "has_new_line": "\n" in best.text,
        "stop_type": KINDS[best.finish],
        "timings": timings(given),
    }
    if asked.logprobs:
        whole["completion_probabilities"] = [
            {"token": token.text, "logprob": token.log_probability} for token in best.tokens
        ]
    return whole if asked.fields is None else chosen(whole, asked.fields)


def piece(text: str, asked: Asked, model: str, number: str) -> dict[str, Any]:
    """An event of a stream, as `Format` has it."""
    return {"index": 0, "content": text, "stop": False}


def last(given: Given, rest: str, asked: Asked, number: str) -> Iterator[dict[str, Any]]:
    """The event that ends a stream, as `Format` has it."""
    whole = answer(given, asked, number)
    if "content" in whole:
        whole["content"] = rest
    yield whole


def error(refusal: Refusal) -> dict[str, Any]:
    """The body of an answer without a completion, as `Format` has it."""
    found = {"code": refusal.status, "message": str(refusal), "type": refusal.kind}
    return {"error": found if refusal.field is None else {**found, "field": refusal.field}}


def timings(given: Given) -> dict[str, float]:
    """How long the context and the middle took, and how many tokens they have."""
    read, written = given.context - given.reused, given.written
    writing = given.elapsed_ms - given.first_ms
    return {
        "cache_n": given.reused,
        "prompt_n": read,
        "prompt_ms": round(given.first_ms, 3),
        "prompt_per_token_ms": round(given.first_ms / max(1, read), 3),
        "prompt_per_second": round(1000 * read / max(given.first_ms, 0.001), 3),
        "predicted_n": written,
        "predicted_ms": round(writing, 3),
        "predicted_per_token_ms": round(writing / max(1, written), 3),
        "predicted_per_second": round(1000 * written / max(writing, 0.001), 3),
    }


def chosen(whole: Mapping[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """Fields by their paths, which are also their names in the answer."""
    found = {}
    for path in paths:
        value: Any = whole
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[path] = value
    return found
