"""What a parser refuses is denoised again, or cut; the budget and the deadline are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from talaria.coder.backbone import Marks
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.progress import extend, rows_of, text_of, within_bound
from talaria.coder.repair import ATTEMPT_NFE, ATTEMPTS, doubtful, ends_line, reopen, trim, verdict
from talaria.coder.request import MODES, UNTIL, Mode, Options, Request, Until
from talaria.coder.results import Infill, Interruption
from talaria.coder.syntax.functions import find_function
from talaria.coder.syntax.judge import OutOfTimeError, Surroundings, Verdict, judge
from talaria.coder.syntax.python import compiles
from tests.coder.holes import CODE, PREFIX, SUFFIX, holes_of, progress
from tests.scripted import Script, scripted, scripted_by


def broken(tokenizer: TalariaTokenizer, text: str, healed: str, number: int) -> Script:
    """What says a text with a bracket too many in its midst.

    Where `number` is even, the right token is the next likeliest there: denoised again, the text is
    as it should be. Otherwise it is not among the likely ones.
    """
    tokens = [*tokenizer.encode(healed), *tokenizer.encode(text), tokenizer.eom]
    (bracket,) = tokenizer.encode(")")
    place = max(bool(healed), (len(tokens) - 1) // 2)
    found: list[dict[int, float]] = [{token: 0.9} for token in tokens]
    found[place] = {bracket: 0.75, **({tokens[place]: 0.2} if number % 2 == 0 else {})}
    return found


HOLES = [hole for code in CODE for hole in holes_of(code)]


@pytest.fixture(scope="module")
def clumsy(tokenizer: TalariaTokenizer) -> Checkpoint:
    """A model that writes every other text as it stands there, and the others with an error."""
    scripts: dict[tuple[str, str], Script] = {}
    for number, (prefix, text, suffix) in enumerate(HOLES):
        healed = tokenizer.last_token(prefix)
        if number % 2:
            tokens = [*tokenizer.encode(healed), *tokenizer.encode(text), tokenizer.eom]
            scripts[prefix, suffix] = [{token: 0.9} for token in tokens]
        else:
            scripts[prefix, suffix] = broken(tokenizer, text, healed, number // 2)
    return scripted_by(tokenizer, scripts)


def requests_of(options: Options) -> list[Request]:
    """All of those holes."""
    return [Request(prefix, suffix, options) for prefix, _, suffix in HOLES]


@pytest.fixture(scope="module")
def offers(clumsy: Checkpoint) -> list[tuple[Request, Infill, Infill]]:
    """What is written into all holes, without and with a look at syntax."""
    requests = requests_of(Options(max_tokens=48))
    unchecked = requests_of(Options(max_tokens=48, check_syntax=False))
    sides = (fill_batch(clumsy, each) for each in (unchecked, requests))
    return list(zip(requests, *sides, strict=True))


def test_nothing_offered_adds_a_syntax_error(offers: list[tuple[Request, Infill, Infill]]) -> None:
    """What was clean is as it was; what was not is repaired, cut or not offered."""
    faulty = repaired = 0
    for number, (request, plain, checked) in enumerate(offers):
        assert judge(request.prefix, checked.best.text, request.suffix).clean
        assert checked.syntax.clean
        if plain.syntax.clean:
            assert (checked.best, checked.nfe) == (plain.best, plain.nfe)
        else:
            faulty += 1
            repaired += checked.best.text == HOLES[number][1]
            # A second attempt may fill its canvas and go on in another one.
            same = checked.frames[-1].canvas == plain.frames[-1].canvas
            assert checked.nfe <= plain.nfe + ATTEMPTS * ATTEMPT_NFE or not same
    assert faulty >= 12
    assert repaired >= 6


def test_a_batch_is_repaired_as_each_alone(
    clumsy: Checkpoint, offers: list[tuple[Request, Infill, Infill]]
) -> None:
    """Text, end and cost."""
    for request, _, checked in offers[::3]:
        alone = fill(clumsy, request)
        assert alone.best == checked.best
        assert alone.nfe == checked.nfe


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_what_cannot_be_repaired_is_cut(
    clumsy: Checkpoint, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """To a beginning of what was written, the longest without an error among its last tokens."""
    for module in ("infill", "repair"):
        monkeypatch.setattr(f"talaria.coder.{module}.ATTEMPTS", 0)
    tokenizer, cut = clumsy.tokenizer, 0
    for request in requests_of(Options(mode, max_tokens=16))[::2]:
        unchecked = replace(request, options=replace(request.options, check_syntax=False))
        whole, part = (fill(clumsy, each).best for each in (unchecked, request))
        assert whole.tokens[: len(part.tokens)] == part.tokens
        if part.stopped == "syntax":
            cut += 1
            lead = len(tokenizer.last_token(request.prefix))
            longer = (tokenizer.decode(whole.tokens[:n])[lead:] for n in range(len(whole.tokens)))
            clean = [text for text in longer if judge(request.prefix, text, request.suffix).clean]
            assert part.text == max((t for t in clean if t.strip()), key=len, default="")
    assert cut >= 6


def test_a_long_middle_is_cut_at_the_end_of_a_line(tokenizer: TalariaTokenizer) -> None:
    """Also where the tokenizer takes the line break and the indentation as one token."""
    lines = ["total = 0", "for value in values:", "    total += value", "x = (", *["y = 1"] * 12]
    tokens = tokenizer.encode("\n    ".join(lines))
    assert len(tokens) > 40
    request = Request("def mean(values):\n    ", "\n\n\nprint(mean([1, 2]))\n")
    hole = progress(scripted(tokenizer, [""]), request)
    hole.middles[0] = list(tokens)
    trim(hole, None, lambda: False)
    assert text_of(hole, hole.middles[0]) == "\n    ".join(lines[:3])
    assert hole.stopped == ["syntax"]


def test_where_a_line_ends(tokenizer: TalariaTokenizer) -> None:
    """With its break or before it."""
    hole = progress(scripted(tokenizer, [""]), Request("", "\n"))
    tokens = tokenizer.encode("x\n    y")
    assert [tokenizer.name(token) for token in tokens] == ["x", "\n    ", "y"]
    assert [ends_line(hole, tokens, count) for count in (1, 2, 3)] == [True, False, False]
    tokens = tokenizer.encode("x\ny")
    assert [ends_line(hole, tokens, count) for count in (1, 2, 3)] == [True, True, False]


def test_half_a_character_is_cut_off(tokenizer: TalariaTokenizer) -> None:
    """What the bytes of a sign leave that are not all there is no text to offer."""
    tokens = tokenizer.encode("total = '\N{GRINNING FACE}'")
    half = next(n for n in range(len(tokens)) if tokenizer.decode(tokens[:n]).endswith("\ufffd"))
    hole = progress(scripted(tokenizer, [""]), Request("x = 1\n", "'\n"))
    hole.middles[0] = tokens[:half]
    assert verdict(hole, text_of(hole, hole.middles[0])) == Verdict(0, 1)
    trim(hole, None, lambda: False)
    assert text_of(hole, hole.middles[0]) == "total = '"


def test_a_given_length_is_not_cut(tokenizer: TalariaTokenizer) -> None:
    """However broken it is."""
    hole = progress(scripted(tokenizer, [""]), Request("x = ", "\n", length=3))
    hole.middles[0] = tokenizer.encode(")))")
    trim(hole, None, lambda: False)
    assert text_of(hole, hole.middles[0]) == ")))"


@pytest.mark.parametrize("why", ["deadline", "cancelled"])
def test_when_time_is_up_nothing_is_searched(
    tokenizer: TalariaTokenizer, why: Interruption
) -> None:
    """For a part that is clean: a broken middle is cut to nothing, a clean one stays."""
    for text, left in (("x = values )", ""), ("x = values", "x = values")):
        hole = progress(scripted(tokenizer, [""]), Request("x = 1\n", "\n"))
        hole.middles[0] = tokenizer.encode(text)
        hole.stopped[0] = why
        trim(hole, why, lambda: True)
        assert (text_of(hole, hole.middles[0]), hole.stopped) == (left, [why])


def test_at_a_deadline_whole_lines_are_left(tokenizer: TalariaTokenizer) -> None:
    """Of a body, the statements that were there by then; no more than that is looked at."""
    for text, left in (
        ("def f(x):\n    y = x\n    return (y +", "def f(x):\n    y = x"),
        ("def f(x):\n    return (", "def f(x):"),
        ("total = (value +", ""),
    ):
        hole = progress(scripted(tokenizer, [""]), Request("x = 1\n", "\n"))
        hole.middles[0] = tokenizer.encode(text)
        trim(hole, "deadline", lambda: False)
        assert text_of(hole, hole.middles[0]) == left
        assert len(hole.verdicts) <= 1 + text.count("\n")


def test_an_end_that_a_bound_put_is_not_repaired(tokenizer: TalariaTokenizer) -> None:
    """To forbid it would change nothing: the bound would put it there again."""
    request = Request(
        "def f(values):\n    total = sum(", "\n    return total\n", Options(until="line")
    )
    hole = progress(scripted(tokenizer, [""]), request)
    assert hole.healed == "("
    tokens = [*tokenizer.encode("("), *tokenizer.encode("values")]
    assert text_of(hole, tokens) == "values"
    sure = [0.9, *[0.5] * (len(tokens) - 1), 0.1]
    assert doubtful(hole, 0, tokens, sure) == len(tokens)
    within = within_bound(hole, 0, [*tokens, *tokenizer.encode("\nx")])
    assert within == len(tokens)
    assert doubtful(hole, 0, tokens, sure) == 1


@pytest.mark.parametrize("max_nfe", [1, 3, 10])
def test_repairing_keeps_the_budget(model: Checkpoint, max_nfe: int) -> None:
    """Also that of a model whose every middle is broken, with candidates."""
    for candidates in (1, 2):
        nfe = max(max_nfe, candidates)
        options = Options(candidates=candidates, max_nfe=nfe, max_tokens=20)
        found = infill(model, PREFIX, SUFFIX, options)
        assert found.nfe <= nfe
        assert all(judge(PREFIX, c.text, SUFFIX).clean for c in found.candidates)


def test_an_opened_block_is_asked_for_its_body(tokenizer: TalariaTokenizer) -> None:
    """What lacks it is denoised on from its end, unless a bound put the end there, or will."""
    tokens = tokenizer.encode("if values:")
    chances = [0.1] * len(tokens) + [0.9]
    for options, place in (
        (Options(), len(tokens)),
        (Options(until="block"), len(tokens)),
        (Options(until="line"), None),
        (Options(complete=True), len(tokens)),
        (Options(complete=True, until="line"), 0),
    ):
        request = Request("def f(values):\n    ", "\n    return values\n", options)
        hole = progress(scripted(tokenizer, [""]), request)
        if options.until:
            within_bound(hole, 0, [*tokens, *tokenizer.encode("\n    x")])
        assert doubtful(hole, 0, tokens, chances) == place
        if not options.complete:
            assert doubtful(hole, 0, tokens, chances, again=True) is None


@pytest.mark.parametrize(
    ("until", "likely", "wanted", "unfinished"),
    [
        ("statement", 0.15, "def f(x):\n    return x", False),
        (None, 0.15, "def f(x):\n    return x", False),
        ("line", 0.15, "def f(x):", True),
        ("statement", 1e-9, "def f(x):", True),
    ],
)
def test_a_header_is_offered_with_its_body(
    tokenizer: TalariaTokenizer, until: Until, likely: float, wanted: str, unfinished: bool
) -> None:
    """While somebody types, if the model has one in its budget; else it is marked."""
    sides = "x = 1\n", "\ny = 2\n"
    header, body = tokenizer.encode("def f(x):"), tokenizer.encode("\n    return x")
    said: list[dict[int, float]] = [
        {token: 0.9} for token in [*header, *body, tokenizer.eom, tokenizer.eom]
    ]
    wrong = tokenizer.encode(")")[0]
    said[len(header)] = {tokenizer.eom: 0.8, wrong: 1e-5, body[0]: likely}
    model = scripted_by(tokenizer, {sides: said})
    found = fill(model, Request(*sides, Options(max_tokens=48, until=until))).best
    assert (found.text, found.unfinished) == (wanted, unfinished)


def test_complete_bodies_break_no_file(tokenizer: TalariaTokenizer) -> None:
    """Whatever the model leaves open is written on or cut; some are written on."""
    text = "\n\n".join(CODE)
    names = ("area", "load", "Counter.__init__", "Counter.increment", "evens", "read")
    bodies = [find_function(text, name) for name in names]
    scripts: dict[tuple[str, str], Script] = {}
    requests = []
    for number, body in enumerate(bodies):
        sides = text[: body.start], text[body.end :]
        healed = tokenizer.last_token(sides[0])
        # It ends behind the header of a block, or goes on with its body, which is less likely.
        header, rest = tokenizer.encode("x = 1\n    if x:"), tokenizer.encode("\n        x = 2")
        found: list[dict[int, float]] = [
            {token: 0.9} for token in [*tokenizer.encode(healed), *header, *rest, tokenizer.eom]
        ]
        found[-1 - len(rest)] = {tokenizer.eom: 0.8, rest[0]: 0.15 if number % 2 else 1e-6}
        scripts[sides] = found
        options = Options(max_tokens=64, until="block", complete=True)
        requests.append(Request(*sides, options, replaces=text[body.start : body.end]))
    model = scripted_by(tokenizer, scripts)
    typing = [
        replace(each, options=replace(each.options, complete=False), replaces=None)
        for each in requests
    ]
    opened = repaired = 0
    free, whole = (fill_batch(model, each) for each in (typing, requests))
    for request, typed, complete in zip(requests, free, whole, strict=True):
        written = complete.best
        assert written.refused is None
        assert compiles(request.prefix + written.text + request.suffix)
        opened += not judge(request.prefix, typed.best.text, request.suffix, complete=True).clean
        repaired += written.text.endswith("x = 2")
        assert typed.best.refused is None  # nobody asked whether it may be written
    assert opened >= 2
    assert repaired >= 1


@pytest.mark.parametrize("why", ["deadline", "cancelled"])
def test_a_look_at_the_syntax_ends_in_time(
    tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch, why: Interruption
) -> None:
    """Once it is interrupted there is nothing to offer, and a deadline is not called an error."""
    monkeypatch.setattr("talaria.coder.repair.GRACE", -1)
    looking, model = False, scripted(tokenizer, ["values"])

    def judge(self: Surroundings, middle: str) -> Verdict:
        nonlocal looking
        looking = True
        if self.out_of_time():
            raise OutOfTimeError
        raise AssertionError("there was time")

    def interrupted() -> Interruption | None:
        return why if looking else None

    monkeypatch.setattr(Surroundings, "judge", judge)
    for mode in MODES:
        looking = False
        options, prefix = Options(mode, max_tokens=8), "def mean(values):\n    "
        found = fill(model, Request(prefix, "\n", options), interrupted=interrupted)
        assert looking
        assert found.best.text == ""
        assert found.best.stopped in ("deadline", "cancelled")
        assert found.syntax == Verdict(0, 0)


@pytest.mark.parametrize(
    ("prefix", "middle", "place"), [("x = values", ")", 1), ("x = prin", ")", 0)]
)
def test_a_first_token_without_alternatives_is_not_repaired(
    tokenizer: TalariaTokenizer, prefix: str, middle: str, place: int
) -> None:
    """It would be put there again: the next one in the error is chosen anew, however sure it is."""
    hole = progress(scripted(tokenizer, [""]), Request(prefix, "\n"))
    lead = tokenizer.last_token(prefix)
    assert hole.first is not None
    assert (len(hole.first) <= ATTEMPTS) == bool(place)
    tokens = [*tokenizer.encode(lead), *tokenizer.encode(middle)]
    chances = [0.1] + [0.9] * len(tokens)
    assert doubtful(hole, 0, tokens, chances) == place


def test_only_what_ended_is_opened_again(tokenizer: TalariaTokenizer) -> None:
    """From the doubtful token on, which is banned there; a repair that failed is named."""
    marks: Marks = tokenizer.marks
    hole = progress(scripted(tokenizer, [""]), Request("x = 1\n", "\n", Options(candidates=3)))
    rows = rows_of([hole])
    wrong, right = tokenizer.encode("y)"), tokenizer.encode("y(")
    assert len(wrong) == len(right) == 2
    first = Canvas.blank(3, 4, marks)
    first.ids[0, :3] = [*wrong, marks.eom]  # broken
    first.ids[1, :4] = [*wrong, *wrong]  # not ended: more is to come
    first.ids[2, :2] = [wrong[0], marks.eom]  # clean
    sure = np.array([[0.9, 0.5, 0.8, 0], [0.1] * 4, [0.1, 0.1, 0, 0]], np.float32)
    failed, canvas, banned = reopen(rows, first, first, sure, [()] * 3)
    assert failed == []
    assert canvas.open.tolist() == [[False, True, True, True], [False] * 4, [False] * 4]
    assert banned == [((1, wrong[1]),), (), ()]
    for _ in range(ATTEMPTS):  # none of which helps
        canvas.ids[0, 1:3] = [right[1], marks.eom]
        again = Canvas(canvas.ids.copy(), marks)
        failed, canvas, banned = reopen(rows, first, again, sure, banned)
    assert failed == [0]
    assert len(banned[0]) == ATTEMPTS


def test_what_a_canvas_leaves_of_a_bound(tokenizer: TalariaTokenizer) -> None:
    """A middle that reached its bound goes no further, whatever its last canvas says."""
    for until in UNTIL:
        request = Request("def f(x):\n    ", "\n", Options(until=until))
        hole = progress(scripted(tokenizer, [""]), request)
        tokens = tokenizer.encode("return x\ny = 2\n")
        within = within_bound(hole, 0, tokens)
        assert within is not None
        assert not extend(hole, 0, tokens[:within], ended=True, forced=False)
        assert hole.stopped == ["bound"]
        assert text_of(hole, hole.middles[0]) == "return x"
