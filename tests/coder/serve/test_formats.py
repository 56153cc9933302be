"""Each wire format as its clients have it: bodies, answers, streams and errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.request import Options
from talaria.coder.serve import exchange
from talaria.coder.serve.app import Told
from talaria.coder.serve.exchange import Asked, Refusal
from talaria.coder.serve.formats import FORMATS
from tests.coder.serve.serving import PREFIX, SUFFIX, Serving, serving
from tests.scripted import SETTINGS, scripted

SAID = "return sum(values) / len(values)"
RUNS_ON = "return sum(values)\n\n\ndef variance(values):\n    return 0"
HOLES: dict[str, dict[str, Any]] = {
    "/infill": {"input_prefix": PREFIX, "input_suffix": SUFFIX},
    "/v1/completions": {"prompt": PREFIX, "suffix": SUFFIX},
    "/v1/fim/completions": {"prompt": PREFIX, "suffix": SUFFIX},
}
# What llama.vim sends at a key, and its request when the context of other files has changed.
VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "def mean(values):\n",
    "input_suffix": "\n",
    "input_extra": [{"text": "import math\n", "time": 0, "filename": "a.py"}],
    "prompt": "    ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 20_000,
    "t_max_predict_ms": 20_000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_ms", "tokens_cached"],
}
VIM_AHEAD = {**VIM, "prompt": "", "n_predict": 0, "response_fields": [""], "t_max_predict_ms": 1}


@pytest.fixture(scope="module")
def server(tokenizer: TalariaTokenizer) -> Iterator[Serving]:
    """A server whose model says SAID."""
    with serving(lambda: scripted(tokenizer, [SAID, "0"])) as server:
        yield server


def test_what_clients_ask_may_be_blank() -> None:
    """They ask at every key, and an empty answer is one."""
    assert exchange.Body.model_validate({}).options(None).abstain


def texts(path: str, answer: Any) -> list[str]:
    """The texts of an answer, or of an event."""
    if path == "/infill":
        return [answer["content"]]
    return [choice["text"] for choice in answer["choices"]]


@pytest.mark.parametrize("path", FORMATS)
def test_a_hole_is_filled(server: Serving, path: str) -> None:
    """Fields that nobody knows, and nulls, change nothing."""
    body = {**HOLES[path], "presence_penalty": [1], "stop": None, "temperature": 0, "model": "any"}
    response = server.post(path, body)
    assert response.status_code == 200
    assert texts(path, response.json()) == [SAID]


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("stop", [[], ["values) /", "nothing"], ["\n"]])
def test_a_stream_adds_up_to_the_answer(
    server: Serving, path: str, checked: bool, stop: list[str]
) -> None:
    """Whatever it is stopped by; without the check of syntax, in pieces."""
    body = {**HOLES[path], "check_syntax": checked, "stop": stop}
    answer = server.post(path, body).json()
    events = server.events(path, {**body, "stream": True})
    end = None if path == "/infill" else events.pop()
    assert end in (None, "[DONE]")
    assert "".join(texts(path, event)[0] for event in events) == texts(path, answer)[0]
    assert texts(path, answer)[0] == ("return sum(" if "values) /" in stop else SAID)
    reasons = [
        event["stop"] if path == "/infill" else event["choices"][0]["finish_reason"]
        for event in events
    ]
    assert [bool(reason) for reason in reasons] == [False] * (len(reasons) - 1) + [True]


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("bound", ["until", "bounded model"])
def test_a_stream_never_tells_what_a_bound_takes_back(
    tokenizer: TalariaTokenizer, path: str, bound: str
) -> None:
    """The model runs on behind the function; the stream ends where the answer does."""
    settings = replace(SETTINGS, bounded=bound == "bounded model")
    body = {**HOLES[path], "check_syntax": False}
    if bound == "until":
        body["until"] = "block"
    with serving(lambda: scripted(tokenizer, [RUNS_ON, "0"], settings)) as server:
        answer = texts(path, server.post(path, body).json())[0]
        events = server.events(path, {**body, "stream": True})
    assert answer == RUNS_ON.splitlines()[0]
    assert "".join(texts(path, event)[0] for event in events if event != "[DONE]") == answer


def test_what_was_told_is_not_told_again() -> None:
    """Where it was taken back after all, nothing follows it."""
    told = Told(Asked(PREFIX, SUFFIX, Options(check_syntax=False)))
    assert told.more("return sum(") == "return sum"
    assert told.rest("return sum(a)") == "(a)"
    assert told.rest("return") == ""
    assert told.rest("return max(a)") == ""


@pytest.mark.parametrize("path", FORMATS)
def test_the_length_is_limited(server: Serving, path: str) -> None:
    """By the client, which is told so; the model's own limit is not a fault of the client."""
    name = "n_predict" if path == "/infill" else "max_tokens"
    cut = server.post(path, {**HOLES[path], name: 2, "check_syntax": False}).json()
    assert SAID.startswith(texts(path, cut)[0])
    assert len(texts(path, cut)[0]) < len(SAID)
    reason = cut["stop_type"] if path == "/infill" else cut["choices"][0]["finish_reason"]
    assert reason in ("limit", "length")
    assert texts(path, server.post(path, {**HOLES[path], name: 10**6}).json()) == [SAID]


