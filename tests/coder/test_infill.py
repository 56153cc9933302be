"""A hole in, a middle out: budget, determinism, candidates, context."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.backbone import Array, Constraint
from talaria.coder.bounds import Bound
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.request import MODES, UNTIL, Mode, Options, Request, Settings, Until
from talaria.coder.results import Frame, Interruption
from talaria.coder.source import Piece
from talaria.coder.syntax.judge import Verdict
from talaria.coder.unmask import Prediction
from tests.coder.holes import CODE, FRESH, PREFIX, SUFFIX, holes_of, raw
from tests.scripted import (
    SETTINGS,
    ScriptedBackbone,
    checkpoint_of,
    script,
    scripted,
    scripted_by,
)

TINY = Settings(max_tokens=32, working_context=128, block_length=8)  # of the small random model


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_seed_gives_the_same_text(
    model: Checkpoint, mode: Mode, temperature: float
) -> None:
    """And, where chance has a say, another seed another one."""
    options = [raw(mode, temperature=temperature, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (infill(model, PREFIX, SUFFIX, o).best.text for o in options)
    assert first == again
    assert (first == other) == (temperature == 0)


def test_a_model_has_settings_of_its_own(model: Checkpoint) -> None:
    """They hold where nothing else is asked for, and the same ones given say the same."""
    names = ("confidence_threshold", "lookahead", "max_nfe")
    assert model.settings == TINY
    for values in ((0.0, 4, 128), (1.0, 4, 128), (1.0, 8, 3)):
        chosen: dict[str, Any] = dict(zip(names, values, strict=True))
        other = replace(model, settings=replace(TINY, **chosen))
        own = infill(other, PREFIX, SUFFIX, raw(max_tokens=8))
        given_ = infill(model, PREFIX, SUFFIX, raw(max_tokens=8, **chosen))
        assert (own.best, own.nfe) == (given_.best, given_.nfe)
        usual: dict[str, Any] = {name: getattr(TINY, name) for name in names}
        asked = infill(other, PREFIX, SUFFIX, raw(max_tokens=8, **usual))
        assert asked.best == infill(model, PREFIX, SUFFIX, raw(max_tokens=8)).best
        assert own.nfe <= chosen["max_nfe"]


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@given(
    max_nfe=st.integers(1, 40), max_tokens=st.integers(1, 64), candidates=st.sampled_from([1, 3])
)
def test_budgets_are_kept(
    model: Checkpoint, mode: Mode, max_nfe: int, max_tokens: int, candidates: int
) -> None:
    """Neither evaluations nor tokens exceed what was allowed, and every step is in the trace."""
    seen: list[Frame] = []
    if candidates > max_nfe == 1:
        with pytest.raises(UsageError, match="ranking"):
            raw(candidates=candidates, max_nfe=max_nfe)
        return
    options = raw(mode, candidates, max_nfe, max_tokens)
    result = fill(model, Request(PREFIX, SUFFIX, options), seen.append)
    assert 1 <= result.nfe <= max_nfe
    assert len(result.best.tokens) <= max_tokens
    assert seen == result.frames
    assert not set(result.best.tokens) & {*model.marks.never, model.marks.eom}


def test_a_text_is_written_in_every_mode(tokenizer: TalariaTokenizer) -> None:
    """The same one, over as many canvases as it takes."""
    text = "".join(f"x{number} = {number}\n    " for number in range(30)) + "return total"
    assert len(tokenizer.encode(text)) > 3 * SETTINGS.block_length
    long = replace(SETTINGS, max_tokens=1000)
    for mode in MODES:
        model = scripted(tokenizer, [text], long)
        found = infill(model, FRESH, "\n", Options(mode, max_nfe=1000))
        assert (found.best.text, found.best.stopped) == (text, "eom")
        assert found.best.tokens == tokenizer.encode(text)
        assert isinstance(model.backbone, ScriptedBackbone)
        assert model.backbone.evaluations == found.nfe + 1  # and the prefill
        canvases = found.frames[-1].canvas
        assert canvases == (len(found.best.tokens) // 64 if mode == "diffuse" else 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_middle_is_not_indentation_alone(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """At the beginning of a line; but it may be empty where nobody asked for it."""
    indent, rest = tokenizer.encode("    "), tokenizer.encode("return x")
    says = [{token: 1.0} for token in indent]
    says += [{tokenizer.eom: 0.9, rest[0]: 0.09}, *({token: 1.0} for token in rest[1:])]
    model = checkpoint_of(tokenizer, {(): says}, SETTINGS)
    options = Options(mode=mode, check_syntax=False, abstain=True)
    assert infill(model, "def f(x):\n", "\n", options).best.text == "    return x"
    nothing = checkpoint_of(tokenizer, {(): [{tokenizer.eom: 1.0}]}, SETTINGS)
    assert infill(nothing, "def f(x):\n", "\n", options).best.text == ""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefix", ["x = 1\n", "f(x)\n", "", "if x:\n    y = 1\n    "])
def test_a_line_that_is_asked_for_is_not_blank(
    tokenizer: TalariaTokenizer, mode: Mode, prefix: str
) -> None:
    """Also where the first token repeats the end of the prefix; unasked, it may be."""
    first, *rest = tokenizer.encode("y = 2")
    healed = tokenizer.encode(tokenizer.last_token(prefix))
    says = [{token: 1.0} for token in healed]
    says += [{tokenizer.eom: 0.9, first: 0.09}, *({token: 1.0} for token in rest)]
    model = checkpoint_of(tokenizer, {(): says}, SETTINGS)
    assert infill(model, prefix, "\nz = 3\n", Options(mode=mode)).best.text == "y = 2"
    assert infill(model, prefix, "\nz = 3\n", Options(mode=mode, abstain=True)).best.text == ""
    assert infill(model, "x = 1", "\nz = 3\n", Options(mode=mode)).best.text == ""  # no new line


@pytest.mark.parametrize("mode", MODES)
def test_what_repeats_the_suffix_is_the_end(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """Also of a model that ends its middles, and where it ends right behind the repeated line."""
    prefix, suffix = "def f(x):\n", "    result = first_function(second_argument, third)\n"
    options = Options(mode=mode, max_nfe=1000)
    for after in ("", "\n", "\n    more = 1\n"):
        model = scripted(tokenizer, [f"    x = 1\n{suffix.rstrip()}{after}"])
        found = infill(model, prefix, suffix, options)
        assert (found.best.text, found.best.stopped) == ("    x = 1\n", "suffix")
        few = infill(model, prefix, suffix, replace(options, max_tokens=6))
        assert len(few.best.tokens) <= 6
    deeper = scripted(tokenizer, [f"    if x:\n    {suffix}"])
    assert infill(deeper, prefix, suffix, options).best.text == f"    if x:\n    {suffix}"
    short = scripted(tokenizer, ["    x = 1\n    result = 2\n"])
    found = infill(short, prefix, "    result = 2\n", options)
    assert found.best.text == "    x = 1\n    result = 2\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_middle_between_lines_ends_its_own(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """Where the next line would be joined to it in error; where there is none, nothing is added."""
    options = Options(mode=mode)
    model = scripted(tokenizer, ["    y = x"])
    assert infill(model, "def f(x):\n", "    return y\n", options).best.text == "    y = x\n"
    assert infill(model, "def f(x):\n", "\n    return y\n", options).best.text == "    y = x"
    unchecked = Options(mode=mode, check_syntax=False)
    assert infill(model, "def f(x):\n", "    return y\n", unchecked).best.text == "    y = x"


@pytest.mark.parametrize("mode", MODES)
def test_what_a_file_lacks_is_written(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """A middle is not empty where Python needs something; elsewhere it may be, unasked."""
    indent, rest = tokenizer.encode("    "), tokenizer.encode("pass")
    says = [{tokenizer.eom: 0.9, indent[0]: 0.09}]
    says += [{token: 1.0} for token in (*indent[1:], *rest)]
    model = checkpoint_of(tokenizer, {(): says}, SETTINGS)
    options = Options(mode=mode, abstain=True)
    assert infill(model, "if x:\n", "while y:\n    z()\n", options).best.text == "    pass\n"
    assert infill(model, "x = 1\n", "y = 1\n", options).best.text == ""


@pytest.mark.parametrize("mode", ["ar", "verify"])
@pytest.mark.parametrize(
    ("begins", "goes_on", "text", "stopped"),
    [
        ("    y = (x", " + 1)", "    y = (x + 1)\n", "eom"),
        ("    y = (x", " + (1", "", "syntax"),
        ("    y = x\n    z = (x", ")", "    y = x", "syntax"),  # what is sound is enough
    ],
)
def test_an_end_that_breaks_the_file_is_taken_back(
    tokenizer: TalariaTokenizer, mode: Mode, begins: str, goes_on: str, text: str, stopped: str
) -> None:
    """A model that writes from left to right goes on, if that helps."""
    first, (second, *rest) = tokenizer.encode(begins), tokenizer.encode(goes_on)
    says = [{token: 1.0} for token in first]
    says += [{tokenizer.eom: 0.9, second: 0.09}, *({token: 1.0} for token in rest)]
    model = checkpoint_of(tokenizer, {(): says}, SETTINGS)
    found = infill(model, "def f(x):\n", "    return x\n", Options(mode=mode))
    assert (found.best.text.rstrip("\n"), found.best.stopped) == (text.rstrip("\n"), stopped)
    both = [Request("def f(x):\n", "    return x\n", Options(mode=mode))] * 2
    assert [each.best for each in fill_batch(model, both)] == [found.best] * 2


def test_a_causal_model_writes_no_canvas(
    tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for what it can do, or refused with that."""
    model = scripted(tokenizer, ["return total"])
    monkeypatch.setattr(model.backbone, "denoises", False)
    with pytest.raises(UsageError, match=r"--mode is diffuse.*scripted is a causal.*verify or ar"):
        infill(model, FRESH, "\n", Options())
    modes: tuple[Mode, ...] = ("verify", "ar")
    for mode in modes:
        assert infill(model, FRESH, "\n", Options(mode)).best.text == "return total"


