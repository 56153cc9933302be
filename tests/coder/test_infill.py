"""A hole in, a middle out: budget, determinism, candidates, context."""

from __future__ import annotations

import heapq
import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from talaria.coder import checkpoint
from talaria.coder.bounds import UNTIL, Bound, Until
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint, Decoding
from talaria.coder.errors import UsageError
from talaria.coder.infill import (
    MODES,
    Candidate,
    Frame,
    Hole,
    Infill,
    Interruption,
    Mode,
    Options,
    _Course,
    fit_context,
    fit_prefix,
    infill,
    infill_batch,
)
from talaria.coder.sampler import Row, Step, allow
from talaria.coder.source import Piece
from talaria.coder.syntax.functions import find_function
from talaria.coder.syntax.judge import OutOfTimeError, Surroundings, Verdict, compiles, judge
from talaria.coder.tokenizer import Tokenizer

# What a random model writes is no code, and would be cut to nothing.
raw = partial(Options, check_syntax=False)

SETTLED = Options().settled(Decoding())

PREFIX, SUFFIX = "def mean(values):\n    total = ", "\n    return total\n"
FRESH = "def mean(values):\n    total = 0\n    "  # no token at its end that may go on


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_seed_gives_the_same_text(
    model: Checkpoint, mode: str, temperature: float
) -> None:
    """And, where chance has a say, another seed another one."""
    options = [raw(mode=mode, temperature=temperature, seed=s) for s in (1, 1, 2)]  # type: ignore[arg-type]
    first, again, other = (infill(model, PREFIX, SUFFIX, o).best.text for o in options)
    assert first == again
    assert (first == other) == (temperature == 0)


def test_a_model_has_settings_of_its_own(model: Checkpoint) -> None:
    """They hold where nothing else is asked for, and the same ones given say the same."""
    for decoding in (Decoding(0.0, 4, 128), Decoding(1.0, 4, 128), Decoding(1.0, 8, 3)):
        other = replace(model, config={**model.config, "decoding": asdict(decoding)})
        own = infill(other, PREFIX, SUFFIX, raw(max_tokens=8))
        given = infill(model, PREFIX, SUFFIX, raw(max_tokens=8, **asdict(decoding)))
        assert (own.best, own.nfe) == (given.best, given.nfe)
        asked = infill(other, PREFIX, SUFFIX, raw(max_tokens=8, **asdict(Decoding())))
        assert asked.best == infill(model, PREFIX, SUFFIX, raw(max_tokens=8)).best
        assert own.nfe <= decoding.max_nfe


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@given(
    max_nfe=st.integers(1, 40), max_tokens=st.integers(1, 64), candidates=st.sampled_from([1, 3])
)
def test_budgets_are_kept(
    model: Checkpoint, mode: str, max_nfe: int, max_tokens: int, candidates: int
) -> None:
    """Neither evaluations nor tokens exceed what was allowed, and every step is in the trace."""
    seen: list[Frame] = []
    if candidates > max_nfe == 1:
        with pytest.raises(UsageError, match="ranking"):
            raw(candidates=candidates, max_nfe=max_nfe)
        return
    options = raw(mode, candidates, max_nfe, max_tokens)  # type: ignore[arg-type]
    result = infill(model, PREFIX, SUFFIX, options, seen.append)
    assert 1 <= result.nfe <= max_nfe
    assert len(result.best.tokens) <= max_tokens
    assert seen == result.frames
    assert all(token < model.tokenizer.mask for token in result.best.tokens)


CODE = [
    "def area(width, height):\n    return width * height\n",
    "import json\n\n\ndef load(path):\n    with open(path) as file:\n"
    "        return json.load(file)\n",
    "class Counter:\n    def __init__(self, start=0):\n        self.value = start\n\n"
    "    def increment(self):\n        self.value += 1\n        return self.value\n",
    "def evens(numbers):\n    found = []\n    for number in numbers:\n"
    "        if number % 2 == 0:\n            found.append(number)\n    return found\n",
    "from pathlib import Path\n\nroot = Path('.')\nfor path in root.glob('*.py'):\n"
    "    text = path.read_text()\n    print(path.name, len(text))\n",
    "try:\n    value = int(text)\nexcept ValueError:\n    value = None\nprint(value)\n",
    "names = ['ada', 'grace']\nfor index, name in enumerate(names):\n    print(index, name)\n"
    "total = sum(len(name) for name in names)\nassert total > 0\n",
    'def read(path, lines=10):\n    """The first lines of a file."""\n    result = []\n'
    "    for line in open(path):\n        if len(result) == lines:\n            break\n"
    "        result.append(line.rstrip())\n    return result\n",
]


