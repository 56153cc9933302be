"""A hole in, a middle out: budget, determinism, candidates, context."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder import checkpoint
from coder.checkpoint import Checkpoint
from coder.errors import UsageError
from coder.infill import Frame, Options, fit_context, fit_prefix, infill
from coder.tokenizer import Tokenizer

PREFIX, SUFFIX = "def mean(values):\n    total = ", "\n    return total\n"


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_seed_gives_the_same_text(
    model: Checkpoint, mode: str, temperature: float
) -> None:
    """And, where chance has a say, another seed another one."""
    options = [Options(mode=mode, temperature=temperature, seed=s) for s in (1, 1, 2)]  # type: ignore[arg-type]
    first, again, other = (infill(model, PREFIX, SUFFIX, o).best.text for o in options)
    assert first == again
    assert (first == other) == (temperature == 0)


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@given(max_nfe=st.integers(1, 40), max_tokens=st.integers(1, 64))
def test_budgets_are_kept(model: Checkpoint, mode: str, max_nfe: int, max_tokens: int) -> None:
    """Neither evaluations nor tokens exceed what was allowed, and every step is in the trace."""
    seen: list[Frame] = []
    options = Options(mode=mode, max_nfe=max_nfe, max_tokens=max_tokens)  # type: ignore[arg-type]
    result = infill(model, PREFIX, SUFFIX, options, seen.append)
    assert 1 <= result.nfe <= max_nfe
    assert len(result.best.tokens) <= max_tokens
    assert seen == result.frames
    assert all(token < model.tokenizer.mask for token in result.best.tokens)


def test_the_longest_middle_is_kept_also_where_the_canvas_ends() -> None:
    """An `<eom>` behind the limit does not lift it; seen with the shipped model."""
    shipped = checkpoint.load()
    prefix = "class A:\n    def __init__(self, name):\n        self."
    free = infill(shipped, prefix, "\n", Options())
    assert free.best.stopped == "eom"
    assert len(free.best.tokens) >= 2
    cut = infill(shipped, prefix, "\n", Options(max_tokens=1))
    assert (len(cut.best.tokens), cut.best.stopped) == (1, "max_tokens")


def test_a_middle_may_run_over_several_canvases(model: Checkpoint) -> None:
    """A canvas that fills up without `<eom>` becomes context for the next one."""
    for seed in range(20):
        result = infill(model, PREFIX, SUFFIX, Options(temperature=1.0, max_tokens=64, seed=seed))
        if result.frames[-1].canvas > 0:
            break
    assert result.frames[-1].canvas > 0
    assert len(result.best.tokens) >= model.denoiser.config.block_length
    steps = len(result.frames)
    assert result.nfe == steps + result.frames[-1].canvas


def test_candidates_are_distinct_and_ranked(model: Checkpoint) -> None:
    """Duplicates are merged; the model's own score decides the order."""
    result = infill(model, PREFIX, SUFFIX, Options(candidates=4, seed=3))
    texts = [c.text for c in result.candidates]
    scores = [c.score for c in result.candidates]
    assert len(texts) == len(set(texts)) >= 2
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    greedy = infill(model, PREFIX, SUFFIX, Options(candidates=4, temperature=0))
    assert len(greedy.candidates) == 1


def test_a_candidate_is_what_its_seed_gives_alone(model: Checkpoint) -> None:
    """Row n of a batch is the request with seed + n."""
    batch = infill(model, PREFIX, SUFFIX, Options(candidates=3, temperature=0.8, seed=5))
    alone = [infill(model, PREFIX, SUFFIX, Options(temperature=0.8, seed=5 + n)) for n in range(3)]
    assert {c.text for c in batch.candidates} == {a.best.text for a in alone}


@given(text=st.text(alphabet="ab (\n", max_size=3000), room=st.integers(4, 90))
def test_the_context_fits(tokenizer: Tokenizer, text: str, room: int) -> None:
    """Whatever the file, the layout stays within its room."""
    assert len(fit_context(tokenizer, text, text, room)) <= room
    ids = fit_prefix(tokenizer, text, room)
    assert text.endswith(tokenizer.decode(ids))


def test_typing_moves_the_cut_of_the_prefix_seldom(tokenizer: Tokenizer) -> None:
    """Or a cache of the context would be of no use."""
    text = "value = compute(first, second)\n" * 60
    room = 80
    typed = [fit_prefix(tokenizer, text + "a b " * n, room) for n in range(60)]
    moved = sum(one[:5] != other[:5] for one, other in pairwise(typed))
    assert moved <= 60 * 4 / (room // 4) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_nfe", 0), ("candidates", 0), ("temperature", -1), ("seed", -1), ("mode", "fast"),
     ("confidence_threshold", 1.5), ("candidates", 1000)],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """With the name and the value; exit code 2."""
    with pytest.raises(UsageError, match=str(value)):
        Options(**{field: value})  # type: ignore[arg-type]