def test_a_rule_may_be_given(tokenizer: TalariaTokenizer) -> None:
    """It replaces the threshold, and sees as many candidates as are asked for."""
    seen: list[int] = []

    def one_by_one(prediction: Prediction) -> Array:
        seen.extend(candidates.ids.shape[1] for _, candidates in prediction.parts)
        return prediction.leftmost

    model = scripted(tokenizer, ["x = 1"])
    request = Request(FRESH, "\n", Options(confidence_threshold=0))
    found = fill(model, request, rule=one_by_one, k=20)
    assert (found.best.text, found.nfe) == ("x = 1", len(tokenizer.encode("x = 1")) + 1)
    assert set(seen) == {20}


def test_the_longest_middle_is_kept_also_where_the_canvas_ends(
    tokenizer: TalariaTokenizer,
) -> None:
    """An `<eom>` behind the limit does not lift it."""
    model = scripted(tokenizer, ["self.items = []"])
    free = infill(model, FRESH, "\n", raw())
    assert free.best.stopped == "eom"
    assert len(free.best.tokens) >= 2
    cut = infill(model, FRESH, "\n", raw(max_tokens=1))
    assert (len(cut.best.tokens), cut.best.stopped) == (1, "max_tokens")


def test_more_tokens_than_the_model_has_room_for_are_refused(model: Checkpoint) -> None:
    """With the limit."""
    with pytest.raises(UsageError, match="--max-tokens is 65; this model's limit is 64"):
        infill(model, PREFIX, SUFFIX, Options(max_tokens=65))


