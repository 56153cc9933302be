"""Denoising ends, within its budget, and what is frozen stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.backbone import Array, Backbone, Candidates, Constraint, KVCache
from talaria.coder.canvas import Canvas
from talaria.coder.causal import autoregress, verify
from talaria.coder.drafts import DRAFTS, agreement, lookup, stops_of
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.sampler import (
    Row,
    Step,
    ahead,
    constraints,
    denoise,
)
from talaria.coder.unmask import Prediction, confidence_threshold
from tests.scripted import SETTINGS, ScriptedBackbone, checkpoint_of, scripted

CONTEXT = [5, 9, 33, 120, 7]
LAST = CONTEXT[-1]


def rows(*seeds: int, max_nfe: int = 50, ends: bool = True, temperature: float = 0.0) -> list[Row]:
    """A row for each seed."""
    return [
        Row(np.random.default_rng(seed), max_nfe, ends, temperature=temperature) for seed in seeds
    ]


def first_three(prediction: Prediction) -> Array:
    """A rule that commits three positions from the left."""
    three: Array = prediction.open & (np.cumsum(prediction.open, axis=1) <= 3)
    return three


@pytest.mark.parametrize("kind", ["backbone", "chainless_backbone"])
@given(
    max_nfe=st.integers(1, 12),
    threshold=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 1.0]),
    frozen=st.dictionaries(st.integers(0, 7), st.integers(0, 300), max_size=4),
)
def test_denoising_keeps_its_promises(
    request: pytest.FixtureRequest,
    kind: str,
    tokenizer: TalariaTokenizer,
    max_nfe: int,
    threshold: float,
    temperature: float,
    frozen: dict[int, int],
) -> None:
    """No mask remains before `<eom>`, steps keep the budget, frozen positions never change."""
    backbone: Backbone = request.getfixturevalue(kind)
    _, cache = backbone.encode([CONTEXT])
    canvas = Canvas.blank(1, 8, tokenizer.marks)
    for place, token in frozen.items():
        canvas.ids[0, place] = token
    steps = list(
        denoise(
            backbone,
            cache,
            [LAST],
            canvas,
            confidence_threshold(threshold),
            rows(1, max_nfe=max_nfe, temperature=temperature),
        )
    )
    assert 1 <= len(steps) <= max_nfe
    end = steps[-1].canvas
    assert not end.open.any()
    for step in steps:
        ended = int(step.canvas.ended[0])
        for place, token in frozen.items():
            assert place > ended or step.canvas.ids[0, place] == token
        assert (step.canvas.ids[0, ended + 1 :] == tokenizer.mask).all()
        written = step.canvas.ids[step.committed]
        assert not set(written.tolist()) & set(tokenizer.marks.never)
    if len(steps) < max_nfe:
        assert sum(int(step.committed.sum()) for step in steps) >= len(end.middle(0)) - len(frozen)


def chances_of(backbone: Backbone, states: Array, *forbidden: int) -> tuple[list[int], Array]:
    """The likeliest token at each state and its probability."""
    found = backbone.candidates(states, 1, [Constraint(forbidden=forbidden)] * len(states))
    return found.ids[:, 0].tolist(), np.exp(found.log_probabilities[:, 0])


def test_a_chain_says_each_token_in_sight_of_those_before(
    backbone: Backbone, tokenizer: TalariaTokenizer
) -> None:
    """A canvas of one evaluation is what the chain writes token by token, frozen ones included."""
    _, cache = backbone.encode([CONTEXT] * 2)
    canvas = Canvas.blank(2, 8, tokenizer.marks)
    canvas.ids[0, 2] = 77
    states = backbone.denoise(canvas.ids, cache, [LAST] * 2)
    both = rows(0, 1, ends=False)
    (step,) = denoise(backbone, cache, [LAST] * 2, canvas, confidence_threshold(0), both)
    for row in range(2):
        said = [tokenizer.mask]
        for place in range(8):
            linked, _ = backbone.chain(states[row : row + 1, : place + 1], np.array([said]), ())
            # The first is the pass's own.
            own = linked[0, -1:] if place else states[row, :1]
            (token,), chance = chances_of(backbone, own, tokenizer.eom)
            frozen = row == 0 and place == 2
            said.append(77 if frozen else token)
            if not frozen:
                np.testing.assert_allclose(step.confidence[row, place], chance[0], rtol=1e-4)
        assert step.canvas.ids[row].tolist() == said[1:]


def test_a_chain_goes_no_further_than_the_rule(
    backbone: Backbone, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for what is committed and one token more, but for the first."""
    asked: list[int] = []
    real = backbone.chain

    def chain(states: Array, *more: Any) -> Any:
        asked.append(states.shape[1])
        return real(states, *more)

    monkeypatch.setattr(backbone, "chain", chain)
    _, cache = backbone.encode([CONTEXT])
    canvas = Canvas.blank(1, 8, tokenizer.marks)
    steps = denoise(backbone, cache, [LAST], canvas, first_three, rows(0, ends=False))
    assert [int(step.committed.sum()) for step in steps] == [3, 3, 2]
    assert asked == [2, 1, 1, 5, 1, 1, 8]