def test_llama_vim(server: Serving) -> None:
    """The fields it asks for, by the names it gives them; `prompt` stands before the cursor."""
    answer = server.post("/infill", VIM).json()
    assert answer["content"] == SAID
    assert answer.keys() == set(VIM["response_fields"])
    assert answer["timings/prompt_n"] > 0
    assert server.post("/infill", VIM_AHEAD).json() == {}


def test_infill_tells_its_times(server: Serving) -> None:
    """As llama.cpp does, in milliseconds and tokens."""
    answer = server.post("/infill", HOLES["/infill"]).json()
    times = answer["timings"]
    assert answer["stop"]
    assert answer["stop_type"] == "eos"
    assert times["cache_n"] + times["prompt_n"] == answer["tokens_evaluated"]
    assert times["predicted_n"] == answer["tokens_predicted"] > 5
    assert min(times["prompt_ms"], times["predicted_ms"]) >= 0
    assert times["prompt_ms"] + times["predicted_ms"] > 0


def test_choices_and_log_probabilities(server: Serving) -> None:
    """As many as were asked for; tokens add up to the text, and start where they say."""
    body = {**HOLES["/v1/completions"], "n": 3, "logprobs": 1, "temperature": 0}
    answer = server.post("/v1/completions", body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] > 0
    for choice in answer["choices"]:
        logs = choice["logprobs"]
        assert "".join(logs["tokens"]) == choice["text"]
        assert all(-2 < value <= 0 for value in logs["token_logprobs"])
        for token, offset in zip(logs["tokens"], logs["text_offset"], strict=True):
            assert choice["text"].startswith(token, offset)
    first = answer["choices"][0]["logprobs"]["token_logprobs"][0]
    assert first == pytest.approx(math.log(0.9), abs=0.01)


@pytest.mark.parametrize(
    ("value", "wanted"), [(0, True), (1, True), (True, True), (False, False), (None, False)]
)
def test_zero_log_probabilities_are_those_of_the_chosen(
    server: Serving, value: int | None, wanted: bool
) -> None:
    """As OpenAI has it: 0 others beside each token; without the field, nothing is gathered."""
    body = {**HOLES["/v1/completions"], "logprobs": value}
    answer = server.post("/v1/completions", body).json()
    logs = answer["choices"][0]["logprobs"]
    assert (logs is not None) is wanted
    assert not logs or "".join(logs["tokens"]) == SAID
    assert answer["usage"]["completion_tokens"] > 5