def test_a_middle_may_run_over_several_canvases(model: Checkpoint) -> None:
    """A canvas that fills up without `<eom>` becomes context for the next one."""
    for seed in range(20):
        result = infill(model, PREFIX, SUFFIX, raw(temperature=1.0, max_tokens=64, seed=seed))
        if result.frames[-1].canvas > 0:
            break
    assert result.frames[-1].canvas > 0
    assert len(result.best.tokens) >= model.settings.block_length
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


def by_hand(model: Checkpoint, context: list[int], said: list[int]) -> list[float]:
    """Probabilities of the tokens of a canvas of masks, each once those before it are said."""
    mask, backbone = model.marks.mask, model.backbone
    _, cache = backbone.encode([context])
    states = backbone.denoise(np.array([[mask] * len(said)]), cache, context[-1:])
    linked, _ = backbone.chain(states, np.array([[mask, *said[:-1]]]), ())
    found = backbone.candidates(np.concatenate((states[0, :1], linked[0, 1:])), 10_000)
    return [
        float(np.exp(logs[ids.tolist().index(token)]))
        for token, ids, logs in zip(said, found.ids, found.log_probabilities, strict=True)
    ]


def test_the_model_reads_suffix_prefix_and_finished_canvases(model: Checkpoint) -> None:
    """The first step of every canvas is what a reading of all before it gives."""
    for seed in range(40):
        options = raw(temperature=1.0, max_tokens=64, seed=seed, abstain=True)
        result = infill(model, FRESH, SUFFIX, options)
        if result.frames[-1].canvas > 0:
            break
    block = model.settings.block_length
    context = model.layout.fit(FRESH, SUFFIX, 128 - 64)
    assert result.context_tokens == len(context)
    firsts = [next(f for f in result.frames if f.canvas == n) for n in (0, 1)]
    for number, frame in enumerate(firsts):
        before = context + result.best.tokens[: number * block]
        ids, confidence = frame.step.canvas.ids[0], frame.step.confidence[0]
        probabilities = by_hand(model, before, ids.tolist())
        for place in np.flatnonzero(frame.step.committed[0]).tolist():
            assert confidence[place] == pytest.approx(probabilities[place], rel=1e-3, abs=1e-5)