def holes_of(code: str, above: str) -> list[Hole]:
    """A hole for each line of a text: the line itself, or its second half."""
    lines = code.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines):
        given = line[: len(line) // 2] if number % 2 else ""
        found.append(Hole(above + "".join(lines[:number]) + given, "".join(lines[number + 1 :])))
    return [hole for hole in found if hole.prefix]


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_greedy_texts_are_the_same_at_every_batch_size(mode: str) -> None:
    """With the shipped model, contexts of 10 to 200 tokens side by side: text, nfe and end."""
    shipped = checkpoint.load()
    holes = [
        hole
        for number, code in enumerate(CODE)
        for hole in holes_of(code, "".join(CODE[:number]) if number % 4 == 3 else "")
    ]
    assert len(holes) >= 36
    options = raw(mode=mode, max_nfe=16, max_tokens=16)  # type: ignore[arg-type]
    found = {
        size: [
            (each.best.text, each.best.stopped, each.nfe, each.context_tokens)
            for start in range(0, len(holes), size)
            for each in infill_batch(shipped, holes[start : start + size], options)
        ]
        for size in (1, 4, 16)
    }
    assert found[4] == found[1]
    assert found[16] == found[1]
    lengths = [context for *_, context in found[1]]
    assert min(lengths) < 20
    assert max(lengths) > 150


@given(
    data=st.data(),
    max_tokens=st.integers(1, 40),
    lengths=st.lists(st.one_of(st.none(), st.integers(0, 70)), min_size=1, max_size=4),
)
def test_verified_drafts_are_the_text_of_ar(
    model: Checkpoint, data: Any, max_tokens: int, lengths: list[int | None]
) -> None:
    """Token for token, whatever the holes and whatever stands beside them, in no more steps."""
    cut = st.integers(1, len(PREFIX + SUFFIX) - 1)
    text = PREFIX + SUFFIX
    holes = []
    for length in lengths:
        place = data.draw(cut)
        holes.append(Hole(text[:place], text[place:], length=length))
    verified = infill_batch(model, holes, raw("verify", max_tokens=max_tokens))
    for hole, found in zip(holes, verified, strict=True):
        (expected,) = infill_batch(model, [hole], raw("ar", max_tokens=max_tokens))
        assert found.best.tokens == expected.best.tokens
        assert found.best.stopped == expected.best.stopped
        assert found.nfe <= expected.nfe


def test_the_shipped_model_verifies_in_fewer_steps() -> None:
    """The texts of `ar`, on code that it was not trained on, with a fifth fewer evaluations."""
    shipped = checkpoint.load()
    holes = [hole for code in CODE for hole in holes_of(code, "")]
    spent = {}
    texts = {}
    for mode in ("verify", "ar"):
        found = infill_batch(shipped, holes, raw(mode, max_tokens=32))
        spent[mode] = sum(each.nfe for each in found)
        texts[mode] = [each.best.text for each in found]
    assert texts["verify"] == texts["ar"]
    assert spent["verify"] < 0.8 * spent["ar"]


def test_verifying_is_greedy(model: Checkpoint) -> None:
    """More candidates or chance have no one text to verify; a budget ends it as it ends ar."""
    for more in ({"candidates": 2}, {"temperature": 0.5}):
        with pytest.raises(UsageError, match="--mode verify writes one middle"):
            raw("verify", **more)
    found = infill(model, PREFIX, SUFFIX, raw("verify", max_nfe=2))
    assert (found.nfe, found.best.stopped) == (2, "max_nfe")


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("max_nfe", [7, 60])
def test_a_hole_beside_others_is_filled_as_alone(
    model: Checkpoint, mode: str, candidates: int, max_nfe: int
) -> None:
    """With chance, candidates, several canvases, given lengths and budgets that run out."""
    options = raw(
        mode,  # type: ignore[arg-type]
        candidates,
        max_nfe,
        max_tokens=30,
        temperature=0.8,
        confidence_threshold=0.2,
    )
    lengths = (None, 20, 0, None, 8, 64, 100)
    holes = [
        Hole(PREFIX * (1 + seed % 3), SUFFIX[seed:], seed, length)
        for seed, length in enumerate(lengths)
    ]
    together = infill_batch(model, holes, options)
    for hole, beside in zip(holes, together, strict=True):
        (alone,) = infill_batch(model, [hole], options)
        assert [c.tokens for c in beside.candidates] == [c.tokens for c in alone.candidates]
        assert [c.stopped for c in beside.candidates] == [c.stopped for c in alone.candidates]
        assert beside.nfe == alone.nfe <= max_nfe
        shown = [(frame.canvas, frame.rows) for frame in beside.frames]
        assert shown == [(frame.canvas, frame.rows) for frame in alone.frames]
        committed = [frame.step.committed.sum(1).tolist() for frame in beside.frames]
        assert committed == [frame.step.committed.sum(1).tolist() for frame in alone.frames]


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@settings(max_examples=20)
@given(length=st.integers(0, 64), temperature=st.sampled_from([0.0, 1.0]))
def test_a_given_length_is_kept(
    model: Checkpoint, mode: str, length: int, temperature: float
) -> None:
    """To the token, over several canvases, whatever `max_tokens` says."""
    options = raw(mode, max_tokens=4, temperature=temperature)  # type: ignore[arg-type]
    (found,) = infill_batch(model, [Hole(PREFIX, SUFFIX, length=length)], options)
    assert len(found.best.tokens) == length
    assert found.best.stopped == "length"
    assert all(token < model.tokenizer.mask for token in found.best.tokens)
    assert found.nfe <= length + length // model.denoiser.config.block_length


def test_a_given_length_beyond_the_model_is_cut_off(model: Checkpoint) -> None:
    """At half of its context, or where the budget ends; nonsense is refused."""
    (found,) = infill_batch(model, [Hole(PREFIX, SUFFIX, length=65)], raw(max_nfe=200))
    assert (len(found.best.tokens), found.best.stopped) == (64, "max_tokens")
    (found,) = infill_batch(model, [Hole(PREFIX, SUFFIX, length=30)], raw("ar", max_nfe=9))
    assert (len(found.best.tokens), found.best.stopped) == (9, "max_nfe")
    assert infill_batch(model, [], raw()) == []
    with pytest.raises(UsageError, match="length is -1"):
        Hole(PREFIX, SUFFIX, length=-1)


def test_the_longest_middle_is_kept_also_where_the_canvas_ends() -> None:
    """An `<eom>` behind the limit does not lift it; seen with the shipped model."""
    shipped = checkpoint.load()
    prefix = "class A:\n    def __init__(self, name):\n        "
    free = infill(shipped, prefix, "\n", raw())
    assert free.best.stopped == "eom"
    assert len(free.best.tokens) >= 2
    cut = infill(shipped, prefix, "\n", raw(max_tokens=1))
    assert (len(cut.best.tokens), cut.best.stopped) == (1, "max_tokens")


def test_a_middle_may_run_over_several_canvases(model: Checkpoint) -> None:
    """A canvas that fills up without `<eom>` becomes context for the next one."""
    for seed in range(20):
        result = infill(model, PREFIX, SUFFIX, raw(temperature=1.0, max_tokens=64, seed=seed))
        if result.frames[-1].canvas > 0:
            break
    assert result.frames[-1].canvas > 0
    assert len(result.best.tokens) >= model.denoiser.config.block_length
    steps = len(result.frames)
    assert result.nfe == steps + result.frames[-1].canvas


def test_candidates_are_distinct_and_ranked(model: Checkpoint) -> None:
    """Duplicates are merged; the model's own score decides the order."""
    result = infill(model, PREFIX, SUFFIX, raw(candidates=4, seed=3))
    texts = [c.text for c in result.candidates]
    scores = [c.score for c in result.candidates]
    assert len(texts) == len(set(texts)) >= 2
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    greedy = infill(model, PREFIX, SUFFIX, raw(candidates=4, temperature=0))
    assert len(greedy.candidates) == 1


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.9])
def test_a_candidate_is_what_its_seed_gives_alone(
    model: Checkpoint, mode: str, threshold: float
) -> None:
    """Row n of a batch is the request with seed + n, also where rows end at different steps."""
    for seed in range(0, 30, 3):
        one, many = (
            raw(
                mode,  # type: ignore[arg-type]
                count,
                max_tokens=48,
                temperature=0.8,
                confidence_threshold=threshold,
                seed=seed,
            )
            for count in (1, 3)
        )
        batch = infill(model, PREFIX, SUFFIX, many)
        alone = [infill(model, PREFIX, SUFFIX, replace(one, seed=seed + n)) for n in range(3)]
        assert {c.text for c in batch.candidates} == {a.best.text for a in alone}


