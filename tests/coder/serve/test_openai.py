"""OpenAI's own client library, where it is installed (`pip install openai`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder.serve.serving import PATIENCE, PREFIX, SUFFIX, Serving, serving
from tests.scripted import scripted

openai: Any = pytest.importorskip("openai", reason="no openai. Remedy: pip install openai")

SAID = "return sum(values) / len(values)"


@pytest.fixture(scope="module")
def server(tokenizer: TalariaTokenizer) -> Iterator[Serving]:
    """A server whose model says SAID."""
    with serving(lambda: scripted(tokenizer, [SAID, "0"])) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[Any]:
    """A client of it, which asks once."""
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def test_a_completion(client: Any) -> None:
    """Texts, reasons, log-probabilities and usage are where the library looks for them."""
    found = client.completions.create(
        model="any", prompt=PREFIX, suffix=SUFFIX, n=2, logprobs=1, max_tokens=64, temperature=0
    )
    assert found.choices[0].text == SAID
    assert found.choices[0].finish_reason == "stop"
    assert len(found.choices) == 2
    assert "".join(found.choices[0].logprobs.tokens) == SAID
    assert found.usage.completion_tokens > 0


def test_a_stream(client: Any) -> None:
    """Its pieces are the text, and of several streams some have more than one.

    A busy machine may be done before the first piece is sent.
    """
    assert any(len(streamed(client)) > 1 for _ in range(5))


def streamed(client: Any) -> list[str]:
    """The pieces of a stream."""
    with client.completions.create(
        model="any",
        prompt=PREFIX,
        suffix=SUFFIX,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"check_syntax": False},
    ) as stream:
        events = list(stream)
    texts = [event.choices[0].text for event in events if event.choices]
    assert "".join(texts) == SAID
    assert events[-1].usage.completion_tokens > 0
    return texts


def test_models_and_errors(client: Any) -> None:
    """The library raises its own errors, which name the field."""
    assert [model.id for model in client.models.list()] == ["scripted"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="any", prompt=PREFIX, max_tokens=0)
    assert refused.value.param == "max_tokens"