def test_other_files_are_read_too(model: Checkpoint) -> None:
    """As much of them as the layout has room for."""
    piece = Piece("pkg/b.py", "y = 2\n")
    alone = infill(model, FRESH, SUFFIX, raw())
    beside = infill(model, FRESH, SUFFIX, raw(max_tokens=8), files=(piece,))
    assert beside.context_tokens == len(model.layout.fit(FRESH, SUFFIX, 120, (piece,)))
    assert beside.context_tokens > alone.context_tokens


def score_of(model: Checkpoint, context: list[int], ends: list[int], first: Constraint) -> float:
    """The mean log-probability of each token after all before it, read at once without a cache."""
    states, _ = model.backbone.encode([context + ends[:-1]])
    constraints = [first, *[Constraint()] * (len(ends) - 1)]
    logs = model.backbone.log_probabilities(
        states[0, len(context) - 1 :], np.array(ends), constraints
    )
    return float(logs.mean())


def test_scores_are_those_of_an_uncached_reading(model: Checkpoint) -> None:
    """Of a middle's tokens, its `<eom>` included."""
    options = raw(candidates=4, temperature=1.0, confidence_threshold=0.3, max_tokens=48)
    result = infill(model, FRESH, SUFFIX, options)
    context = model.layout.fit(FRESH, SUFFIX, 128 - 48)
    assert len(result.candidates) > 1
    for candidate in result.candidates:
        ends = [*candidate.tokens, *[model.marks.eom] * (candidate.stopped == "eom")]
        expected = score_of(model, context, ends, Constraint())
        assert candidate.score == pytest.approx(expected, rel=1e-3)


