"""Fill the hole between a prefix and a suffix: prefill, canvas after canvas, rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cache as once
from functools import partial
from itertools import groupby

import numpy as np

from talaria.coder.backbone import KVCache
from talaria.coder.bounds import closed_ahead, until_of
from talaria.coder.canvas import Canvas
from talaria.coder.capabilities import check
from talaria.coder.causal import autoregress, verify
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.contexts import CAPACITY, Contexts
from talaria.coder.guard import NO_TIME, Guard, withheld
from talaria.coder.progress import (
    Progress,
    Rows,
    begin,
    candidates_of,
    extend,
    healed_of,
    missing,
    rows_of,
    show,
    terms,
)
from talaria.coder.ranking import score, score_as_committed
from talaria.coder.repair import (
    ATTEMPT_NFE,
    ATTEMPTS,
    OutOfTime,
    put_back,
    reopen,
    trim,
    verdict,
)
from talaria.coder.request import Options, Request
from talaria.coder.results import Candidate, Frame, Infill, Interruption, unanswered
from talaria.coder.sampler import Banned, Step, denoise
from talaria.coder.scheduled import follow
from talaria.coder.source import Piece
from talaria.coder.syntax.judge import OutOfTimeError, Surroundings
from talaria.coder.syntax.lexical import indentation
from talaria.coder.syntax.tree import Trees
from talaria.coder.unmask import Rule, confidence_threshold

LATE = 8  # tokens of a context that are read with the first of a middle: a pass less


class Memory:
    """What is kept from request to request; it saves time and changes no answer.

    KV caches of at most `capacity` tokens, or so many bytes, and syntax trees. For one thread;
    another has one `beside` it.
    """

    def __init__(
        self, model: Checkpoint, capacity: int = CAPACITY, most_bytes: int | None = None
    ) -> None:
        self.contexts = Contexts(model.backbone, capacity, most_bytes)
        self.trees = Trees()

    def beside(self) -> Memory:
        """One for another thread, with the same KV caches."""
        other = copy(self)
        other.trees = Trees()
        return other


def infill(
    model: Checkpoint,
    prefix: str,
    suffix: str,
    options: Options | None = None,
    files: tuple[Piece, ...] = (),
) -> Infill:
    """Generate what stands between two texts, with excerpts of other files as context."""
    return fill(model, Request(prefix, suffix, options or Options(), files))


def fill(
    model: Checkpoint,
    request: Request,
    on_frame: Callable[[Frame], None] | None = None,
    memory: Memory | None = None,
    interrupted: Callable[[], Interruption | None] = lambda: None,
    rule: Rule | None = None,
    k: int = 1,
) -> Infill:
    """Fill one hole; `on_frame` is shown every step.

    With a `memory`, which must be of this model, nothing is read twice. `interrupted` is asked
    before every evaluation; at a deadline, what is committed up to the first open position is the
    middle, and `stopped` says so unless it is complete. A cancelled request has no middle. A `rule`
    replaces the confidence threshold; it sees `k` candidates for each position.
    """
    return _fill(model, [request], on_frame, memory, interrupted, rule, k)[0]


def unread(model: Checkpoint, request: Request, memory: Memory) -> int:
    """How many tokens of a request's context are yet to be read; from any thread."""
    return memory.contexts.unread(context_of(model, request), request.owner)


def read_ahead(
    model: Checkpoint, request: Request, memory: Memory, interrupted: Callable[[], object]
) -> bool:
    """Read a request's context before anybody waits for it; whether all of it was read.

    In short passes, before each of which `interrupted` is asked; what was read is kept.
    """
    context = context_of(model, request)
    cache, _ = memory.contexts.encode(context, interrupted, ahead=True, owner=request.owner)
    return cache is not None


def fill_batch(
    model: Checkpoint,
    requests: Sequence[Request],
    on_frame: Callable[[Frame], None] | None = None,
    rule: Rule | None = None,
    k: int = 1,
) -> list[Infill]:
    """Fill holes side by side, each as it would be filled alone; outcomes in their order.

    Their options must be equal except for the seed. They share evaluations, and a hole takes part
    in no more than it needs: `nfe` is what it takes alone. The matrix products of a batch round
    differently from those of one row, so probabilities agree to about 1e-5 of their value: a text
    can differ only where two tokens, or a confidence and the threshold, are that close.
    """
    if len({replace(each.options, seed=0) for each in requests}) > 1:
        raise ValueError("requests of a batch must have the same options, except for the seed")
    return _fill(model, requests, on_frame, rule=rule, k=k) if requests else []


