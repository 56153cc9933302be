"""The state of a request in progress: its middles, their text, and the evaluations spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from talaria.coder.bounds import Bound, Repetition, until_of
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.request import Options, Request, Settings
from talaria.coder.results import Candidate, Frame, Stopped
from talaria.coder.sampler import Row, at_any
from talaria.coder.syntax.judge import OutOfTimeError, Surroundings, Verdict
from talaria.coder.tokenizer import Tokenizer

BLANK = 4  # tokens after which a middle that is still blank may end
DIVERSE = 0.7  # temperature of candidates after the first


@dataclass(eq=False)
class Progress:
    """The state of one request while it is filled; lists have an entry per candidate.

    options   those of the request, with the model's settings where it has none
    healed    the end of the prefix that the first token must repeat: the last token before
              the hole is chosen again (token healing, as in guidance), because as it stands it
              implies that the word is complete
    first     the tokens that begin with it; None: any token may stand first
    context   the tokens that are read before the middle
    longest   tokens of a middle, at most
    budget    evaluations for the middles
    bounds    what may end a middle before the model does, by what it is then said to have stopped
              at: each gives the length of a text, in characters, at which it ends, or None
    reached   middles that a bound ended: that length, and what they stopped at
    sizes     tokens of each candidate's canvas, where the model cannot tell how many it takes; with
              several, there is a candidate of each. (): the model ends a middle
    grows     whether the model changes the sizes of canvases itself
    """

    request: Request
    options: Options
    tokenizer: Tokenizer
    healed: str
    first: tuple[int, ...] | None
    longest: int
    budget: int
    bounds: dict[Stopped, Callable[[str], int | None]]
    surroundings: Callable[[], Surroundings]
    on_frame: Callable[[Frame], None] | None
    generators: list[np.random.Generator]
    middles: list[list[int]]
    stopped: list[Stopped]
    scores: list[float | None]
    context: list[int] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    reached: dict[tuple[int, ...], tuple[int, Stopped]] = field(default_factory=dict)
    nfe: int = 0
    sizes: tuple[int, ...] = ()
    grows: bool = False


Rows = list[tuple[Progress, int]]
"""The rows of a batch: a request's progress and the number of one of its candidates."""


def begin(
    model: Checkpoint,
    request: Request,
    surroundings: Callable[[], Surroundings],
    on_frame: Callable[[Frame], None] | None,
) -> Progress:
    """The state of a request before anything is written."""
    options = request.options.settled(model.settings)
    assert options.max_nfe is not None
    assert options.max_tokens is not None
    tokenizer, sizes = model.tokenizer, sizes_of(model, request, options)
    count = options.candidates * max(1, len(sizes))
    healed = healed_of(request, tokenizer)
    longest = options.max_tokens
    if request.length is not None:
        longest = min(request.length, model.settings.longest)
    return Progress(
        request,
        options,
        tokenizer,
        healed,
        tokenizer.beginning_with(healed) if healed else None,
        longest,
        options.max_nfe - (count > 1 and model.schedule is None),  # ranking takes one
        bounds_of(request, model.settings),
        surroundings,
        on_frame,
        [np.random.default_rng(options.seed + number) for number in range(count)],
        [[] for _ in range(count)],
        ["max_nfe"] * count,
        [None] * count,
        sizes=sizes * options.candidates,
        grows=model.schedule is not None and model.schedule.expand is not None,
    )


def sizes_of(model: Checkpoint, request: Request, options: Options) -> tuple[int, ...]:
    """The canvases that each candidate begins with; (): the model ends a middle."""
    if model.schedule is None or not model.schedule.sizes:
        return ()
    assert options.max_tokens is not None
    longest = options.max_tokens
    if request.length is not None:
        return (min(request.length, model.settings.longest),)
    most = min(longest, model.schedule.most) if model.schedule.expand is not None else longest
    return tuple(dict.fromkeys(min(size, most) for size in options.sizes or model.schedule.sizes))


def healed_of(request: Request, tokenizer: Tokenizer) -> str:
    """The end of a request's prefix that its first token must repeat."""
    return "" if request.length is not None else tokenizer.last_token(request.prefix)


def bounds_of(request: Request, settings: Settings) -> dict[Stopped, Callable[[str], int | None]]:
    """What may end the middles of a request before the model does."""
    until = until_of(request, settings)
    found: dict[Stopped, Callable[[str], int | None]] = {}
    if until is not None:
        found["bound"] = Bound(until, request.prefix).end
    if request.length is None:
        repetition = Repetition(until, request.prefix, request.suffix)
        # A model that ends its middles itself knows which bracket the suffix closes.
        runs_on = settings.bounded and until is not None
        found["suffix"] = repetition.end if runs_on else repetition.repeats
    return found


def may_be_cut(request: Request, settings: Settings) -> bool:
    """Whether something but the model may end the middles of a request, and take back a part."""
    if until_of(request, settings) is not None:
        return True
    return request.length is None and Repetition(None, request.prefix, request.suffix).possible


def rows_of(holes: list[Progress]) -> Rows:
    """A row for every candidate of every hole."""
    return [(hole, number) for hole in holes for number in range(len(hole.middles))]


def written(hole: Progress, tokens: list[int]) -> str:
    """The text of a middle's tokens, without the end of the prefix that the first repeats."""
    return hole.tokenizer.decode(tokens)[len(hole.healed) :]


def text_of(hole: Progress, tokens: list[int]) -> str:
    """The same, as far as it lies within the bounds."""
    text = written(hole, tokens)
    end, _ = hole.reached.get(tuple(tokens)) or ending(hole, text) or (len(text), None)
    return text[:end]