def test_the_first_token_is_scored_among_those_that_could_stand_there(model: Checkpoint) -> None:
    """Else candidates would pay, by their length, for what was not theirs to choose."""
    prefix, options = "print(ind", raw(candidates=4, max_tokens=8)
    found = infill(model, prefix, "\n", options)
    healed = model.tokenizer.last_token(prefix)
    among = model.tokenizer.beginning_with(healed)
    assert len(among) > 1
    assert len(found.candidates) > 1
    context = model.layout.fit(prefix.removesuffix(healed), "\n", 128 - 8)
    for candidate in found.candidates:
        ends = [*candidate.tokens, *[model.marks.eom] * (candidate.stopped == "eom")]
        expected = score_of(model, context, ends, Constraint(among))
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
    real = model.backbone.evaluate

    def evaluate(ids: Array, positions: Array, *rest: Any, **others: Any) -> Any:
        seen.append(int(positions.max()))
        return real(ids, positions, *rest, **others)

    monkeypatch.setattr(model.backbone, "evaluate", evaluate)
    for max_tokens in (1, 7, 9, 64):
        infill(model, PREFIX * 30, SUFFIX * 30, raw(max_tokens=max_tokens, temperature=1.0))
    assert 100 < max(seen) < model.settings.working_context


@pytest.mark.golden
@pytest.mark.parametrize("mode", MODES)
def test_a_word_that_was_begun_is_finished(mode: Mode) -> None:
    """As the tokenizer has it whole; what stands there is repeated by a token, not in the text."""
    shipped = checkpoint.load()
    request = Request(
        "def area(width, height):\n    return wid", "\n", Options(mode, max_tokens=16)
    )
    lead = shipped.tokenizer.last_token(request.prefix)
    found = fill(shipped, request)
    assert found.best.text.startswith("th")
    assert shipped.tokenizer.decode(found.best.tokens) == lead + found.best.text
    assert {frame.healed for frame in found.frames} == {lead}
    so_far = {frame.canvas: frame.text(0, shipped.tokenizer) for frame in found.frames}
    assert "".join(so_far.values()).startswith("th")


@pytest.mark.parametrize("mode", MODES)
def test_the_last_token_of_the_prefix_is_chosen_anew(
    tokenizer: TalariaTokenizer, mode: Mode
) -> None:
    """Among those that begin as it does; what stands before the hole is not said again."""
    prefix, (total,) = "    return tot", tokenizer.encode("total")
    assert tokenizer.last_token(prefix) == "tot"
    (plain,) = tokenizer.encode("tot")
    for chances, text, length in (
        ({total: 0.5, plain: 0.4}, "al", 1),
        ({plain: 0.5, total: 0.4}, "", 0),
        ({tokenizer.eom: 0.9, total: 0.05}, "al", 1),  # what begins otherwise may not stand there
    ):
        model = scripted_by(tokenizer, {(prefix, "\n"): [chances]})
        found = infill(model, prefix, "\n", raw(mode, max_tokens=8))
        assert found.best.text == text
        assert tokenizer.decode(found.best.tokens) == "tot" + text
        assert (found.best.length, found.best.repeats) == (length, not text)
        assert {frame.healed for frame in found.frames} == {"tot"}
        assert found.frames[-1].text(0, tokenizer) == text


def test_tokens_that_only_repeat_are_not_counted(tokenizer: TalariaTokenizer) -> None:
    """What stands before the hole may be chosen as it is: then it is no token of the middle."""
    prefix = "x = sum("
    said = script(tokenizer, ["values)"], tokenizer.last_token(prefix), 0.9)
    model = scripted_by(tokenizer, {(prefix, "\n"): said})
    modes: tuple[Mode, ...] = ("diffuse", "ar")
    for mode in modes:
        best = infill(model, prefix, "\n", raw(mode, max_tokens=8)).best
        assert tokenizer.decode(best.tokens[:1]) == tokenizer.last_token(prefix) == "("
        assert best.repeats
        assert (best.text, best.length) == ("values)", len(best.tokens) - 1)
        cut = infill(model, prefix, "\n", raw(mode, max_tokens=1)).best
        assert (len(cut.tokens), cut.text, cut.length) == (1, "", 0)