def _fill(
    model: Checkpoint,
    requests: Sequence[Request],
    on_frame: Callable[[Frame], None] | None,
    memory: Memory | None = None,
    interrupted: Callable[[], Interruption | None] = lambda: None,
    rule: Rule | None = None,
    k: int = 1,
) -> list[Infill]:
    """Fill holes side by side; a memory is for one alone."""
    began = time.perf_counter()
    options = requests[0].options.settled(model.settings)
    check(model, options)
    out_of_time = OutOfTime(interrupted)
    trees = memory.trees if memory else None
    holes = [
        begin(model, request, once(partial(surroundings, request, trees, out_of_time)), on_frame)
        for request in requests
    ]
    for hole in holes:
        hole.context = context_of(model, hole.request)
    counts = [len(hole.middles) for hole in holes]
    canvases = options.mode == "diffuse" and (rule is not None or not model.foresees)
    cache: KVCache | None = None
    reused, why = 0, interrupted()
    if why is None:
        if memory:
            owner = holes[0].request.owner
            leave = LATE if counts == [1] and not canvases else 0
            cache, reused = memory.contexts.encode(
                holes[0].context, interrupted, owner=owner, leave=leave
            )
        else:
            _, cache = model.backbone.encode([hole.context for hole in holes])
    if cache is not None:
        if max(counts) > 1:
            cache = cache.rows(np.arange(len(holes)).repeat(counts))
        if canvases:
            rule = rule or confidence_threshold(options.confidence_threshold or 0.0)
            why = diffuse(model, options, holes, cache, interrupted, rule, k)
        else:
            why = write_causally(model, options, holes, cache, interrupted, memory)
    else:  # interrupted before the whole context was read
        why = why or interrupted()
    if why:
        for hole in holes:
            hole.stopped = [why if end == "max_nfe" else end for end in hole.stopped]
    if why == "cancelled":
        return [replace(unanswered(why), nfe=hole.nfe) for hole in holes]
    if options.check_syntax:
        for hole in holes:
            trim(hole, why, out_of_time)
    if model.schedule is not None:
        score_as_committed([hole for hole in holes if len(hole.middles) > 1])
    elif max(counts) > 1 and cache is not None and not interrupted():
        score(model, holes, cache)
    outcomes = [judged(hole, out_of_time) for hole in holes]
    verdicts = [verdict(hole, each[0].text) for hole, each in zip(holes, outcomes, strict=True)]
    elapsed = 1000 * (time.perf_counter() - began) / len(holes)
    return [
        Infill(candidates, hole.nfe, elapsed, len(hole.context), reused, syntax, hole.frames)
        for hole, candidates, syntax in zip(holes, outcomes, verdicts, strict=True)
    ]


def surroundings(
    request: Request, trees: Trees | None, out_of_time: Callable[[], bool]
) -> Surroundings:
    """What the middle must fit into; parsed once, when a middle is judged first."""
    return Surroundings(
        request.prefix,
        request.suffix,
        trees,
        complete=request.options.complete,
        cell=request.cell,
        out_of_time=out_of_time,
    )