def test_probabilities_are_gathered_only_if_asked_for(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a decoding for each token."""

    def gathered(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(exchange, "pieces_of", gathered)
    assert server.post("/v1/completions", HOLES["/v1/completions"]).status_code == 200
    body = {**HOLES["/v1/completions"], "logprobs": 1}
    assert server.post("/v1/completions", body).status_code == 500


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize("seed", [None, -1])
def test_drawing_without_a_seed_draws_anew(path: str, seed: int | None) -> None:
    """A seed that is given, and a request that draws nothing, stay as they are."""

    def seeded(**fields: object) -> int:
        body = json.dumps({**HOLES[path], **fields}).encode()
        return FORMATS[path].asked(body, {}).options.seed

    assert len({seeded(temperature=0.8, seed=seed) for _ in range(9)}) == 9
    assert {seeded(temperature=0.8, seed=3) for _ in range(9)} == {3}
    assert {seeded(temperature=0, seed=seed) for _ in range(9)} == {0}


def test_usage_at_the_end_of_a_stream(server: Serving) -> None:
    """If it is wanted: an event without choices."""
    body = {**HOLES["/v1/completions"], "stream": True, "stream_options": {"include_usage": True}}
    *_, usage, end = server.events("/v1/completions", body)
    assert (usage["choices"], end) == ([], "[DONE]")
    assert usage["usage"]["nfe"] > 0


def test_a_stream_of_canvases(server: Serving) -> None:
    """Each event has all of the text so far."""
    body = {**HOLES["/v1/fim/completions"], "stream": True, "diffusing": True}
    *events, end = server.events("/v1/fim/completions", body)
    shown = [texts("/v1/fim/completions", event)[0] for event in events]
    assert end == "[DONE]"
    assert shown[-1] == SAID
    assert all(SAID.startswith(text) for text in shown)


def test_edits_are_refused_in_a_sentence(server: Serving) -> None:
    """It says what is possible instead."""
    response = server.post("/v1/edit/completions", {"messages": []})
    assert response.status_code == 501
    assert "/v1/fim/completions" in response.json()["error"]["message"]


WRONG = {
    "/infill": [("n_predict", "many"), ("input_extra", [{"text": 1}]), ("input_prefix", 3)],
    "/v1/completions": [("prompt", 3), ("n", 0), ("n", 9), ("max_tokens", 0), ("stop", {})],
    "/v1/fim/completions": [("diffusing", "yes"), ("temperature", -1), ("suffix", []), ("n", True)],
}


@pytest.mark.parametrize(("path", "field", "value"), [(p, *w) for p in WRONG for w in WRONG[p]])
def test_a_wrong_field_is_named(server: Serving, path: str, field: str, value: Any) -> None:
    """In the format's own shape, with what was found."""
    response = server.post(path, {**HOLES[path], field: value})
    error = response.json()["error"]
    assert response.status_code == 400
    assert re.match(rf"{field}[\w.\[\]]* is ", error["message"])
    assert error["field" if path == "/infill" else "param"] == field
    assert error["code"] == (400 if path == "/infill" else None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"text": 1}], "input_extra[0].text is 1: "),
        ([{"text": ""}, {"filename": "a"}], "input_extra[1].text is missing; "),
        ([3], "input_extra[0] is 3: "),
        (3, "input_extra is 3: "),
    ],
)
def test_the_place_in_a_field_is_named(server: Serving, value: Any, said: str) -> None:
    """Also where the field itself is right."""
    response = server.post("/infill", {**HOLES["/infill"], "input_extra": value})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(said)


@pytest.mark.parametrize("path", FORMATS)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"\xff", b'{"stop": "\\ud800"}', b"[" * 9999]
)
def test_what_is_no_body_is_refused(server: Serving, path: str, body: bytes) -> None:
    """With a sentence, and the server goes on."""
    response = server.post(path, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*VIM, "n", "suffix", "seed", "until"]), inner, max_size=9
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_understood_or_refused(body: Any) -> None:
    """Nothing else comes out of a translator, whatever goes in."""
    sent = json.dumps(body).encode()
    for kind in FORMATS.values():
        found: Asked | Refusal
        try:
            found = kind.asked(sent, {})
        except Refusal as refusal:
            found = refusal
        if isinstance(found, Refusal):
            assert 400 <= found.status < 500
            assert "error" in kind.error(found)
        else:
            assert isinstance(found.prefix, str)


def test_paths_that_are_not_there(server: Serving) -> None:
    """404 and 405, in the shape of the nearest format."""
    assert server.client.get("/v1/chat/completions").json()["error"]["param"] is None
    assert server.client.get("/completion").json()["error"]["code"] == 404
    assert server.client.get("/infill").status_code == 405


def test_what_a_client_asks_before(server: Serving) -> None:
    """Health, properties and models, as llama.cpp and OpenAI have them."""
    assert server.client.get("/health").json()["status"] == "ok"
    assert server.client.get("/props").json()["default_generation_settings"]["n_ctx"] == 2048
    assert server.client.get("/v1/models").json()["data"][0]["id"] == "scripted"
    assert server.client.get("/ready").json()["ready"]