@given(prefix=st.text(alphabet="ab (=\n", max_size=12), seed=st.integers(0, 5))
def test_the_prefix_stays_as_it_is(model: Checkpoint, prefix: str, seed: int) -> None:
    """Whatever is drawn, the tokens are those of the prefix's last one and the text behind it."""
    options = raw(temperature=1.0, seed=seed, max_tokens=6, confidence_threshold=0.1)
    best = infill(model, prefix, SUFFIX, options).best
    assert model.tokenizer.decode(best.tokens) == model.tokenizer.last_token(prefix) + best.text


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_the_first_of_several_candidates_is_the_likeliest(model: Checkpoint, mode: Mode) -> None:
    """What is written alone is among them; at a temperature that is given, all are drawn."""
    for prefix, _, suffix in holes_of(CODE[4])[1::2]:
        one = infill(model, prefix, suffix, raw(mode, max_tokens=24))
        some = infill(model, prefix, suffix, raw(mode, 4, max_tokens=24))
        assert one.best.text in [candidate.text for candidate in some.candidates]
        drawn = replace(raw(mode, 4, max_tokens=24), temperature=5.0)
        hot = infill(model, prefix, suffix, drawn)
        assert one.best.text not in [candidate.text for candidate in hot.candidates]


# Bounds


TEXTS = [
    "x = (1,\n    2)\n    return x\n\n\ny = 2\n",
    "if x:\n        y = [\n1]\n    else:\n        y = 2\nz = 3\n",
    "return [x\n    for x in y]  # so\n    pass\nz = 4\n",
    "\n    x = 'a' +\\\n  b; y = 1\n\n    def f():\n        pass\nx",
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("until", UNTIL)
def test_a_middle_ends_with_its_bound(
    tokenizer: TalariaTokenizer, mode: Mode, until: Until
) -> None:
    """Whatever the model would go on to say; from left to right, nothing within is lost."""
    ended = 0
    for seed in range(12):
        prefix = f"def mean(values{seed}):\n    "
        # Where chance has a say, the texts are mixed token by token.
        model = scripted(tokenizer, TEXTS[seed % 4 :] + TEXTS[: seed % 4], sure=0.6)
        hot = None if mode == "verify" else 1.5
        options = raw(mode, temperature=hot, seed=seed, max_tokens=48)
        free = infill(model, prefix, SUFFIX, options).best
        found = infill(model, prefix, SUFFIX, replace(options, until=until)).best
        end = Bound(until, prefix).end(free.text)
        ended += found.stopped == "bound"
        if mode == "diffuse":  # which may commit behind the bound before it is reached
            assert Bound(until, prefix).end(found.text) in (None, len(found.text))
        else:
            assert found.text == free.text[:end]
            assert (found.stopped == "bound") == (end is not None)
    assert ended


BOUNDED = replace(SETTINGS, bounded=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_runs_on_is_stopped(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """With the line or the missing body, or where it repeats the suffix; the answer says which."""
    more = "    return total\n\n\nprint(mean([1, 2]))\n" * 3
    cases = [
        (
            "def mean(values):\n    total = 0\n    ",
            "total += 1\n" + more,
            "\nx",
            "total += 1",
            "bound",
        ),
        (
            "def mean(values):\n    ",
            "total = 1\n" + more,
            "",
            "total = 1\n    return total",
            "bound",
        ),
        ("x = 0\n", "x = total(1, 2)\ny = 2\n", "\nx = total(1, 2)\n", "", "suffix"),
    ]
    options = raw(mode, max_tokens=48)
    for prefix, text, suffix, wanted, stopped in cases:
        model = scripted(tokenizer, [text], BOUNDED)
        found = infill(model, prefix, suffix, options).best
        assert (found.text, found.stopped) == (wanted, stopped)
        free = infill(scripted(tokenizer, [text]), prefix, suffix, options).best
        assert free.text.startswith(text[:30])


@pytest.mark.parametrize("mode", ["verify", "ar"])
def test_a_bound_takes_nothing_from_the_confidence(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """The model has no say in an end that a bound puts; only its tokens count."""
    model = scripted(tokenizer, ["total += 1\n    return total\n"], BOUNDED)
    found = infill(model, "def mean(values):\n    total = 0\n    ", "\nx", raw(mode, max_tokens=48))
    best = found.best
    assert (best.text, best.stopped) == ("total += 1", "bound")
    sure = found.probabilities(best)[: len(best.tokens)]
    assert len(sure) == len(best.tokens)
    assert found.confidence(best) == pytest.approx(math.prod(sure))
    assert found.confidence(best) > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_replaced_lines_end_where_the_suffix_begins(
    tokenizer: TalariaTokenizer, mode: Mode
) -> None:
    """Inside a token if need be; what is written behind it is left out."""
    prefix, after = (
        "def f(values):\n    ",
        "print(values, sum(values))\n    return sum(values) / 2\n",
    )
    model = scripted(tokenizer, [f"x = 1\n    y = 2\n    {after}    z = 3\n"], BOUNDED)
    request = Request(prefix, f"\n    {after}", raw(mode, max_tokens=96), replaces="a\n    b")
    found = fill(model, request).best
    assert (found.text, found.stopped) == ("x = 1\n    y = 2", "suffix")


@pytest.mark.parametrize("mode", MODES)
def test_a_bound_behind_a_token_that_is_chosen_anew(
    tokenizer: TalariaTokenizer, mode: Mode
) -> None:
    """It counts the text of the middle, not what the first token repeats."""
    prefix = "def f(values):\n    total = sum("
    text = "values)\n    return total\n\n\nx = 1\n"
    said = script(tokenizer, [text], tokenizer.last_token(prefix), 0.9)
    model = scripted_by(tokenizer, {(prefix, "\n"): said})
    for until, expected in (
        ("line", "values)"),
        ("statement", "values)"),
        ("block", "values)\n    return total"),
    ):
        best = infill(model, prefix, "\n", Options(mode, until=until)).best  # type: ignore[arg-type]
        assert (best.text, best.stopped) == (expected, "bound")
        assert Bound(until, prefix).end(best.text) in (None, len(best.text))  # type: ignore[arg-type]


# Deadlines


def after(steps: int) -> Callable[[], Interruption | None]:
    """A deadline that passes when it was asked about so many times."""
    left = iter(range(steps))
    return lambda: None if next(left, None) is not None else "deadline"


def test_what_was_cut_to_nothing_comes_last(tokenizer: TalariaTokenizer) -> None:
    """Of several candidates, while another one says something; so too at a deadline."""
    model = scripted(tokenizer, [")", "values"], sure=0.6)
    emptied = 0
    for seed in range(6):
        for steps in (None, *range(2, 12)):
            options = Options(candidates=4, max_tokens=24, max_nfe=40, seed=seed)
            request = Request("x = 1\n", "\n", options)
            found = fill(model, request, interrupted=after(steps or 1000))
            empty = [not c.text and c.stopped != "eom" for c in found.candidates]
            assert empty == sorted(empty)
            emptied += any(empty) and not all(empty)
    assert emptied >= 2


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_lengthens_nothing(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """Not beyond `max_tokens`; and what was complete then did not stop at the deadline."""
    stops = set()
    for text in ("total = 0", "items", "self.items"):
        model = scripted(tokenizer, [text])
        for steps in range(1, 7):
            options = Options(mode, max_tokens=2, lookahead=1, check_syntax=False)
            found = fill(model, Request(FRESH, "\n", options), interrupted=after(steps))
            assert len(found.best.tokens) <= 2
            assert found.best.stopped in ("deadline", "max_tokens", "eom")
            assert (found.best.stopped == "max_tokens") <= (len(found.best.tokens) == 2)
            stops.add(found.best.stopped)
    assert stops == {"deadline", "max_tokens", "eom"}


@pytest.mark.parametrize("mode", MODES)
def test_at_a_deadline_the_beginning_is_offered(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """What was committed up to the first open position, if it adds no error."""
    text = "total = sum(values)"
    for number, steps in enumerate((2, 3, 5)):
        options = Options(mode, lookahead=1)
        request = Request(FRESH, "\n", options)
        found = fill(scripted(tokenizer, [text]), request, interrupted=after(steps))
        assert found.best.stopped == "deadline"
        assert text.startswith(found.best.text)
        assert found.nfe == steps - 1
        assert found.syntax == Verdict(0, 0) or number  # what is broken is cut to nothing


@pytest.mark.parametrize(
    ("stored", "asked", "seen"), [(8, 2, 2), (2, None, 2), (2, 3, 3), (5, None, 5)]
)
def test_a_step_looks_as_far_as_was_asked_for(
    model: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    stored: int,
    asked: int | None,
    seen: int,
) -> None:
    """By the options, else by the model's own settings: the first step sees so many masks."""
    looked: list[int] = []
    real = model.backbone.denoise

    def denoise(canvas: Array, *more: Any) -> Any:
        looked.append(canvas.shape[1])
        return real(canvas, *more)

    monkeypatch.setattr(model.backbone, "denoise", denoise)
    other = replace(model, settings=replace(model.settings, lookahead=stored))
    infill(other, PREFIX, SUFFIX, raw(max_tokens=8, lookahead=asked))
    assert looked[0] == seen


# What may be written into a file


def test_candidates_that_must_not_be_written_say_why(tokenizer: TalariaTokenizer) -> None:
    """Each has the guard's answer, where one is to be written; nothing is left out."""
    model = scripted(tokenizer, ["x = 1", ""], sure=0.6)
    options = Options(candidates=16, complete=True, max_nfe=99, abstain=True)
    found = fill(model, Request(FRESH, "\n", options, replaces=""))
    said = {candidate.text: candidate.refused for candidate in found.candidates}
    assert said["x = 1"] is None
    assert said[""] == "the model has nothing to offer"
    typing = fill(model, Request(FRESH, "\n", options))  # is not to be written
    assert {candidate.refused for candidate in typing.candidates} == {None}
    broken = scripted(tokenizer, ["x = ("])
    unchecked = Options(complete=True, check_syntax=False)
    (only,) = fill(broken, Request(FRESH, "\n", unchecked, replaces="")).candidates
    assert only.refused == "what the model offers adds a syntax error ('x = (')"


@pytest.mark.parametrize(
    ("prefix", "text", "kept"),
    [
        ("print(", "print(value))", False),
        ("print(", "value)", True),
        ("import csv\nx = csv.", "Dict", False),
        ("import csv\nx = csv.", "DictReader", True),
    ],
)
def test_what_would_be_in_the_way_is_withheld(
    tokenizer: TalariaTokenizer, prefix: str, text: str, kept: bool
) -> None:
    """No command gets to see it, and it says why there is nothing; unless nothing is checked."""
    said = script(tokenizer, [text], tokenizer.last_token(prefix), 0.9)
    model = scripted_by(tokenizer, {(prefix, "\n"): said})
    best = infill(model, prefix, "\n").best
    wanted = (text, "eom") if kept else ("", "withheld")
    assert (best.text, best.stopped) == wanted
    assert infill(model, prefix, "\n", raw()).best.text == text


def test_an_unfinished_block_is_said_to_be_unfinished(tokenizer: TalariaTokenizer) -> None:
    """It may be offered while somebody types on; where it must be complete, it gets its body."""
    prefix, suffix = "def f():\n    return 1\n\n\n", "\n\n\nx = 1\n"
    model = scripted(tokenizer, ["def g():"])
    found = infill(model, prefix, suffix)
    assert found.best.text == "def g():"
    assert found.best.unfinished
    assert found.syntax.unfinished
    assert not found.syntax.clean
    complete = infill(model, prefix, suffix, Options(complete=True))
    assert not complete.syntax.unfinished
    assert not complete.best.unfinished
    assert "def g():" not in complete.best.text