def by_hand(model: Checkpoint, context: list[int], said: list[int]) -> torch.Tensor:
    """Log-probabilities at every position of a canvas of masks, once those before it are said."""
    mask = model.tokenizer.mask
    _, cache = model.denoiser.encode([context])
    hidden = model.denoiser.denoise(torch.tensor([[mask] * len(said)]), cache)
    linked, _ = model.denoiser.chain(hidden, torch.tensor([[mask, *said[:-1]]]), ())
    logits = model.denoiser.logits(torch.cat((hidden[0, :1], linked[0, 1:])))
    logits[:, model.tokenizer.mask] = -torch.inf
    logits[:, model.tokenizer.eom + 1 :] = -torch.inf
    return logits.log_softmax(-1)


def test_the_model_reads_suffix_prefix_and_finished_canvases(model: Checkpoint) -> None:
    """The first step of every canvas is what a reading of all before it gives."""
    tokenizer = model.tokenizer
    assert fit_context(tokenizer, FRESH, SUFFIX, 100) == [
        *(tokenizer.suf, *tokenizer.encode(SUFFIX)),
        *(tokenizer.pre, *tokenizer.encode(FRESH), tokenizer.mid),
    ]
    for seed in range(40):
        options = raw(temperature=1.0, max_tokens=64, seed=seed)
        result = infill(model, FRESH, SUFFIX, options)
        if result.frames[-1].canvas > 0:
            break
    block = model.denoiser.config.block_length
    context = fit_context(tokenizer, FRESH, SUFFIX, 128 - 64)
    firsts = [next(f for f in result.frames if f.canvas == n) for n in (0, 1)]
    for number, frame in enumerate(firsts):
        read = context + result.best.tokens[: number * block]
        ids, confidence = frame.step.canvas.ids[0], frame.step.confidence[0]
        probabilities = by_hand(model, read, ids.tolist()).exp()
        for place in frame.step.committed[0].nonzero().flatten().tolist():
            expected = probabilities[place, ids[place]]
            torch.testing.assert_close(confidence[place], expected, rtol=1e-3, atol=1e-5)