def ending(hole: Progress, text: str) -> tuple[int, Stopped] | None:
    """The length at which the first bound ends a text, and which it is; None if none does yet."""
    ends = ((end(text), stopped) for stopped, end in hole.bounds.items())
    return min(((at, stopped) for at, stopped in ends if at is not None), default=None)


def within_bound(hole: Progress, number: int, tokens: list[int]) -> int | None:
    """How many tokens of a candidate's canvas it takes to reach a bound; None if they do not."""
    middle = hole.middles[number]
    found = ending(hole, written(hole, [*middle, *tokens]))
    if found is None:
        return None
    lengths = (len(written(hole, [*middle, *tokens[:count]])) for count in range(len(tokens) + 1))
    within = next(count for count, length in enumerate(lengths) if length >= found[0])
    hole.reached[*middle, *tokens[:within]] = found
    return within


def terms(hole: Progress, number: int, most: int | None = None) -> Row:
    """What a candidate may still do, with at most `most` evaluations."""
    left = hole.budget - hole.nfe
    temperature = hole.options.temperature
    if temperature is None:
        first = len(hole.middles) // hole.options.candidates
        temperature = DIVERSE if number >= first else 0.0
    opens_line = not last_line(hole.request.prefix).strip()
    learned = hole.request.length is None and (not hole.sizes or hole.grows)
    return Row(
        hole.generators[number],
        left if most is None else min(left, most),
        learned,
        bound=partial(within_bound, hole, number) if hole.bounds else None,
        temperature=temperature,
        first=None if hole.middles[number] else hole.first,
        early=partial(early, hole, number) if opens_line else at_any,
        longest=hole.longest,
    )


def early(hole: Progress, number: int, tokens: Sequence[int]) -> bool:
    """Whether a candidate that begins a line must not end behind these tokens of its canvas.

    It would be blank where it must not be, for BLANK tokens at most, or indentation alone, or it
    would end in indentation that the text after it has itself.
    """
    if tokens and not hole.tokenizer.decode(tokens[-1:])[-1:].isspace():
        return False
    middle = [*hole.middles[number], *tokens]
    text = written(hole, middle)
    indents = text[-1:] in (" ", "\t")
    if not text.strip():
        return indents or (len(middle) <= BLANK and needed(hole))
    return indents and not last_line(text).strip() and not hole.request.suffix[:1].strip()


def last_line(text: str) -> str:
    """What stands behind the last line break."""
    return text[text.rfind("\n") + 1 :]


def begins_line(prefix: str) -> bool:
    """Whether what follows a prefix stands at the beginning of a line."""
    return not prefix or prefix.endswith("\n")


def needed(hole: Progress) -> bool:
    """Whether a middle must not be blank: it was asked for, or the file is broken without it.

    The latter as far as there is time to tell.
    """
    try:
        return not hole.options.abstain or (hole.options.check_syntax and hole.surroundings().lacks)
    except OutOfTimeError:
        return False


def missing(hole: Progress, number: int) -> int | None:
    """How many tokens a candidate still lacks, where its length is given, or is to be tried."""
    if hole.sizes:
        return hole.sizes[number]
    return None if hole.request.length is None else hole.longest - len(hole.middles[number])


def show(hole: Progress, frame: Frame) -> None:
    """Keep a frame, and pass it to `on_frame`."""
    hole.frames.append(frame)
    if hole.on_frame is not None:
        hole.on_frame(frame)


def extend(hole: Progress, number: int, tokens: list[int], ended: bool, forced: bool) -> bool:
    """Append a finished canvas to a candidate; returns whether the candidate may continue.

    `ended`: the canvas has an `<eom>`; `forced`: the budget ran out in it.
    """
    middle = hole.middles[number]
    middle += tokens
    given = hole.request.length
    reached = hole.reached.get(tuple(middle))
    if reached and len(middle) <= hole.longest:
        hole.stopped[number] = reached[1]
        return False
    by_itself = ended and given is None
    fits = by_itself and len(middle) <= hole.longest
    again = ending(hole, written(hole, middle) + "\n") if fits else None
    if again and again[1] == "suffix":  # its last line repeats one, and has no break yet
        hole.reached[tuple(middle)] = again
        hole.stopped[number] = "suffix"
        return False
    if len(middle) >= hole.longest and not (by_itself and len(middle) == hole.longest):
        hole.stopped[number] = "length" if given == hole.longest else "max_tokens"
        del middle[hole.longest :]
    elif by_itself:
        hole.stopped[number] = "length" if hole.sizes and not hole.grows else "eom"
    else:
        return True
    if forced:
        hole.stopped[number] = "max_nfe"
    return False


def candidates_of(hole: Progress) -> list[Candidate]:
    """Distinct middles, best first; those trimmed to nothing, or never begun, last.

    Of canvases of several sizes, those that were finished and need no trimming come first.
    """
    found: dict[str, Candidate] = {}
    for number, tokens in enumerate(hole.middles):
        text, end, score = text_of(hole, tokens), hole.stopped[number], hole.scores[number]
        repeats = bool(hole.healed) and hole.tokenizer.decode(tokens[:1]) == hole.healed
        found.setdefault(text, Candidate(text, tokens, end, score, number, repeats))
    ranked = sorted(
        found.values(),
        key=lambda c: (
            not c.text and c.stopped != "eom",
            bool(hole.sizes) and c.stopped in ("syntax", "deadline", "max_nfe"),
            c.score is None,
            -(c.score or 0),
        ),
    )
    return ranked[: hole.options.candidates] if hole.sizes else ranked
