"""What happens to a middle that a parser refuses: denoise it again, or trim it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np

from talaria.coder.backbone import Array
from talaria.coder.canvas import Canvas
from talaria.coder.progress import Progress, Rows, begins_line, show, text_of, written
from talaria.coder.results import Frame, Interruption
from talaria.coder.sampler import Banned, Step
from talaria.coder.syntax.judge import OutOfTimeError, Verdict
from talaria.coder.syntax.lexical import lines_of

ATTEMPTS, ATTEMPT_NFE = 2, 8  # repairs of a broken canvas, and evaluations for each
TRIMMED = 16  # last tokens of a broken middle at each of which it may be cut; before, at line ends
GRACE = 0.05  # seconds that the parser gets when a deadline has passed
REPLACEMENT = "\ufffd"  # what the tokenizer makes of bytes that are no character


class OutOfTime:
    """Whether parsing must stop: the request is cancelled, or GRACE past its deadline."""

    def __init__(self, interrupted: Callable[[], Interruption | None]) -> None:
        self.interrupted = interrupted
        self.since: float | None = None

    def __call__(self) -> bool:
        """Whether to stop now."""
        why = self.interrupted()
        if why is None:
            return False
        self.since = self.since or time.monotonic()
        return why == "cancelled" or time.monotonic() - self.since > GRACE


def verdict(hole: Progress, text: str) -> Verdict:
    """Judge what a middle does to the syntax around it.

    Part of a character, which byte-level tokens can leave, counts as an error. A middle that there
    is no time to judge is refused.
    """
    if text not in hole.verdicts:
        sides = hole.request.prefix, hole.request.suffix
        whole = REPLACEMENT not in text or any(REPLACEMENT in side for side in sides)
        try:
            found = hole.surroundings().judge(text) if whole else Verdict(0, 1)
        except OutOfTimeError:
            return Verdict(0, 0, refused=bool(text))
        hole.verdicts[text] = found
    return hole.verdicts[text]


def doubtful(
    hole: Progress, number: int, tokens: list[int], sure: list[float], *, again: bool = False
) -> int | None:
    """The position from which to denoise a candidate's last canvas again; None if it is clean.

    `tokens` are those of the canvas up to its `<eom>`, `sure` their probabilities and that of
    the `<eom>`. It is the least sure token that an error touches, or the `<eom>` if a body is
    missing there: what is offered while somebody types is to have it, too, if the model has one,
    but that is tried only once, and not `again` where the header is itself a repair. An `<eom>`
    that the bound put there is not in doubt, because the bound would put it there again; nor is one
    behind a header where only a line is wanted, or a healed first token with hardly any
    alternatives.
    """
    middle = hole.middles[number]
    text = text_of(hole, [*middle, *tokens])
    found = verdict(hole, text)
    at_bound = bool(tokens) and (*middle, *tokens) in hole.reached
    if found.sound:
        lacks_body = found.unfinished and not at_bound and hole.options.until != "line"
        return len(tokens) if lacks_body and not again else None
    if not at_bound and lacks_break(hole, text):
        return None
    surroundings = hole.surroundings()
    try:
        ask_body = hole.options.complete and not at_bound
        body = surroundings.with_body(text) if ask_body else None
        errors = surroundings.errors(text)
    except OutOfTimeError:
        return None
    if body and body.clean:
        return len(tokens)
    counts = range(len(tokens) + 1)
    edges = [len(written(hole, [*middle, *tokens[:count]]).encode()) for count in counts]
    begins, ends = edges, [*edges[1:], edges[-1]]
    touched = [
        place
        for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if any(low <= end and begin <= high for low, high in errors)
    ]
    if not middle and hole.first is not None and len(hole.first) <= ATTEMPTS:
        touched = [place for place in touched if place]
    places = touched or list(range(len(ends)))
    if at_bound:
        places = [place for place in places if place < len(tokens)] or [len(tokens) - 1]
    return min(places, key=lambda place: sure[place])


def reopen(
    rows: Rows,
    first: Canvas,
    canvas: Canvas,
    sure: Array,
    banned: Sequence[Banned],
    *,
    onwards: bool = False,
) -> tuple[list[int], Canvas, list[Banned]]:
    """Reopen the rows that ended with a syntax error, from their doubtful token on.

    `first` is the canvas before any repair, `sure` [batch, block] holds the probabilities of its
    tokens. With `onwards`, only ends are reopened, where no first lines are sound by themselves:
    what is written stays. Returns the rows whose repair failed, the canvas, and the banned tokens
    of each row: a doubtful token is not chosen again in the same place.
    """
    failed, after = [], list(banned)
    ended = canvas.ended < canvas.ids.shape[1]
    for place, (hole, number) in enumerate(rows):
        if hole.request.length is not None or not (ended[place] or banned[place]):
            continue  # its length is given, or there is more to come
        doubt = None
        if ended[place]:
            chances = sure[place, : canvas.ended[place] + 1].tolist()
            tokens, again = canvas.middle(place), bool(banned[place])
            doubt = doubtful(hole, number, tokens, chances, again=again)
            if doubt is None:
                continue
            if onwards and (doubt < len(tokens) or begins_soundly(hole, number, tokens)):
                doubt = None
        if doubt is None or len(banned[place]) == ATTEMPTS or hole.nfe >= hole.budget:
            if not np.array_equal(canvas.ids[place], first.ids[place]):
                failed.append(place)
            continue
        after[place] = (*banned[place], (doubt, int(canvas.ids[place, doubt])))
        ids = canvas.ids[place].copy()
        ids[doubt:] = canvas.marks.mask
        canvas = canvas.with_row(place, ids)
    return failed, canvas, after


def put_back(
    rows: Rows, first: Canvas, canvas: Canvas, places: Sequence[int], number: int = 0
) -> Canvas:
    """Canvas `number` with these rows as they were at first, which is shown."""
    for place in places:
        canvas = canvas.with_row(place, first.ids[place])
        hole, candidate = rows[place]
        back = Step.restoring(first.rows(slice(place, place + 1)))
        show(hole, Frame(number, [candidate], back, "" if number else hole.healed))
    return canvas


def begins_soundly(hole: Progress, number: int, tokens: list[int]) -> bool:
    """Whether some first lines of a middle, but not all, add no syntax error."""
    lines = lines_of(text_of(hole, [*hole.middles[number], *tokens]))
    begun = ("".join(lines[:count]) for count in range(len(lines) - 1, 0, -1))
    return any(text.strip() and verdict(hole, text).sound for text in begun)


def trim(hole: Progress, why: Interruption | None, out_of_time: Callable[[], bool]) -> None:
    """Cut each candidate to its longest beginning that adds no syntax error.

    After an interruption only whole lines are looked at, as many as there is time for: a deadline
    mostly passes in the middle of a line, and what stands before it may be right.
    """
    if hole.request.length is not None:
        return  # its length is fixed
    for number, middle in enumerate(hole.middles):
        whole, text = len(middle), text_of(hole, middle)
        by_itself = hole.stopped[number] == "eom" and not verdict(hole, text).sound
        if by_itself and lacks_break(hole, text):
            middle += hole.tokenizer.encode("\n")
            continue
        cut_off = False  # whether what is left lacks the break of its line
        for count in range(whole, -1, -1):
            nearby = why is None and whole - count <= TRIMMED
            if 0 < count < whole and not nearby and not ends_line(hole, middle, count):
                continue
            text = text_of(hole, middle[:count])
            if not count or ((text.strip() or count == whole) and verdict(hole, text).sound):
                break
            cut_off = count < whole and ends_line(hole, middle, count) and lacks_break(hole, text)
            if cut_off:
                break
            if out_of_time():
                why, count = why or "deadline", 0
                break
        if count < whole:
            middle[count:] = hole.tokenizer.encode("\n") if cut_off else []
            if hole.stopped[number] not in get_args(Interruption):
                hole.stopped[number] = why or "syntax"


def lacks_break(hole: Progress, text: str) -> bool:
    """Whether a middle between whole lines, which adds errors, only lacks its line break.

    Models leave it out because most holes end before it.
    """
    if not text.strip() or not begins_line(hole.request.prefix):
        return False
    return verdict(hole, f"{text}\n").clean


def ends_line(hole: Progress, middle: list[int], count: int) -> bool:
    """Whether the first `count` tokens of a middle end a line, with or without its break."""
    last = hole.tokenizer.decode(middle[count - 1 : count])
    following = hole.tokenizer.decode(middle[count : count + 1])
    return last.endswith("\n") or following.startswith("\n")