def test_pieces_of_other_files_stand_first(model: Checkpoint) -> None:
    """As in training; they take a third of the room at most, and the last one is kept longest."""
    tokenizer = model.tokenizer
    one, two = Piece("pkg/a.py", "x = 1\n" * 3), Piece("pkg/b.py", "y = 2\n")
    bare = fit_context(tokenizer, FRESH, SUFFIX, 300)
    first, second = (
        [*tokenizer.file_header(piece.path), *tokenizer.encode(piece.text)] for piece in (one, two)
    )
    assert fit_context(tokenizer, FRESH, SUFFIX, 300, (one, two)) == [*first, *second, *bare]
    tight = 3 * len(second) + 3 + 2
    assert fit_context(tokenizer, FRESH, SUFFIX, tight, (one, two))[: len(second)] == second
    assert len(fit_context(tokenizer, FRESH, SUFFIX, tight, (one, two))) <= tight
    assert fit_context(tokenizer, FRESH, SUFFIX, 20, (one, two))[0] == tokenizer.suf
    alone = infill(model, FRESH, SUFFIX, raw())
    beside = infill(model, FRESH, SUFFIX, raw(max_tokens=8), files=(two,))
    assert beside.context_tokens == len(fit_context(tokenizer, FRESH, SUFFIX, 120, (two,)))
    assert beside.context_tokens > alone.context_tokens


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_how_sure_a_suggestion_is(model: Checkpoint, mode: str) -> None:
    """A probability for each token and the end; their product says how sure all of it is."""
    options = raw(mode=mode, max_tokens=20, confidence_threshold=0.3)  # type: ignore[arg-type]
    found = infill(model, PREFIX, SUFFIX, options)
    sure = found.probabilities(found.best)
    assert len(sure) >= len(found.best.tokens)
    assert all(0 < p <= 1 for p in sure)
    assert 0 < found.confidence(found.best) <= min(sure)


def test_scores_are_those_of_an_uncached_reading(model: Checkpoint) -> None:
    """The mean log-probability of each token after all before it, its `<eom>` included."""
    options = raw(candidates=4, temperature=1.0, confidence_threshold=0.3, max_tokens=48)
    result = infill(model, FRESH, SUFFIX, options)
    context = fit_context(model.tokenizer, FRESH, SUFFIX, 128 - 48)
    for candidate in result.candidates:
        ends = [*candidate.tokens, *[model.tokenizer.eom] * (candidate.stopped == "eom")]
        hidden, _ = model.denoiser.encode([context + ends[:-1]])
        logs = model.denoiser.logits(hidden)[0].log_softmax(-1)[len(context) - 1 :]
        expected = float(logs[range(len(ends)), ends].mean())
        assert candidate.score == pytest.approx(expected, rel=1e-3)


def test_an_end_forced_by_the_budget_is_no_eom(model: Checkpoint) -> None:
    """What the last step had to commit says nothing about where the middle ends."""
    options = raw(max_nfe=1, confidence_threshold=0.999)
    assert infill(model, PREFIX, SUFFIX, options).best.stopped == "max_nfe"


