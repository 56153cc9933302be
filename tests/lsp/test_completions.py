"""The wire format of completion endpoints: any bytes are read or rejected, never anything else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from talaria.lsp import completions
from talaria.lsp.completions import MalformedResponse, ResponseReader


@given(
    st.integers(0, completions.PREFIX_CHARACTERS * 3),
    st.integers(0, completions.SUFFIX_CHARACTERS * 3),
)
def test_the_window(before: int, after: int) -> None:
    """A long prefix keeps its end and a long suffix its start, in whole lines."""
    line = "x = 'some text'\n"
    prefix, suffix = (line * 4000)[:before], (line * 1000)[:after]
    kept_prefix, kept_suffix = completions.window(prefix, suffix)
    assert prefix.endswith(kept_prefix)
    assert suffix.startswith(kept_suffix)
    assert len(kept_prefix) <= completions.PREFIX_CHARACTERS
    assert len(kept_suffix) <= completions.SUFFIX_CHARACTERS
    if before > completions.PREFIX_CHARACTERS:
        assert len(kept_prefix) > completions.PREFIX_CHARACTERS - completions.CUT_STEP - len(line)
        assert kept_prefix.startswith(line)
    if after > completions.SUFFIX_CHARACTERS:
        assert len(kept_suffix) > completions.SUFFIX_CHARACTERS - len(line)
        assert kept_suffix.endswith("\n")


def test_the_window_is_stable_while_typing() -> None:
    """The start of the prompt seldom moves, so that an endpoint can cache it."""
    code = "y = 1\n" * 5000
    begins = [completions.window(code[:size], "")[0][:100] for size in range(20_000, 23_000, 7)]
    starts = {
        size - len(completions.window(code[:size], "")[0]) for size in range(20_000, 24_000, 7)
    }
    assert len(set(begins)) == 1
    assert len(starts) <= 2
    # A text without lines is cut all the same.
    assert len(completions.window("x" * 50_000, "x" * 50_000)[0]) <= completions.PREFIX_CHARACTERS


@given(st.binary(max_size=200), st.sampled_from(["text/event-stream", "application/json"]))
def test_any_bytes_are_read_or_rejected(data: bytes, kind: str) -> None:
    """No input raises anything else."""
    answer = ResponseReader(kind)
    try:
        answer.feed(data)
        answer.end()
    except MalformedResponse:
        return
    assert answer.complete or kind != "text/event-stream"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(
                ["choices", "text", "delta", "message", "content", "finish_reason", "error"]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_object_is_read_or_rejected(said: object) -> None:
    """What is read is text, whatever types a response has."""
    try:
        found = completions.text_of(said)
    except MalformedResponse:
        return
    assert found is None or isinstance(found[0], str)