@pytest.mark.parametrize("max_nfe", [1, 50])
def test_a_chain_stops_where_the_middle_ends(
    backbone: Backbone,
    tokenizer: TalariaTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    max_nfe: int,
) -> None:
    """Nothing is asked for behind `<eom>`, also in the last evaluation; other rows go on."""
    asked: list[int] = []
    real = backbone.candidates

    def ending(states: Array, k: int, *more: Any) -> Candidates:
        """Candidates of a model that ends the first row with its third token, no other."""
        found = real(states, k, [Constraint(forbidden=(tokenizer.eom,))] * len(states))
        if len(asked) == 2:
            found.ids[0, 0] = tokenizer.eom
        asked.append(len(states))
        return found

    monkeypatch.setattr(backbone, "candidates", ending)
    _, cache = backbone.encode([CONTEXT] * 2)
    canvas = Canvas.blank(2, 8, tokenizer.marks)
    both = rows(0, 1, max_nfe=max_nfe)
    (step,) = denoise(backbone, cache, [LAST] * 2, canvas, confidence_threshold(0), both)
    assert asked == [2, 2, 2, 1, 1, 1, 1, 1]
    assert step.canvas.ended.tolist() == [2, 8]
    assert (step.confidence > 0).sum(1).tolist() == [3, 8]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_batch_row_is_denoised_as_it_is_alone(
    backbone: Backbone, tokenizer: TalariaTokenizer, temperature: float
) -> None:
    """Candidates in one batch do not disturb each other, whatever the temperature of each."""
    rule = confidence_threshold(0.5)
    _, cache = backbone.encode([CONTEXT] * 3)
    blank = Canvas.blank(3, 8, tokenizer.marks)
    three = [*rows(1), *rows(2, 3, temperature=temperature)]
    *_, together = denoise(backbone, cache, [LAST] * 3, blank, rule, three)
    again = [*rows(1), *rows(2, 3, temperature=temperature)]
    for row in range(3):
        _, solo = backbone.encode([CONTEXT])
        blank = Canvas.blank(1, 8, tokenizer.marks)
        *_, alone = denoise(backbone, solo, [LAST], blank, rule, [again[row]])
        assert alone.canvas.middle(0) == together.canvas.middle(row)


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_ended_rows_cost_nothing(
    backbone: Backbone, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Rows with 3, 0, 1 and 2 open positions: the model sees only those that have one left."""
    seen: list[int] = []
    real = backbone.evaluate

    def evaluate(ids: Array, *more: Any, **others: Any) -> Any:
        seen.append(len(ids))
        return real(ids, *more, **others)

    contexts = [CONTEXT, CONTEXT[:2], [*CONTEXT, *CONTEXT], CONTEXT[1:]]
    _, cache = backbone.encode(contexts)
    last = [context[-1] for context in contexts]
    blank = Canvas.blank(4, 8, tokenizer.marks)
    canvas, four = blank.ending([3, 0, 1, 2]), rows(0, 1, 2, 3, ends=False)
    monkeypatch.setattr(backbone, "evaluate", evaluate)
    if mode == "diffuse":
        steps = list(denoise(backbone, cache, last, canvas, confidence_threshold(1), four))
    else:
        steps = list(autoregress(backbone, cache.without(np.ones(4, int)), contexts, canvas, four))
    assert seen == [3, 2, 1]
    took_part = [step.committed.any(1).tolist() for step in steps]
    assert took_part[1] == [True, False, False, True]
    assert [len(steps[-1].canvas.middle(row)) for row in range(4)] == [3, 0, 1, 2]


def test_each_row_has_a_budget_of_its_own(backbone: Backbone, tokenizer: TalariaTokenizer) -> None:
    """The row that may take two steps is finished in the second, by force; the other goes on."""
    _, cache = backbone.encode([CONTEXT] * 2)
    blank = Canvas.blank(2, 8, tokenizer.marks)
    both = [*rows(0, max_nfe=2, ends=False), *rows(1, ends=False)]
    steps: list[Step] = list(
        denoise(backbone, cache, [LAST] * 2, blank, confidence_threshold(1), both)
    )
    assert len(steps) == 8
    assert [step.forced.tolist() for step in steps[:3]] == [
        [False, False],
        [True, False],
        [False, False],
    ]
    assert not steps[1].canvas.open[0].any()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_the_length_is_given_no_eom_is_drawn(
    tokenizer: TalariaTokenizer, temperature: float
) -> None:
    """Neither before the frozen one nor in a canvas that has none, however likely it is."""
    eager = scripted(tokenizer, [""], sure=0.999).backbone
    context = [*CONTEXT, tokenizer.mid]
    _, cache = eager.encode([context] * 3)
    blank = Canvas.blank(3, 8, tokenizer.marks)
    three = [
        *rows(0, 1, ends=False, temperature=temperature),
        *rows(2, temperature=temperature),
    ]
    canvas = blank.ending([5, 9, None])
    rule = confidence_threshold(0.9)
    *_, last = denoise(eager, cache, [tokenizer.mid] * 3, canvas, rule, three)
    assert last.canvas.ended.tolist() == [5, 8, 0]
    assert [len(last.canvas.middle(row)) for row in range(3)] == [5, 8, 0]


def test_eom_remasks_what_follows(tokenizer: TalariaTokenizer) -> None:
    """What was committed after an `<eom>` becomes masks, and none of it is open."""
    canvas = Canvas.blank(1, 6, tokenizer.marks)
    late = np.array([[False, False, False, False, True, False]])
    canvas = canvas.commit(np.full((1, 6), 7), late)
    early = np.array([[False, False, True, False, False, False]])
    canvas = canvas.commit(np.full((1, 6), tokenizer.eom), early)
    assert canvas.ids[0].tolist() == [tokenizer.mask] * 2 + [tokenizer.eom] + [tokenizer.mask] * 3
    assert canvas.open[0].tolist() == [True, True, False, False, False, False]
    assert canvas.middle(0) == []


def test_autoregression_is_greedy_decoding(backbone: Backbone, tokenizer: TalariaTokenizer) -> None:
    """Token by token it writes what an uncached left-to-right reading predicts."""
    _, cache = backbone.encode([CONTEXT[:-1]])
    blank = Canvas.blank(1, 6, tokenizer.marks)
    *_, last = autoregress(backbone, cache, [CONTEXT], blank, rows(0, max_nfe=6))
    text = list(CONTEXT)
    for _ in range(6):
        states, _ = backbone.encode([text])
        (token,), _ = chances_of(backbone, states[0, -1:])
        text.append(token)
        if token == tokenizer.eom:
            break
    expected = text[len(CONTEXT) :]
    assert last.canvas.ids[0, : len(expected)].tolist() == expected


def test_a_step_looks_so_far_ahead(backbone: Backbone, tokenizer: TalariaTokenizer) -> None:
    """From the first open position on; None, or a row whose end is given, sees all of it."""
    blank = Canvas.blank(2, 8, tokenizer.marks)
    blank.ids[0, :2] = 7
    none = np.zeros(2, bool)
    assert ahead(blank, none, 3).sum(1).tolist() == [5, 3]
    assert ahead(blank, none, None).all()
    assert ahead(blank, np.array([False, True]), 3).sum(1).tolist() == [5, 8]
    _, cache = backbone.encode([CONTEXT] * 2)
    blank = Canvas.blank(2, 8, tokenizer.marks)
    for lookahead in (1, 3, None):
        both, rule = rows(0, 1), confidence_threshold(0)
        first = next(denoise(backbone, cache, [LAST] * 2, blank, rule, both, lookahead))
        assert int(first.committed.sum(1).max()) <= (lookahead or 8)
        assert not first.committed[:, lookahead or 8 :].any()


def test_a_banned_first_token_gives_way(backbone: Backbone, tokenizer: TalariaTokenizer) -> None:
    """To another that begins in the same way; where there is none, it stays."""
    canvas = Canvas.blank(2, 4, tokenizer.marks)
    generator = np.random.default_rng(0)
    both = [
        Row(generator, 9, banned=((0, 5),), first=[5, 6]),
        Row(generator, 9, banned=((0, 5),), first=[5]),
    ]
    states, _ = backbone.encode([CONTEXT + CONTEXT[:3]])
    found = backbone.candidates(states[0], 1000, constraints(canvas.open, canvas, both))
    possible = [
        sorted(ids[np.isfinite(logs)].tolist())
        for ids, logs in zip(found.ids, found.log_probabilities, strict=True)
    ]
    assert [possible[0], possible[4]] == [[6], [5]]
    assert set(possible[1]) == set(range(tokenizer.vocab_size)) - set(tokenizer.marks.never)


def test_rows_that_nothing_constrains_have_no_constraints(tokenizer: TalariaTokenizer) -> None:
    """None for all of them, so that a backbone can do without."""
    canvas = Canvas.blank(2, 4, tokenizer.marks)
    assert constraints(canvas.open, canvas, rows(0, 1)) is None
    found = constraints(canvas.open, canvas, rows(0, 1, ends=False))
    assert found == [Constraint(forbidden=(canvas.marks.eom,))] * 8


def test_drafts_are_what_followed_the_last_two_tokens(tokenizer: TalariaTokenizer) -> None:
    """Where they stood last, up to a mark or so many tokens; none where they never stood."""
    known = [1, 2, 3, 4, 5, 6, 7, 1, 2, 8, 9, 1, 2]
    assert lookup(known, tokenizer.marks) == [8, 9, 1, 2][:DRAFTS]
    assert lookup([1, 2, *range(3, 20), 1, 2], tokenizer.marks) == [*range(3, 20)][:DRAFTS]
    assert lookup([1, 2, 3, tokenizer.mid, 5, 1, 2], tokenizer.marks) == [3]
    assert lookup([1, 2, 3], tokenizer.marks) == lookup([1], tokenizer.marks) == []


def test_drafts_are_kept_as_far_as_they_are_right() -> None:
    """And no further than the model was asked."""
    assert agreement([3, 4, 5], [3, 4, 9, 7]) == 2
    assert agreement([3, 4, 5], [3, 4, 5, 7]) == 3
    assert agreement([3, 4, 5], [3]) == 0
    assert agreement([], [7]) == 0


def test_drafts_that_are_right_save_evaluations(tokenizer: TalariaTokenizer) -> None:
    """A text that the context has already is verified several tokens a time."""
    text = "total = sum(values)\n"
    model = scripted(tokenizer, [text])
    tokens = tokenizer.encode(text)
    context = tokenizer.layout.arrange(tokenizer.encode(text + "x\n"), [])
    spent = {}
    for draft in (context, [tokenizer.pre, tokenizer.mid]):
        _, cache = model.backbone.encode([draft[:-1]])
        blank = Canvas.blank(1, len(tokens) + 1, tokenizer.marks)
        steps = list(verify(model.backbone, cache, [draft], blank, rows(0)))
        assert steps[-1].canvas.middle(0) == tokens
        spent[len(draft)] = len(steps)
    assert spent[2] == len(tokens) + 1
    assert spent[len(context)] <= 0.5 * spent[2]


@pytest.mark.parametrize(
    ("sure", "written"),
    [
        (0.95, [1, 3]),  # two drafted tokens and its own, again and again
        (0.35, [1, 2]),  # a draft of one, the masks stand behind none of it: no draft for the next
        (0.15, [1]),
    ],
)
def test_what_masks_say_is_verified_in_the_next_evaluation(
    tokenizer: TalariaTokenizer, sure: float, written: list[int]
) -> None:
    """As far as it is likely; an end is drafted, too, and nothing is asked behind it."""
    tokens = [*tokenizer.encode("total = sum(values)\n"), tokenizer.eom]
    others = [n for n in range(300) if n not in tokens][:9]
    said = [{token: sure, **dict.fromkeys(others, (1 - sure) / 9)} for token in tokens]
    backbone = checkpoint_of(tokenizer, {(): said}, SETTINGS).backbone
    backbone.shift = True
    context = [tokenizer.pre, tokenizer.mid]
    _, cache = backbone.encode([context[:-1]])
    blank = Canvas.blank(1, len(tokens) + 3, tokenizer.marks)
    steps = list(verify(backbone, cache, [context], blank, rows(0), masks=2))
    assert steps[-1].canvas.ids[0, : len(tokens)].tolist() == tokens
    assert not steps[-1].canvas.unfinished.any()
    found = [int(step.committed.sum()) for step in steps[:-1]]
    pattern = [written[0], *[written[-1]] * len(tokens)] if sure > 0.9 else written * len(tokens)
    assert found == pattern[: len(found)]


class Misled(ScriptedBackbone):
    """Its masks say what the second script has; tokens that are read say what the first has."""

    masks = 2
    widest = 0

    def evaluate(
        self, ids: Array, positions: Array, visible: Array | None, cache: KVCache | None, keep: bool
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """One pass, as `ScriptedBackbone` has it."""
        states, keys, values = super().evaluate(ids, positions, visible, cache, keep)
        blank = ids == self.marks.mask
        states[..., 0][blank] = 1
        self.widest = max(self.widest, int(blank.sum()))
        return states, keys, values


def test_masks_follow_several_parts_of_a_draft(tokenizer: TalariaTokenizer) -> None:
    """Of a model that tells two masks apart, two each: a draft that is wrong leaves a next one."""
    tokens = [*tokenizer.encode("total = sum(values)\n"), tokenizer.eom]
    said = [{token: 0.9} for token in tokens]
    misled = [{299: 0.8} if place % 3 == 2 else chances for place, chances in enumerate(said)]
    context = [tokenizer.pre, tokenizer.mid]
    spent = {}
    for masks in (2, 4, 6):
        backbone = Misled(tokenizer, {tuple(context): said, (): misled})
        backbone.shift = True
        _, cache = backbone.encode([context[:-1]])
        blank = Canvas.blank(1, len(tokens) + 3, tokenizer.marks)
        steps = list(verify(backbone, cache, [context], blank, rows(0), masks))
        assert steps[-1].canvas.ids[0, : len(tokens)].tolist() == tokens
        assert 0 < backbone.widest <= masks
        spent[masks] = len(steps)
    assert spent[6] <= spent[4] < spent[2]


@pytest.mark.parametrize(
    ("chance", "stands"), [(0.5, True), (0.31, True), (0.29, False), (0.0, False)]
)
def test_a_guess_stands_if_it_is_likely_enough_where_it_is(
    tokenizer: TalariaTokenizer, chance: float, stands: bool
) -> None:
    """Half as likely as the likeliest token; of a row that draws, only what is drawn."""
    tokens = [*tokenizer.encode("total = sum(values)\n"), tokenizer.eom]
    guess, own = 299, tokens[2]
    said = [{token: 0.9} for token in tokens]
    said[2] = {own: 0.6, guess: chance} if chance else {own: 0.6}
    misled = [{guess: 0.8} if place == 2 else chances for place, chances in enumerate(said)]
    context = [tokenizer.pre, tokenizer.mid]
    backbone = Misled(tokenizer, {tuple(context): said, (): misled})
    backbone.shift = True
    _, cache = backbone.encode([context[:-1]])
    blank = Canvas.blank(1, len(tokens) + 3, tokenizer.marks)
    steps = list(verify(backbone, cache, [context], blank, rows(0), 2, least=0.3))
    found = steps[-1].canvas.middle(0)
    assert found == [*tokens[:2], guess if stands else own, *tokens[3:-1]]
    assert any(step.guessed is not None and step.guessed[0, 2] for step in steps)
    assert any(guess in step.canvas.middle(0) for step in steps)  # it was shown


def test_masks_of_rows_beside_each_other(tokenizer: TalariaTokenizer) -> None:
    """Each row has its own draft, place for masks and pace, and the steps that it has alone."""
    texts = ["total = sum(values)\n", "x"]
    said = [
        [{token: 0.95, 299: 0.05} for token in [*tokenizer.encode(text), tokenizer.eom]]
        for text in texts
    ]
    contexts = [[tokenizer.pre, tokenizer.mid], [tokenizer.pre, 7, tokenizer.mid]]
    scripts = {(): said[0], tuple(contexts[1]): said[1]}
    backbone = checkpoint_of(tokenizer, scripts, SETTINGS).backbone
    backbone.shift = True

    def found(numbers: list[int]) -> list[list[int]]:
        _, cache = backbone.encode([contexts[number][:-1] for number in numbers])
        blank = Canvas.blank(len(numbers), 20, tokenizer.marks)
        given = [contexts[number] for number in numbers]
        steps = list(verify(backbone, cache, given, blank, rows(*numbers), masks=2))
        counts = [[int(step.committed[row].sum()) for step in steps] for row in range(len(numbers))]
        middles = [steps[-1].canvas.middle(row) for row in range(len(numbers))]
        pairs = zip(middles, counts, strict=True)
        return [[*middle, *filter(None, count)] for middle, count in pairs]

    assert found([0, 1]) == [found([0])[0], found([1])[0]]


def test_masks_stand_where_the_next_token_is_likeliest_to_be() -> None:
    """Behind as much of a draft as will most probably be kept."""
    for chances, expected in (
        ([], 0),
        ([0.9, 0.8, 0.7], 3),
        ([0.9, 0.2], 1),
        ([0.4, 0.3], 0),
        ([0.5], 1),
        ([1.0, 1.0], 2),
    ):
        assert stops_of(chances)[0] == expected


def test_a_draft_that_is_wrong_is_not_written(tokenizer: TalariaTokenizer) -> None:
    """The evaluation then gives one token, and the masks behind it say nothing."""
    text = "total = sum(values)\n"
    model = scripted(tokenizer, [text], sure=0.95)
    backbone: Any = model.backbone
    backbone.shift = True
    logits, wrong = backbone.logits, tokenizer.encode("x")[0]

    def other(states: Array) -> Array:
        found: Array = logits(states[:, :2])
        found[states[:, 2] == 1] = np.where(np.arange(found.shape[1]) == wrong, 0, -20)
        return found

    evaluate = backbone.evaluate

    def marked(ids: Array, *given: Any, **named: Any) -> Any:
        states, keys, values = evaluate(ids, *given, **named)
        masked = (ids == tokenizer.mask)[..., None]
        return np.concatenate((states, masked), -1), keys, values

    backbone.logits, backbone.evaluate = other, marked
    tokens = [*tokenizer.encode(text), tokenizer.eom]
    context = [tokenizer.pre, tokenizer.mid]
    _, cache = backbone.encode([context[:-1]])
    blank = Canvas.blank(1, len(tokens) + 3, tokenizer.marks)
    steps = list(verify(backbone, cache, [context], blank, rows(0), masks=2))
    assert steps[-1].canvas.ids[0, : len(tokens)].tolist() == tokens
    assert len(steps) == len(tokens)


def test_a_likely_end_is_as_likely_beside_a_row_that_draws(
    chainless_backbone: Backbone, tokenizer: TalariaTokenizer
) -> None:
    """A row that draws looks at more candidates; the row beside it does not."""
    seen: list[Prediction] = []

    def rule(prediction: Prediction) -> Array:
        seen.append(prediction)
        return prediction.leftmost

    for temperatures in ([0.0], [0.0, 0.7]):
        _, cache = chainless_backbone.encode([CONTEXT] * len(temperatures))
        canvas = Canvas.blank(len(temperatures), 8, tokenizer.marks)
        rows = [
            Row(np.random.default_rng(0), 9, temperature=temperature)
            for temperature in temperatures
        ]
        last = [LAST] * len(temperatures)
        next(denoise(chainless_backbone, cache, last, canvas, rule, rows))
    np.testing.assert_allclose(seen[0].ending[0], seen[1].ending[0], atol=1e-6)
    np.testing.assert_allclose(seen[0].confidence[0], seen[1].confidence[0], atol=1e-6)