def test_no_position_lies_beyond_those_of_training(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canvas is whole, however short a middle may be."""
    seen: list[int] = []
    real = model.denoiser.evaluate

    def evaluate(ids: Tensor, positions: Tensor, *rest: Any, **others: Any) -> Any:
        seen.append(int(positions.max()))
        return real(ids, positions, *rest, **others)

    monkeypatch.setattr(model.denoiser, "evaluate", evaluate)
    for max_tokens in (1, 7, 9, 64):
        infill(model, PREFIX * 30, SUFFIX * 30, raw(max_tokens=max_tokens, temperature=1.0))
    assert max(seen) < model.denoiser.config.context_length


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
     ("confidence_threshold", 1.5), ("lookahead", 0), ("candidates", 1000), ("candidates", 1.5),
     ("candidates", None), ("max_tokens", 10.5), ("seed", 1.5), ("seed", True), ("max_nfe", "3"),
     ("temperature", "0")],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """With the name and the value; exit code 2."""
    with pytest.raises(UsageError, match=str(value)):
        raw(**{field: value})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def offers() -> list[tuple[Hole, Infill, Infill]]:
    """What the shipped model writes into many holes, without and with a look at syntax."""
    shipped = checkpoint.load()
    holes = [hole for code in CODE for hole in holes_of(code, "")]
    sides = [
        infill_batch(shipped, holes, Options(max_tokens=48, check_syntax=check))
        for check in (False, True)
    ]
    return list(zip(holes, *sides, strict=True))


def test_nothing_offered_adds_a_syntax_error(offers: list[tuple[Hole, Infill, Infill]]) -> None:
    """What was clean is as it was; what was not is mended, cut or not offered."""
    broken = mended = 0
    for hole, plain, checked in offers:
        assert judge(hole.prefix, checked.best.text, hole.suffix).clean
        assert checked.syntax.clean
        if plain.syntax.clean:
            assert (checked.best, checked.nfe) == (plain.best, plain.nfe)
        else:
            broken += 1
            mended += checked.best.stopped == "eom"
            # A second attempt may fill its canvas and go on in another one.
            same = checked.frames[-1].canvas == plain.frames[-1].canvas
            assert checked.nfe <= plain.nfe + 2 * 8 or not same
    assert broken >= 5
    assert mended >= 2


def test_a_batch_is_mended_as_each_alone(offers: list[tuple[Hole, Infill, Infill]]) -> None:
    """Text, end and cost."""
    shipped = checkpoint.load()
    for hole, _, checked in offers[::3]:
        (alone,) = infill_batch(shipped, [hole], Options(max_tokens=48))
        assert alone.best == checked.best
        assert alone.nfe == checked.nfe


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_what_cannot_be_mended_is_cut(
    offers: list[tuple[Hole, Infill, Infill]], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """To a beginning of what was written, the longest without an error among its last tokens."""
    monkeypatch.setattr("talaria.coder.infill.MENDS", 0)
    shipped = checkpoint.load()
    cut = 0
    for hole, *_ in offers[::2]:
        whole, part = (
            infill_batch(shipped, [hole], Options(mode, max_tokens=16, check_syntax=check))[0].best  # type: ignore[arg-type]
            for check in (False, True)
        )
        assert whole.tokens[: len(part.tokens)] == part.tokens
        if part.stopped == "syntax":
            cut += 1
            lead = len(shipped.tokenizer.last_token(hole.prefix))
            longer = (
                shipped.tokenizer.decode(whole.tokens[:n])[lead:] for n in range(len(whole.tokens))
            )
            clean = [text for text in longer if judge(hole.prefix, text, hole.suffix).clean]
            assert part.text == max((t for t in clean if t.strip()), key=len, default="")
    assert cut >= 2


def test_a_long_middle_is_cut_at_the_end_of_a_line(model: Checkpoint) -> None:
    """Also where the tokenizer takes the line break and the indentation as one token."""
    shipped = checkpoint.load()
    lines = ["total = 0", "for value in values:", "    total += value", "x = (", *["y = 1"] * 12]
    tokens = shipped.tokenizer.encode("\n    ".join(lines))
    assert len(tokens) > 40
    hole = Hole("def mean(values):\n    ", "\n\n\nprint(mean([1, 2]))\n")
    course = _Course(hole, SETTLED, 64, shipped, None, None, lambda: False)
    course.middles[0] = list(tokens)
    course.trim(None)
    assert course.text(course.middles[0]) == "\n    ".join(lines[:3])
    assert course.stopped == ["syntax"]


@pytest.mark.parametrize(
    ("prefix", "last"),
    [
        ("for i in ra", " ra"),
        ("    return f(", "("),
        ("    return ", " "),
        ("x = 1\n", ""),
        ("def f():\n    ", ""),
        ("def f():\n ", ""),
        (" ", ""),
        ("s = '\ufffd", ""),
        ("x = 1  ", ""),
        ("s = '\U0001f600", ""),  # the last token is a part of it
        ("", ""),
    ],
)
def test_what_may_go_on(prefix: str, last: str) -> None:
    """Words, signs, the blank between them; not indentation, line breaks, parts of characters."""
    assert checkpoint.load().tokenizer.last_token(prefix) == last


@pytest.mark.parametrize("mode", MODES)
def test_a_word_that_was_begun_is_finished(mode: Mode) -> None:
    """As the tokenizer has it whole; what stands there is repeated by a token, not in the text."""
    shipped = checkpoint.load()
    hole = Hole("def area(width, height):\n    return wid", "\n")
    lead = shipped.tokenizer.last_token(hole.prefix)
    (found,) = infill_batch(shipped, [hole], Options(mode, max_tokens=16))
    assert found.best.text.startswith("th")
    assert shipped.tokenizer.decode(found.best.tokens) == lead + found.best.text
    assert {frame.healed for frame in found.frames} == {lead}
    so_far = {frame.canvas: frame.text(0, shipped.tokenizer) for frame in found.frames}
    assert "".join(so_far.values()).startswith("th")


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_tokens_that_only_repeat_are_not_counted(mode: Mode) -> None:
    """What stands before the hole may be chosen as it is: then it is no token of the middle."""
    shipped = checkpoint.load()
    prefix = "def add(a, b):\n    return ("
    best = infill(shipped, prefix, "\n", raw(mode, max_tokens=8)).best
    assert shipped.tokenizer.decode(best.tokens[:1]) == shipped.tokenizer.last_token(prefix)
    assert best.repeats
    assert best.length == len(best.tokens) - 1
    for prefix, text, length in (("x = f(", "", 0), ("for i in ra", "nge", 1)):
        best = infill(shipped, prefix, "\n", raw(mode, max_tokens=1)).best
        assert (len(best.tokens), best.text, best.length) == (1, text, length)


def test_the_first_token_is_scored_among_those_that_could_stand_there() -> None:
    """Else candidates would pay, by their length, for what was not theirs to choose."""
    shipped = checkpoint.load()
    prefix, options = "def area(width, height):\n    return wid", raw(candidates=4, max_tokens=8)
    found = infill(shipped, prefix, "\n", options)
    tokenizer = shipped.tokenizer
    healed = tokenizer.last_token(prefix)
    context = fit_context(tokenizer, prefix.removesuffix(healed), "\n", 512 - 32)
    among = tokenizer.beginning_with(healed)
    for candidate in found.candidates:
        ends = [*candidate.tokens, *[tokenizer.eom] * (candidate.stopped == "eom")]
        hidden, _ = shipped.denoiser.encode([context + ends[:-1]])
        logits = shipped.denoiser.logits(hidden)[0, len(context) - 1 :]
        logs = logits.log_softmax(-1)[range(len(ends)), ends]
        logs[0] = logits[0, among].log_softmax(0)[among.index(ends[0])]
        assert candidate.score == pytest.approx(float(logs.mean()), rel=1e-3)


def test_a_bound_behind_a_token_that_is_chosen_anew() -> None:
    """It counts the text of the middle, not what the first token repeats."""
    shipped = checkpoint.load()
    for prefix in ("def area(width, height):\n    return wid", "total = sum("):
        for until in UNTIL:
            best = infill(shipped, prefix, "\n", Options(until=until, max_tokens=16)).best
            bound = Bound(until, prefix)
            end = bound.end(best.text)
            assert end is None or end == len(best.text)


def test_a_banned_first_token_gives_way(tokenizer: Tokenizer) -> None:
    """To another that begins in the same way; where there is none, it stays."""
    canvas = Canvas.blank(2, 4, tokenizer.mask, tokenizer.eom, torch.device("cpu"))
    generator = torch.Generator()
    rows = [
        Row(generator, 9, banned=((0, 5),), first=[5, 6]),
        Row(generator, 9, banned=((0, 5),), first=[5]),
    ]
    logits = torch.zeros(8, tokenizer.vocab_size)
    allow(canvas.open, logits, canvas, rows)
    assert [row.isfinite().nonzero().flatten().tolist() for row in logits[::4]] == [[6], [5]]
    assert logits[1, : tokenizer.mask].isfinite().all()


@given(prefix=st.text(alphabet="ab (=\n", max_size=12), seed=st.integers(0, 5))
def test_the_prefix_stays_as_it_is(model: Checkpoint, prefix: str, seed: int) -> None:
    """Whatever is drawn, the tokens are those of the prefix's last one and the text behind it."""
    options = raw(temperature=1.0, seed=seed, max_tokens=6, confidence_threshold=0.1)
    best = infill(model, prefix, SUFFIX, options).best
    assert model.tokenizer.decode(best.tokens) == model.tokenizer.last_token(prefix) + best.text


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_the_first_of_several_candidates_is_the_likeliest(mode: Mode) -> None:
    """What is written alone is among them; at a temperature that is given, all are drawn."""
    shipped = checkpoint.load()
    for hole in holes_of(CODE[4], "")[1::2]:
        one = infill(shipped, hole.prefix, hole.suffix, raw(mode, max_tokens=24))
        some = infill(shipped, hole.prefix, hole.suffix, raw(mode, 4, max_tokens=24))
        assert one.best.text in [candidate.text for candidate in some.candidates]
        drawn = replace(raw(mode, 4, max_tokens=24), temperature=5.0)
        hot = infill(shipped, hole.prefix, hole.suffix, drawn)
        assert one.best.text not in [candidate.text for candidate in hot.candidates]


@pytest.mark.parametrize("max_nfe", [1, 2, 3, 40])
def test_doubtful_tokens_are_chosen_again(model: Checkpoint, max_nfe: int) -> None:
    """In the steps that are left, those below the bar alone; ends and sure ones stay."""
    taken = 0
    for seed in range(8):
        options = raw(max_nfe=max_nfe, max_tokens=8, temperature=1.0, seed=seed)
        plain = infill(model, PREFIX, SUFFIX, options)
        again = infill(model, PREFIX, SUFFIX, replace(options, remask=0.5))
        assert again.nfe <= max_nfe
        first = [frame.step for frame in again.frames[: plain.nfe] if frame.canvas == 0]
        whole = first[-1].canvas
        sure = torch.zeros(whole.ids.shape)
        for step in first:
            sure = torch.where(step.committed, step.confidence, sure)
        doubtful = (sure < 0.5) & (whole.ids != whole.mask) & (whole.ids != whole.eom)
        assert (again.nfe > plain.nfe) == (bool(doubtful.any()) and plain.nfe < max_nfe)
        last = again.frames[-1].step.canvas
        kept = ~doubtful & (torch.arange(whole.ids.shape[1]) < last.ended[:, None])
        assert torch.equal(last.ids[kept], whole.ids[kept])
        taken += again.nfe > plain.nfe
    assert taken >= 4 or max_nfe < 40


def test_half_a_character_is_cut_off(model: Checkpoint) -> None:
    """What the bytes of a sign leave that are not all there is no text to offer."""
    shipped = checkpoint.load()
    tokens = shipped.tokenizer.encode("total = '\N{GRINNING FACE}'")
    half = next(
        n for n in range(len(tokens)) if shipped.tokenizer.decode(tokens[:n]).endswith("\ufffd")
    )
    course = _Course(Hole("x = 1\n", "'\n"), SETTLED, 64, shipped, None, None, lambda: False)
    course.middles[0] = tokens[:half]
    course.trim(None)
    assert course.text(course.middles[0]) == "total = '"


def after(steps: int) -> Callable[[], Interruption | None]:
    """A deadline that passes when it was asked about so many times."""
    left = iter(range(steps))
    return lambda: None if next(left, None) is not None else "deadline"


def test_what_was_cut_to_nothing_comes_last() -> None:
    """Of several candidates, while another one says something; so too at a deadline."""
    shipped, emptied = checkpoint.load(), 0
    for hole in holes_of(CODE[2], "") + holes_of(CODE[7], ""):
        for steps in (None, 2, 3):
            options = Options(candidates=4, max_tokens=24, max_nfe=40)
            found = infill(
                *(shipped, hole.prefix, hole.suffix, options),
                interrupted=after(steps or 1000),
            )
            empty = [not c.text and c.stopped != "eom" for c in found.candidates]
            assert empty == sorted(empty)
            emptied += any(empty) and not all(empty)
    assert emptied >= 2


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_lengthens_nothing(model: Checkpoint, mode: Mode) -> None:
    """Not beyond `max_tokens`; and what was complete then did not stop at the deadline."""
    shipped = checkpoint.load()
    for steps in range(1, 6):
        options = Options(mode, max_tokens=2, confidence_threshold=0.2, check_syntax=False)
        hole = holes_of(CODE[2], "")[3]
        found = infill(
            *(shipped, hole.prefix, hole.suffix, options),
            interrupted=after(steps),
        )
        assert len(found.best.tokens) <= 2
        assert found.best.stopped in ("deadline", "max_tokens", "eom")
        assert (found.best.stopped == "max_tokens") <= (len(found.best.tokens) == 2)


def test_what_was_tried_in_vain_makes_nothing_less_sure(tokenizer: Tokenizer) -> None:
    """The probabilities of a middle are those of the canvas that was kept."""
    blank = Canvas.blank(1, 4, tokenizer.mask, tokenizer.eom, torch.device("cpu"))

    def committed(canvas: Canvas, ids: list[int], sure: list[float]) -> Step:
        written = torch.tensor([ids])
        return Step(
            replace(canvas, ids=written),
            (canvas.ids == tokenizer.mask) & (written != tokenizer.mask),
            torch.tensor([sure]),
            torch.tensor([False]),
        )

    mask = tokenizer.mask
    first = committed(blank, [5, 6, tokenizer.eom, mask], [0.9, 0.8, 0.7, 0.1])
    again = replace(blank, ids=torch.tensor([[5, mask, mask, mask]]))
    vain = committed(again, [5, 7, 8, tokenizer.eom], [0.0, 0.3, 0.2, 0.1])
    frames = [Frame(0, [0], step) for step in (first, vain, Step.taken_back(first.canvas))]
    best = Candidate("ab", [5, 6], "eom", None, 0)
    found = Infill([best], 2, 1.0, 1, 0, Verdict(0, 0), frames)
    assert found.probabilities(best) == pytest.approx([0.9, 0.8, 0.7])


def test_an_end_that_a_bound_put_is_not_mended(model: Checkpoint) -> None:
    """To forbid it would change nothing: the bound would put it there again."""
    shipped = checkpoint.load()
    hole = Hole("def f(values):\n    total = sum(", "\n    return total\n")
    course = _Course(hole, replace(SETTLED, until="line"), 64, shipped, None, None, lambda: False)
    assert course.healed == "("
    tokens = shipped.tokenizer.encode("(values")
    assert course.text(tokens) == "values"
    sure = [0.9, *[0.5] * (len(tokens) - 1), 0.1]
    assert course.doubtful(0, tokens, sure) == len(tokens)
    within = course.within(0, [*tokens, *shipped.tokenizer.encode("\nx")])
    assert within == len(tokens)
    assert course.doubtful(0, tokens, sure) == 1


@pytest.mark.parametrize("max_nfe", [1, 3, 10])
def test_mending_keeps_the_budget(model: Checkpoint, max_nfe: int) -> None:
    """Also that of a model whose every middle is broken, with candidates."""
    for candidates in (1, 2):
        nfe = max(max_nfe, candidates)
        options = Options(candidates=candidates, max_nfe=nfe, max_tokens=20)
        found = infill(model, PREFIX, SUFFIX, options)
        assert found.nfe <= nfe
        assert all(judge(PREFIX, c.text, SUFFIX).clean for c in found.candidates)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("until", UNTIL)
def test_a_middle_ends_with_its_bound(model: Checkpoint, mode: Mode, until: Until) -> None:
    """Whatever the model would go on to say; from left to right, nothing within is lost."""
    ended = 0
    for seed in range(60):
        prefix = f"def mean(values{seed}):\n    "
        hot = None if mode == "verify" else 1.5
        options = raw(mode=mode, temperature=hot, seed=seed, max_tokens=48)
        free = infill(model, prefix, SUFFIX, options).best
        found = infill(model, prefix, SUFFIX, replace(options, until=until)).best
        end = Bound(until, prefix).end(free.text)
        ended += found.stopped == "bound"
        if mode == "diffuse":  # which may commit behind the bound before it is reached
            assert Bound(until, prefix).end(found.text) in (None, len(found.text))
        else:
            assert found.text == free.text[:end]
            assert (found.stopped == "bound") == (end is not None)
    assert ended or mode == "verify"


def test_an_opened_block_gets_its_body_where_it_must_be_complete() -> None:
    """What lacks it is denoised on from its end, unless a bound put the end there."""
    shipped = checkpoint.load()
    hole = Hole("def f(values):\n    ", "\n    return values\n")
    tokens = shipped.tokenizer.encode("if values:")
    chances = [0.1] * len(tokens) + [0.9]
    for options, place in (
        (Options(), None),
        (Options(complete=True), len(tokens)),
        (Options(complete=True, until="line"), 0),
    ):
        course = _Course(hole, options.settled(Decoding()), 64, shipped, None, None, lambda: False)
        if options.until:
            course.within(0, [*tokens, *shipped.tokenizer.encode("\n    x")])
        assert course.doubtful(0, tokens, chances) == place


def test_complete_bodies_break_no_file() -> None:
    """Whatever the model leaves open is written on or cut; some are written on."""
    shipped = checkpoint.load()
    text = inspect.getsource(heapq)
    bodies = [find_function(text, name) for name in re.findall(r"^def (\w+)", text, re.MULTILINE)]
    holes = [Hole(text[: body.start], text[body.end :]) for body in bodies]
    options = Options(max_tokens=64, until="block")
    free, whole = (
        infill_batch(shipped, holes, replace(options, complete=complete))
        for complete in (False, True)
    )
    opened = mended = 0
    for hole, typed, written in zip(holes, free, whole, strict=True):
        if written.best.text:
            assert compiles(hole.prefix + written.best.text + hole.suffix)
        if not judge(hole.prefix, typed.best.text, hole.suffix, complete=True).clean:
            opened += 1
            mended += bool(written.best.text)
    assert opened >= 2
    assert mended >= 1


@pytest.mark.parametrize("why", ["deadline", "cancelled"])
def test_a_look_at_the_syntax_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, why: Interruption
) -> None:
    """Once it is interrupted there is nothing to offer, and a deadline is not called an error."""
    monkeypatch.setattr("talaria.coder.infill.GRACE", -1)
    looking, shipped = False, checkpoint.load()

    def judge(self: Surroundings, middle: str) -> Verdict:
        nonlocal looking
        looking = True
        if self.out_of_time():
            raise OutOfTimeError
        raise AssertionError("it was looked at in vain")

    def interrupted() -> Interruption | None:
        return why if looking else None

    monkeypatch.setattr(Surroundings, "judge", judge)
    for mode in MODES:
        looking = False
        options, prefix = Options(mode, max_tokens=8), "def mean(values):\n    return "
        found = infill(shipped, prefix, "\n", options, interrupted=interrupted)
        assert looking
        assert found.best.text == ""
        assert found.best.stopped in ("deadline", "cancelled")
        assert found.syntax == Verdict(0, 0)