def context_of(model: Checkpoint, request: Request) -> list[int]:
    """The tokens to read before the middle, leaving room for the longest one in whole canvases.

    No canvas may reach past the positions that the model was trained on. A model that runs on
    closes what is open by itself, and a bound ends its middle there; so it reads the suffix from
    behind what only does that, and a bracket that an editor puts there moves nothing.
    """
    options, settings = request.options.settled(model.settings), model.settings
    block = settings.block_length if options.mode == "diffuse" else 1
    assert options.max_tokens is not None
    # A given length must not let more context in than a request without one would read.
    longest = max(options.max_tokens, min(request.length or 0, settings.longest))
    room = settings.working_context - -(-longest // block) * block
    prefix = request.prefix.removesuffix(healed_of(request, model.tokenizer))
    prefix = commented(prefix, request.instruction)
    runs_on = settings.bounded and until_of(request, settings) is not None
    begin = closed_ahead(request.prefix, request.suffix) if runs_on else 0
    return model.layout.fit(prefix, request.suffix[begin:], room, request.files)


def commented(prefix: str, instruction: str) -> str:
    """A prefix with an instruction above its last line, as a comment that is indented like it."""
    begin = prefix.rfind("\n") + 1
    indent = indentation(prefix[begin:])
    lines = [line.strip() for line in instruction.splitlines() if line.strip()]
    return prefix[:begin] + "".join(f"{indent}# {line}\n" for line in lines) + prefix[begin:]


def judged(hole: Progress, out_of_time: Callable[[], bool]) -> list[Candidate]:
    """The candidates without those to be withheld, and if one is to be written, what may not be."""
    candidates = candidates_of(hole)
    if hole.options.check_syntax and hole.request.length is None:
        distinct: dict[str, Candidate] = {}
        for each in map(partial(offered, hole), candidates):
            distinct.setdefault(each.text, each)
        candidates = sorted(
            distinct.values(), key=lambda each: not each.text and each.stopped != "eom"
        )
    if hole.request.replaces is None:
        return candidates
    guard = Guard(hole.request, out_of_time)
    refusals = []
    for each in candidates:
        known = verdict(hole, each.text)
        # A verdict that there was no time for is not kept.
        refusals.append(guard.refusal(each.text, known) if each.text in hole.verdicts else NO_TIME)
    return [replace(each, refused=why) for each, why in zip(candidates, refusals, strict=True)]


def offered(hole: Progress, candidate: Candidate) -> Candidate:
    """A candidate as it is offered: without its text if that must be withheld."""
    if not candidate.text:
        return candidate
    try:
        if withheld(hole.surroundings(), candidate.text) is None:
            return replace(candidate, unfinished=verdict(hole, candidate.text).unfinished)
    except OutOfTimeError:
        return replace(candidate, text="", tokens=[], score=None, stopped="deadline")
    return replace(candidate, text="", tokens=[], score=None, stopped="withheld")


def record(rows: Rows, canvas: int, step: Step) -> None:
    """Record a step in every request that took part in it."""
    took_part = step.took_part.tolist()
    for _, run in groupby(range(len(rows)), lambda place: id(rows[place][0])):
        places = list(run)
        if any(took_part[place] for place in places):
            hole = rows[places[0]][0]
            own = step.rows(slice(places[0], places[-1] + 1))
            numbers = [rows[place][1] for place in places]
            hole.nfe += 1
            show(hole, Frame(canvas, numbers, own, "" if canvas else hole.healed))


def write_causally(
    model: Checkpoint,
    options: Options,
    holes: list[Progress],
    cache: KVCache,
    interrupted: Callable[[], Interruption | None],
    memory: Memory | None,
) -> Interruption | None:
    """Write all rows from left to right; unless the mode is "ar", several tokens a step.

    Where an end leaves an error that more text may mend, the row goes on; in the mode "diffuse", it
    is written again from its doubtful token on. At most ATTEMPTS times, and what did not help is
    taken back. What a single row read is kept in the memory.
    """
    backbone, rows = model.backbone, rows_of(holes)
    width = max(1, *(hole.longest for hole in holes))
    lengths = [missing(hole, number) for hole, number in rows]
    canvas = first = Canvas.blank(len(rows), width, model.marks).ending(lengths)
    whole = cache.valid.sum(1) == [len(hole.context) for hole, _ in rows]
    before = cache.without(whole.astype(np.int64))
    read: list[KVCache] = [cache]
    banned: list[Banned] = [()] * len(rows)
    masks = min((options.lookahead or 1) - 1, width) if model.foresees else 0
    again = options.mode == "diffuse"
    least = (options.confidence_threshold or 0.0) if again else None
    sure = np.zeros(canvas.ids.shape, np.float32)

    def on_cache(cache: KVCache) -> None:
        read[0] = cache

    for attempt in range(1 + ATTEMPTS * options.check_syntax):
        each = [
            replace(terms(hole, number, ATTEMPT_NFE if attempt else hole.longest), banned=ban)
            for (hole, number), ban in zip(rows, banned, strict=True)
        ]
        texts = [[*hole.context, *canvas.middle(place)] for place, (hole, _) in enumerate(rows)]
        if options.mode == "ar":
            steps = autoregress(backbone, before, texts, canvas, each, on_cache)
        else:
            steps = verify(backbone, before, texts, canvas, each, masks, on_cache, least)
        while not (why := interrupted()) and (step := next(steps, None)):
            record(rows, 0, step)
            canvas = step.certain
            sure = np.where(step.committed, step.confidence, sure)
        first = first if attempt else canvas
        if why or not options.check_syntax:
            break
        if not again:  # of what is written, only the end is doubtful
            sure = 1 - (canvas.ids == model.marks.eom).astype(np.float32)
        failed, canvas, banned = reopen(rows, first, canvas, sure, banned, onwards=not again)
        canvas = put_back(rows, first, canvas, failed)
        if not canvas.open.any():
            break
    if why:  # cut off while they went on
        begun = np.flatnonzero(canvas.open.any(1) & ~first.open.any(1))
        canvas = put_back(rows, first, canvas, begun.tolist())
    for place, (hole, number) in enumerate(rows):
        ended = bool(canvas.ended[place] < width)
        extend(hole, number, canvas.middle(place), ended, forced=False)
    if memory and len(rows) == 1:
        context = holes[0].context
        known = [*context, *canvas.middle(0)][: read[0].valid.shape[1]]
        written = max(0, len(known) - len(context))
        memory.contexts.extend(known, read[0].first(len(known)), written, holes[0].request.owner)
    return why


def diffuse(
    model: Checkpoint,
    options: Options,
    holes: list[Progress],
    cache: KVCache,
    interrupted: Callable[[], Interruption | None],
    rule: Rule,
    k: int,
) -> Interruption | None:
    """Denoise canvas after canvas; rows that reach `<eom>` drop out."""
    backbone, asked = model.backbone, holes[0].request.options
    schedule = model.schedule and model.schedule.asked(asked)
    rows, number = rows_of(holes), 0
    block = canvas_width(model, holes)
    last = [hole.context[-1] for hole, _ in rows]
    while rows:
        lengths = [missing(hole, candidate) for hole, candidate in rows]
        canvas = first = Canvas.blank(len(rows), block, model.marks).ending(lengths)
        forced = np.zeros(len(rows), bool)
        sure = np.zeros(canvas.ids.shape, np.float32)
        banned: list[Banned] = [()] * len(rows)
        # A network that reads block by block cannot commit the rest of a canvas at once.
        absolute = schedule is not None and schedule.absolute
        for attempt in range(1 + ATTEMPTS * options.check_syntax):
            most = ATTEMPT_NFE if attempt and not absolute else None
            cut = np.zeros(len(rows), bool)
            each = [
                replace(terms(hole, candidate, most), banned=ban)
                for (hole, candidate), ban in zip(rows, banned, strict=True)
            ]
            if schedule is None:
                steps = denoise(backbone, cache, last, canvas, rule, each, options.lookahead, k)
            else:
                steps = follow(schedule, backbone, cache, last, canvas, each)
            while not (why := interrupted()) and (step := next(steps, None)):
                record(rows, number, step)
                canvas = step.canvas
                forced = forced if attempt else forced | step.forced
                cut |= step.forced & bool(attempt and absolute)
                sure = np.where(step.committed, step.confidence, sure)
            if why:
                for place, (hole, candidate) in enumerate(rows):
                    whole = first if attempt and not first.open[place].any() else canvas
                    ended = bool(whole.ended[place] < block) and not whole.open[place].any()
                    extend(hole, candidate, whole.middle(place), ended, forced=False)
                return why
            first = first if attempt else canvas
            if options.check_syntax and not interrupted():
                ends = canvas.ended.tolist()
                failed, canvas, banned = reopen(rows, first, canvas, sure, banned)
                failed += [place for place in np.flatnonzero(cut).tolist() if place not in failed]
                if rows[0][0].sizes:  # what is denoised again has as many tokens
                    canvas = canvas.ending(ends)
                canvas = put_back(rows, first, canvas, failed, number)
            if not canvas.open.any():
                break
        going = [
            place
            for place, (hole, candidate) in enumerate(rows)
            if extend(
                hole,
                candidate,
                canvas.middle(place),
                bool(canvas.ended[place] < block),
                bool(forced[place]),
            )
            # The canvas becomes context, one more evaluation, if anything can follow.
            and hole.nfe + 1 < hole.budget
        ]
        if not going:
            return None
        if why := interrupted():
            return why
        index = np.array(going)
        _, cache = backbone.encode(canvas.ids[index].tolist(), cache.rows(index))
        last = canvas.ids[index, -1].tolist()
        rows = [rows[place] for place in going]
        for hole in {id(hole): hole for hole, _ in rows}.values():
            hole.nfe += 1
        number += 1
    return None


def canvas_width(model: Checkpoint, holes: Sequence[Progress]) -> int:
    """Positions of a canvas: as many as the model's, or all sizes take, and an end mark behind."""
    sizes = [size for hole in holes for size in hole.sizes]
    if not sizes:
        return model.settings.block_length
    grown = model.schedule is not None and model.schedule.expand is not None
    longest = max(hole.longest for hole in holes)
    most = min(model.schedule.most, longest) if model.schedule and grown else 0
    return 1 + max(most, *sizes)