@pytest.mark.parametrize(
    ("stored", "given", "seen"), [(8, 2, 2), (2, None, 2), (2, 3, 3), (5, None, 5)]
)
def test_a_step_looks_as_far_as_was_asked_for(
    model: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    stored: int,
    given: int | None,
    seen: int,
) -> None:
    """By the options, else by the model's own settings: the first step sees so many masks."""
    looked: list[int] = []
    real = model.denoiser.denoise

    def denoise(canvas: Tensor, *more: Any) -> Tensor:
        looked.append(canvas.shape[1])
        return real(canvas, *more)

    monkeypatch.setattr(model.denoiser, "denoise", denoise)
    decoding = asdict(Decoding(lookahead=stored))
    other = replace(model, config={**model.config, "decoding": decoding})
    infill(other, PREFIX, SUFFIX, raw(max_tokens=8, lookahead=given))
    assert looked[0] == seen


@pytest.mark.parametrize(
    ("prefix", "middle", "place"), [("x = isinstance", ")", 1), ("x = f(", "= y", 0)]
)
def test_a_first_token_without_alternatives_is_not_mended(
    prefix: str, middle: str, place: int
) -> None:
    """It would be put there again: the next one in the error is taken up, however sure it is."""
    shipped = checkpoint.load()
    hole, settled = Hole(prefix, "\n"), Options().settled(Decoding())
    course = _Course(hole, settled, 64, shipped, None, None, lambda: False)
    lead = shipped.tokenizer.last_token(prefix)
    assert course.first is not None
    assert (len(course.first) == 1) == bool(place)
    tokens = [*shipped.tokenizer.encode(lead), *shipped.tokenizer.encode(middle)]
    chances = [0.1] + [0.9] * len(tokens)
    assert course.doubtful(0, tokens, chances) == place
