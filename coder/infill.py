"""Fill the hole between a prefix and a suffix: canvas after canvas until `<eom>`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor

from talaria.coder.bounds import UNTIL, Bound, Until
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import LIMITS, Checkpoint, Decoding
from talaria.coder.contexts import Contexts
from talaria.coder.denoiser import Denoiser, KVCache
from talaria.coder.errors import UsageError
from talaria.coder.sampler import Banned, Row, Step, autoregress, denoise, leave_only, verify
from talaria.coder.source import Piece
from talaria.coder.syntax import Hurried, Surroundings, Trees, Verdict
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.unmask import Rule, confidence_factor, confidence_threshold, entropy_bound, top_k

Mode = Literal["diffuse", "verify", "ar"]
MODES: tuple[Mode, ...] = get_args(Mode)
Interruption = Literal["deadline", "cancelled"]
Stopped = Literal["eom", "bound", "length", "max_nfe", "max_tokens", "syntax"] | Interruption
MENDS, MEND_NFE = 2, 8  # times that a broken canvas is taken up again, evaluations for each
DIVERSE = 0.7  # temperature of candidates after the first
FILES = 1 / 3  # of the room for a context that pieces of other files may take
TRIED = 16  # last tokens of a broken middle at each of which it may be cut, else at line ends
GRACE = 0.05  # seconds that the look at the syntax may take when a deadline has passed
HALF = "\ufffd"  # what the tokenizer makes of bytes that are no character
# Rules that may take the place of the threshold, by the option that asks for them.
RULES: dict[str, Callable[..., Rule]] = {
    "confidence_factor": confidence_factor,
    "entropy_bound": entropy_bound,
    "top_k": top_k,
}


@dataclass(frozen=True)
class Options:
    """How a middle is generated; what `Decoding` has too is the model's own where it is None.

    mode                  "diffuse" denoises canvases; "ar" writes a token a step; "verify"
                          writes what "ar" would, with drafts from the text, in fewer steps
    candidates            middles drawn from one context, best first
    max_nfe               evaluations of the denoiser after the context is read; ranking
                          several candidates takes one of them
    max_tokens            longest middle; None: a quarter of the model's context
    until                 where a middle ends at the latest: with the "line", "statement" or
                          "block" that the hole is in, as `coder/bounds.py` has them
    temperature           0 takes the likeliest token; None: 0 for the first candidate,
                          DIVERSE for further ones
    confidence_threshold  confidence from which a token is committed
    lookahead             positions that a step looks at behind what is committed
    confidence_factor, entropy_bound, top_k
                          another rule in the place of the threshold, at most one:
                          `coder/unmask.py` says what they do
    remask                tokens committed with less confidence are masked once more when the
                          canvas is whole, and chosen again in sight of all others; in the
                          mode "diffuse"; None: they stay
    check_syntax          a middle that adds a syntax error is denoised again from the doubtful
                          token in the error on, MENDS times; what is still broken is cut to
                          its longest part that adds none, maybe to nothing
    complete              a middle that lacks the body of a block that it opens counts as
                          one that adds an error: right for what is written into a file,
                          not for what is offered while its user types on
    seed                  the same seed gives the same text
    """

    mode: Mode = "diffuse"
    candidates: int = 1
    max_nfe: int | None = None
    max_tokens: int | None = None
    until: Until | None = None
    temperature: float | None = None
    confidence_threshold: float | None = None
    lookahead: int | None = None
    confidence_factor: float | None = None
    entropy_bound: float | None = None
    top_k: int | None = None
    remask: float | None = None
    check_syntax: bool = True
    complete: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode is {self.mode!r}; it must be {', '.join(MODES[:-1])} or ar")
        if self.until not in (None, *UNTIL):
            raise UsageError(f"--until is {self.until!r}; it must be {', '.join(UNTIL)}")
        for name, kind, low, high in (
            *((name, *limits) for name, limits in LIMITS.items()),
            ("candidates", int, 1, 64),
            ("max_tokens", int, 1, 100_000),
            ("temperature", float, 0, 10),
            ("confidence_factor", float, 0, 1000),
            ("entropy_bound", float, 0, 1000),
            ("top_k", int, 1, 100_000),
            ("remask", float, 0, 1),
            ("seed", int, 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is None and getattr(Options, name) is None:
                continue
            number = isinstance(value, (int, kind)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {value!r}; it must be a "
                    f"{'whole ' * (kind is int)}number between {low} and {high}"
                )
        if self.mode == "verify" and (self.candidates > 1 or (self.temperature or 0) > 0):
            raise UsageError(
                f"--mode verify writes one middle, that of temperature 0; asked for were "
                f"{self.candidates} at {self.temperature or 0}; use --mode ar or diffuse"
            )
        given = [f"--{name.replace('_', '-')}" for name in RULES if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are rules of their own; give one of them")
        if self.candidates > 1 and self.max_nfe == 1:
            raise UsageError(
                f"--max-nfe is 1, and ranking {self.candidates} candidates takes one evaluation; "
                "give at least 2, or ask for one candidate"
            )

    def settled(self, decoding: Decoding) -> Options:
        """The options with a model's own settings where none were given."""
        own = {
            name: value for name, value in asdict(decoding).items() if getattr(self, name) is None
        }
        return replace(self, **own)

    @property
    def rule(self) -> Rule:
        """Which positions become tokens in a step; of options that are settled."""
        for name, rule in RULES.items():
            if (value := getattr(self, name)) is not None:
                return rule(value)
        assert self.confidence_threshold is not None
        return confidence_threshold(self.confidence_threshold)


@dataclass(frozen=True)
class Hole:
    """A place to fill, and what is known of its middle.

    seed    of its chance; None: that of the options
    length  tokens of the middle, where it is known: exactly so many are written, and the
            model sees where they end; None: the model decides. `max_tokens` does not
            bind it. A middle longer than half the model's context is cut off there
    files   pieces of other files, the one that matters most last; they take FILES of the
            room for the context at most, the foremost left out first
    """

    prefix: str
    suffix: str
    seed: int | None = None
    length: int | None = None
    files: tuple[Piece, ...] = ()

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 0:
            raise UsageError(f"length is {self.length}; a middle has at least 0 tokens")


@dataclass(frozen=True)
class Frame:
    """A step in the course of a request; some are no evaluation but take others back.

    canvas  number of the canvas, from 0
    rows    the candidates that its rows belong to
    healed  what its first token repeats of the prefix; only a first canvas has one
    """

    canvas: int
    rows: list[int]
    step: Step
    healed: str = ""

    def text(self, row: int, tokenizer: Tokenizer) -> str:
        """What the canvas says in a row up to its first mask, without what is `healed`."""
        return tokenizer.decode(self.step.canvas.middle(row)).removeprefix(self.healed)


@dataclass(frozen=True)
class Candidate:
    """One middle; `score` is its mean log-probability per token, read left to right.

    The score is None where only one candidate was asked for, or nothing is left of it.
    The first of the tokens `repeats` the prefix's last one and nothing else, if that is said.
    """

    text: str
    tokens: list[int]
    stopped: Stopped
    score: float | None
    row: int
    repeats: bool = False

    @property
    def length(self) -> int:
        """How many tokens its text has."""
        return len(self.tokens) - self.repeats

    @property
    def committed(self) -> int:
        """How many tokens were chosen for it: those of its text, and its `<eom>`."""
        return self.length + (self.stopped == "eom")


@dataclass(frozen=True)
class Infill:
    """The outcome of a request: distinct candidates, best first, and what they cost.

    elapsed_ms     of a hole filled beside others: its share, the time of all by their number
    reused_tokens  of the context, remembered from a former request
    """

    candidates: list[Candidate]
    nfe: int
    elapsed_ms: float
    context_tokens: int
    reused_tokens: int
    syntax: Verdict
    frames: list[Frame]

    @property
    def best(self) -> Candidate:
        """The candidate that is offered first."""
        return self.candidates[0]

    def probabilities(self, candidate: Candidate) -> list[float]:
        """Those at which a middle's tokens were committed, its `<eom>` included.

        Tokens that were cut off for an error have theirs too: they cast doubt on the rest.
        """
        sure: dict[tuple[int, int, int], float] = {}  # by canvas, position and token
        canvases: dict[int, list[int]] = {}
        for frame in self.frames:
            if candidate.row not in frame.rows:
                continue
            step, place = frame.step, frame.rows.index(candidate.row)
            ids = step.canvas.ids[place].tolist()
            # What an attempt wrote that was given up, or stands after a later `<eom>`, is left out.
            canvases[frame.canvas] = ids[: int(step.canvas.ended[place]) + 1]
            for position in step.committed[place].nonzero().flatten().tolist():
                sure[frame.canvas, position, ids[position]] = float(
                    step.confidence[place, position]
                )
        return [
            sure[canvas, position, token]
            for canvas, ids in sorted(canvases.items())
            for position, token in enumerate(ids)
            if (canvas, position, token) in sure
        ]

    def confidence(self, candidate: Candidate) -> float:
        """How likely a middle is right throughout, by the model: their product.

        It tells suggestions that are accepted from others better than the least
        probability or the geometric mean do: docs/evaluation.md has the figures.
        """
        return math.prod(self.probabilities(candidate))

    @property
    def tokens_per_forward(self) -> float:
        """Tokens committed for the best middle, its `<eom>` included, by evaluations."""
        return self.best.committed / max(1, self.nfe)


def unanswered(why: Interruption) -> Infill:
    """The outcome of a request that was interrupted before anything was read."""
    return Infill([Candidate("", [], why, None, 0)], 0, 0.0, 0, 0, Verdict(0, 0), [])


class Memory:
    """What is kept from request to request; it saves time and changes no answer.

    Contexts of at most `capacity` tokens. Not for several threads.
    """

    def __init__(self, denoiser: Denoiser, capacity: int = 4096) -> None:
        self.contexts = Contexts(denoiser, capacity)
        self.trees = Trees()


def fit_prefix(tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """The last tokens of a prefix, at most `room`, cut at a place that typing seldom moves.

    Text and tokens are dropped in coarse steps, so that a few more characters
    at the end leave the beginning, and thereby a cache, as it was.
    """
    reach = 8 * room
    excess = max(0, len(text) - reach)
    start = -(-excess // room) * room
    if start:
        start = text.find("\n", start, start + room) + 1 or start
    ids = tokenizer.encode(text[start:])
    step = max(1, room // 4)
    return ids[-(-max(0, len(ids) - room) // step) * step :]


def fit_files(tokenizer: Tokenizer, files: Sequence[Piece], room: int) -> list[int]:
    """The last of the pieces that `room` tokens hold, each behind its header."""
    found: list[int] = []
    for piece in reversed(files):
        ids = [*tokenizer.file_header(piece.path), *tokenizer.encode(piece.text)]
        if len(found) + len(ids) > room:
            break
        found = ids + found
    return found


def fit_context(
    tokenizer: Tokenizer, prefix: str, suffix: str, room: int, files: Sequence[Piece] = ()
) -> list[int]:
    """The layout of a hole in at most `room` tokens.

    Pieces of other files take up to FILES of it, the suffix two fifths of what they leave.
    """
    room -= 3
    beside = fit_files(tokenizer, files, int(FILES * room))
    room -= len(beside)
    after = tokenizer.encode(suffix[: 12 * room])[: int(0.4 * room)]
    before = fit_prefix(tokenizer, prefix, room - len(after))
    return tokenizer.layout(before, after, beside)


def infill(
    model: Checkpoint,
    prefix: str,
    suffix: str,
    options: Options,
    on_frame: Callable[[Frame], None] | None = None,
    memory: Memory | None = None,
    interrupted: Callable[[], Interruption | None] = lambda: None,
    files: tuple[Piece, ...] = (),
) -> Infill:
    """Generate what stands between `prefix` and `suffix`; `on_frame` is shown every step.

    `files` are pieces of other files, as a `Hole` has them. With a `memory`, which must be
    of this model, what was read before is not read again. `interrupted` is asked before
    every evaluation; at a deadline, what has been committed up to the first open position
    is the middle, and `stopped` says so unless it is complete. A cancelled one has none.
    """
    hole = Hole(prefix, suffix, files=files)
    return _fill(model, [hole], options, on_frame, memory, interrupted)[0]


def infill_batch(
    model: Checkpoint,
    holes: Sequence[Hole],
    options: Options,
    on_frame: Callable[[Frame], None] | None = None,
) -> list[Infill]:
    """Fill holes side by side, each as it would be filled alone; the outcomes in their order.

    They share evaluations, and a hole takes part in no more of them than it needs:
    `nfe` is what it takes alone. The matrix products of a batch round otherwise than
    those of a single row, so probabilities agree to about 1e-5 of their value, not bit
    for bit: a text can differ only where two tokens, or a confidence and the threshold,
    lie as near to each other as that. `on_frame` is shown the steps of every hole.
    """
    return _fill(model, holes, options, on_frame) if holes else []


@torch.inference_mode()
def _fill(
    model: Checkpoint,
    holes: Sequence[Hole],
    options: Options,
    on_frame: Callable[[Frame], None] | None,
    memory: Memory | None = None,
    interrupted: Callable[[], Interruption | None] = lambda: None,
) -> list[Infill]:
    """Fill holes side by side; a memory is for one alone."""
    began = time.perf_counter()
    denoiser, tokenizer = model.denoiser, model.tokenizer
    options = options.settled(model.decoding)
    total = denoiser.config.context_length
    max_tokens = options.max_tokens or total // 4
    if max_tokens > total // 2:
        raise UsageError(
            f"--max-tokens is {max_tokens}; this model's limit is {total // 2}, half its context"
        )
    trees, hurried = memory.trees if memory else None, _Hurry(interrupted)
    courses = [
        _Course(hole, options, max_tokens, model, on_frame, trees, hurried) for hole in holes
    ]
    # Canvases are whole, and none may reach past the positions that training knew.
    block = denoiser.config.block_length if options.mode == "diffuse" else 1
    for hole, course in zip(holes, courses, strict=True):
        # A length that is known makes room for nothing that would not be there otherwise.
        longest = max(max_tokens, course.longest)
        room = total - -(-longest // block) * block
        prefix = hole.prefix.removesuffix(course.healed)
        course.context = fit_context(tokenizer, prefix, hole.suffix, room, hole.files)
    contexts = [course.context for course in courses]
    count = options.candidates

    reused, why = 0, interrupted()
    if why is None:
        if memory:
            cache, reused = memory.contexts.encode(contexts[0])
        else:
            _, cache = denoiser.encode(contexts)
        if count > 1:
            each = torch.arange(len(holes), device=denoiser.device)
            cache = cache.rows(each.repeat_interleave(count))
        decode = _diffuse if options.mode == "diffuse" else _autoregress
        why = decode(model, options, courses, cache, interrupted)
    if why:
        for course in courses:
            course.interrupt(why)
    if why == "cancelled":
        return [replace(unanswered(why), nfe=course.nfe) for course in courses]
    if options.check_syntax:
        for course in courses:
            course.trim(why)
    if count > 1 and not interrupted():
        _score(model, courses, cache)
    outcomes = [course.candidates() for course in courses]
    verdicts = [
        course.judged(candidates[0].text)
        for course, candidates in zip(courses, outcomes, strict=True)
    ]
    elapsed = 1000 * (time.perf_counter() - began) / len(holes)
    found = []
    made = zip(courses, contexts, outcomes, verdicts, strict=True)
    for course, context, candidates, syntax in made:
        cost = course.nfe, elapsed, len(context), reused
        found.append(Infill(candidates, *cost, syntax, course.frames))
    return found


class _Hurry:
    """Whether a look at the syntax must end: cancelled, or GRACE past a deadline."""

    def __init__(self, interrupted: Callable[[], Interruption | None]) -> None:
        self.interrupted = interrupted
        self.since: float | None = None

    def __call__(self) -> bool:
        why = self.interrupted()
        if why is None:
            return False
        self.since = self.since or time.monotonic()
        return why == "cancelled" or time.monotonic() - self.since > GRACE


class _Course:
    """What changes while a hole is filled: its middles so far and the evaluations spent."""

    def __init__(
        self,
        hole: Hole,
        options: Options,
        max_tokens: int,
        model: Checkpoint,
        on_frame: Callable[[Frame], None] | None,
        trees: Trees | None,
        hurried: Callable[[], bool],
    ) -> None:
        self.tokenizer, self.trees, self.hurried = model.tokenizer, trees, hurried
        self.hole = hole
        self.context: list[int] = []
        # The last token before the hole is chosen anew, so that it begins with the same text:
        # as it stands, it says that the word was over (token healing, as in `guidance`).
        self.healed = "" if hole.length is not None else self.tokenizer.last_token(hole.prefix)
        self.first = self.tokenizer.beginning_with(self.healed) if self.healed else None
        self.length = hole.length
        limit = model.denoiser.config.context_length // 2
        self.longest = max_tokens if hole.length is None else min(hole.length, limit)
        self.on_frame = on_frame
        seed = options.seed if hole.seed is None else hole.seed
        self.generators = [
            torch.Generator(model.denoiser.device).manual_seed(seed + number)
            for number in range(options.candidates)
        ]
        self.middles: list[list[int]] = [[] for _ in range(options.candidates)]
        self.stopped: list[Stopped] = ["max_nfe"] * options.candidates
        self.scores: list[float | None] = [None] * options.candidates
        self.frames: list[Frame] = []
        self.verdicts: dict[str, Verdict] = {}
        self.bound = Bound(options.until, hole.prefix) if options.until else None
        self.reached: set[tuple[int, ...]] = set()  # middles that a bound ended
        self.complete = options.complete
        self.given_temperature = options.temperature
        assert options.max_nfe is not None
        self.budget = options.max_nfe - (options.candidates > 1)
        self.nfe = 0

    @cached_property
    def surroundings(self) -> Surroundings:
        """What the middle must fit into."""
        sides = self.hole.prefix, self.hole.suffix
        return Surroundings(*sides, self.trees, complete=self.complete, hurried=self.hurried)

    def written(self, tokens: list[int]) -> str:
        """The text of a middle's tokens, without what the first repeats of the prefix."""
        return self.tokenizer.decode(tokens)[len(self.healed) :]

    def text(self, tokens: list[int]) -> str:
        """The same, as far as it lies within the bound."""
        text = self.written(tokens)
        return text if self.bound is None else text[: self.bound.end(text)]

    def within(self, number: int, tokens: list[int]) -> int | None:
        """How many tokens of a canvas it takes to reach the bound; None if it is not reached."""
        assert self.bound is not None
        middle = self.middles[number]
        end = self.bound.end(self.written([*middle, *tokens]))
        if end is None:
            return None
        lengths = (
            len(self.written([*middle, *tokens[:count]])) for count in range(len(tokens) + 1)
        )
        within = next(count for count, length in enumerate(lengths) if length >= end)
        self.reached.add((*middle, *tokens[:within]))
        return within

    def judged(self, text: str) -> Verdict:
        """What a middle does to the syntax of its surroundings.

        Half a character, which the tokens of its bytes can leave, is an error. Where there is
        no time to judge it, a middle is refused.
        """
        if text not in self.verdicts:
            whole = HALF not in text or HALF in self.hole.prefix or HALF in self.hole.suffix
            try:
                self.verdicts[text] = self.surroundings.judge(text) if whole else Verdict(0, 1)
            except Hurried:
                return Verdict(0, 0, refused=bool(text))
        return self.verdicts[text]

    def doubtful(self, number: int, tokens: list[int], sure: list[float]) -> int | None:
        """Where to take a candidate's last canvas up again; None if it adds no error.

        `tokens` are those of the canvas up to its `<eom>` and `sure` their
        probabilities, the end's included. It is the least sure token that an error
        touches; the end, if what is wrong is that something lacks there. An end that a
        bound put there is in no doubt: it would be put there again. Nor is a first token
        for which there are few others.
        """
        text = self.text([*self.middles[number], *tokens])
        if self.judged(text).clean:
            return None
        bound = bool(tokens) and (*self.middles[number], *tokens) in self.reached
        try:
            body = self.surroundings.with_body(text) if self.complete and not bound else None
            errors = self.surroundings.errors(text)
        except Hurried:
            return None
        if body and body.clean:
            return len(tokens)
        before = self.written(self.middles[number])
        ends = [
            len(self.written([*self.middles[number], *tokens[:count]]).encode())
            for count in range(1, len(tokens) + 1)
        ]
        begins = [len(before.encode()), *ends]
        ends = [*ends, begins[-1]]
        touched = [
            place
            for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
            if any(low <= end and begin <= high for low, high in errors)
        ]
        first = None if self.middles[number] else self.first
        if first is not None and len(first) <= MENDS:
            touched = [place for place in touched if place]
        places = touched or list(range(len(ends)))
        if bound:
            places = [place for place in places if place < len(tokens)] or [len(tokens) - 1]
        return min(places, key=lambda place: sure[place])

    def interrupt(self, why: Interruption) -> None:
        """What had not come to its end ended for this reason."""
        self.stopped = [why if end == "max_nfe" else end for end in self.stopped]

    def trim(self, why: Interruption | None) -> None:
        """Cut each candidate to the longest part that adds no syntax error.

        If it was interrupted, a broken one is cut to nothing: to look for a part takes time.
        """
        if self.length is not None:
            return  # so long it shall be
        for number, middle in enumerate(self.middles):
            whole = len(middle)
            for count in range(whole, -1, -1):
                if whole - count > TRIED and count and not self.ends_line(middle, count):
                    continue
                text = self.text(middle[:count])
                if not count or ((text.strip() or count == whole) and self.judged(text).clean):
                    break
                if why is None and self.hurried():
                    why = "deadline"
                if why:
                    count = 0
                    break
            if count < whole:
                del middle[count:]
                if self.stopped[number] not in get_args(Interruption):
                    self.stopped[number] = why or "syntax"

    def ends_line(self, middle: list[int], count: int) -> bool:
        """Whether so many tokens of a middle, and not all, end a line, its line break or not."""
        ends = (
            self.tokenizer.decode(middle[count - 1 : count]),
            self.tokenizer.decode(middle[count : count + 1]),
        )
        return ends[0].endswith("\n") or ends[1].startswith("\n")

    def row(self, number: int, most: int | None = None) -> Row:
        """What holds for a candidate now; it may take at most so many evaluations more."""
        left = self.budget - self.nfe
        return Row(
            self.generators[number],
            left if most is None else min(left, most),
            self.length is None,
            bound=partial(self.within, number) if self.bound else None,
            temperature=self.temperature(number),
            first=None if self.middles[number] else self.first,
        )

    def temperature(self, number: int) -> float:
        """At which a candidate is drawn: by itself, the first is the likeliest."""
        if self.given_temperature is not None:
            return self.given_temperature
        return DIVERSE if number else 0.0

    def left(self, number: int) -> int | None:
        """How many tokens a candidate still lacks, where its length is given."""
        return None if self.length is None else self.longest - len(self.middles[number])

    def record(self, frame: Frame) -> None:
        """A step was made."""
        self.nfe += 1
        self.show(frame)

    def show(self, frame: Frame) -> None:
        """Something became of a canvas, by an evaluation or without."""
        self.frames.append(frame)
        if self.on_frame is not None:
            self.on_frame(frame)

    def take(self, number: int, tokens: list[int], ended: bool, forced: bool) -> bool:
        """Append a finished canvas to a candidate; whether it may go on."""
        middle = self.middles[number]
        middle += tokens
        if tuple(middle) in self.reached and len(middle) <= self.longest:
            self.stopped[number] = "bound"
            return False
        by_itself = ended and self.length is None
        if len(middle) >= self.longest and not (by_itself and len(middle) == self.longest):
            self.stopped[number] = "length" if self.length == self.longest else "max_tokens"
            del middle[self.longest :]
        elif by_itself:
            self.stopped[number] = "eom"
        else:
            return True
        if forced:
            self.stopped[number] = "max_nfe"
        return False

    def candidates(self) -> list[Candidate]:
        """Distinct middles, best first; what was cut to nothing, or not begun, last."""
        found: dict[str, Candidate] = {}
        for number, tokens in enumerate(self.middles):
            text, end, score = self.text(tokens), self.stopped[number], self.scores[number]
            repeats = bool(self.healed) and self.tokenizer.decode(tokens[:1]) == self.healed
            candidate = Candidate(text, tokens, end, score, number, repeats)
            found.setdefault(text, candidate)
        return sorted(
            found.values(), key=lambda c: (not c.text and c.stopped != "eom", -(c.score or 0))
        )


# A row of a batch: a hole's course and the number of one of its candidates.
_Rows = list[tuple[_Course, int]]


def _rows(courses: Sequence[_Course]) -> _Rows:
    return [(course, number) for course in courses for number in range(len(course.middles))]


def _record(rows: _Rows, canvas: int, step: Step) -> None:
    """Tell every hole that took part in a step what became of its rows."""
    took_part = step.committed.any(1).tolist()
    for course, run in groupby(range(len(rows)), lambda place: rows[place][0]):
        places = list(run)
        if any(took_part[place] for place in places):
            own = step.rows(slice(places[0], places[-1] + 1))
            numbers = [rows[place][1] for place in places]
            course.record(Frame(canvas, numbers, own, "" if canvas else course.healed))


def _autoregress(
    model: Checkpoint,
    options: Options,
    courses: Sequence[_Course],
    cache: KVCache,
    interrupted: Callable[[], Interruption | None],
) -> Interruption | None:
    """Write all rows from left to right, in the mode "verify" with drafts read ahead."""
    tokenizer, rows = model.tokenizer, _rows(courses)
    width = max(1, *(course.longest for course in courses))
    canvas = Canvas.blank(
        len(rows), width, tokenizer.mask, tokenizer.eom, model.denoiser.device
    ).ending([course.left(number) for course, number in rows])
    before = cache.without(torch.ones_like(cache.next_position))
    terms = [course.row(number, course.longest) for course, number in rows]
    if options.mode == "verify":
        steps = verify(
            model.denoiser, before, [course.context for course, _ in rows], canvas, terms
        )
    else:
        steps = autoregress(model.denoiser, before, tokenizer.mid, canvas, terms)
    while not (why := interrupted()) and (step := next(steps, None)):
        _record(rows, 0, step)
        canvas = step.canvas
    ended = (canvas.ended < width).tolist()
    for place, (course, number) in enumerate(rows):
        course.take(number, canvas.middle(place), ended[place], forced=False)
    return why


def _diffuse(
    model: Checkpoint,
    options: Options,
    courses: Sequence[_Course],
    cache: KVCache,
    interrupted: Callable[[], Interruption | None],
) -> Interruption | None:
    """Denoise canvas after canvas; rows that met `<eom>` drop out."""
    denoiser, tokenizer = model.denoiser, model.tokenizer
    rule = options.rule
    block, rows, number = denoiser.config.block_length, _rows(courses), 0
    while rows:
        canvas = Canvas.blank(
            len(rows), block, tokenizer.mask, tokenizer.eom, denoiser.device
        ).ending([course.left(candidate) for course, candidate in rows])
        forced = torch.zeros(len(rows), dtype=torch.bool, device=denoiser.device)
        sure = torch.zeros(canvas.ids.shape, device=denoiser.device)
        banned: list[Banned] = [()] * len(rows)
        written = canvas
        for turn in range(1 + (options.remask is not None) + MENDS * options.check_syntax):
            mend = any(banned)
            terms = [
                replace(course.row(candidate, MEND_NFE if mend else None), banned=ban)
                for (course, candidate), ban in zip(rows, banned, strict=True)
            ]
            steps = denoise(denoiser, cache, canvas, rule, terms, options.lookahead)
            while not (why := interrupted()) and (step := next(steps, None)):
                _record(rows, number, step)
                canvas = step.canvas
                forced = forced if mend else forced | step.forced
                sure = torch.where(step.committed, step.confidence, sure)
            if why:
                for place, (course, candidate) in enumerate(rows):
                    whole = written if turn and not written.open[place].any() else canvas
                    complete = bool(whole.ended[place] < block) and not whole.open[place].any()
                    course.take(candidate, whole.middle(place), complete, forced=False)
                return why
            written = canvas if not mend else written
            if options.remask is not None and not turn:
                canvas = _doubted(rows, canvas, sure, options.remask)
                if canvas.open.any():
                    continue
            if options.check_syntax and not interrupted():
                vain, canvas, banned = _taken_up(rows, written, canvas, sure, banned)
                for place in vain:
                    canvas = canvas.with_row(place, written.ids[place])
                    course, candidate = rows[place]
                    back = Step.taken_back(written.rows(slice(place, place + 1)))
                    course.show(Frame(number, [candidate], back, "" if number else course.healed))
            if not canvas.open.any():
                break
        ended, ran_out = (canvas.ended < block).tolist(), forced.tolist()
        going = [
            place
            for place, (course, candidate) in enumerate(rows)
            if course.take(candidate, canvas.middle(place), ended[place], ran_out[place])
            # The canvas becomes context, one more evaluation, if anything can follow.
            and course.nfe + 1 < course.budget
        ]
        if not going:
            return None
        if why := interrupted():
            return why
        index = torch.tensor(going, device=denoiser.device)
        _, cache = denoiser.encode(canvas.ids[index].tolist(), cache.rows(index))
        rows = [rows[place] for place in going]
        for course in {id(course): course for course, _ in rows}.values():
            course.nfe += 1
        number += 1
    return None


def _doubted(rows: _Rows, canvas: Canvas, sure: Tensor, least: float) -> Canvas:
    """The canvas with masks for the tokens that were committed with less confidence.

    They were chosen before others were there; ends stay. A row whose budget is spent does too.
    """
    doubtful = (sure < least) & (canvas.ids != canvas.mask) & (canvas.ids != canvas.eom)
    spent = torch.tensor([course.nfe >= course.budget for course, _ in rows], device=sure.device)
    return replace(canvas, ids=canvas.ids.masked_fill(doubtful & ~spent[:, None], canvas.mask))


def _taken_up(
    rows: _Rows, written: Canvas, canvas: Canvas, sure: Tensor, banned: Sequence[Banned]
) -> tuple[list[int], Canvas, list[Banned]]:
    """Open rows that ended in a syntax error again, from their doubtful token on.

    Returns the rows that were mended in vain, the canvas, and for each row what it may
    not say: a doubtful token is not chosen again where it stood.
    """
    vain, after = [], list(banned)
    ended = (canvas.ended < canvas.ids.shape[1]).tolist()
    for place, (course, number) in enumerate(rows):
        if course.length is not None or not (ended[place] or banned[place]):
            continue  # its length is given, or there is more to come
        doubt = None
        if ended[place]:
            chances = sure[place, : int(canvas.ended[place]) + 1].tolist()
            doubt = course.doubtful(number, canvas.middle(place), chances)
            if doubt is None:
                continue
        if doubt is None or len(banned[place]) == MENDS or course.nfe >= course.budget:
            if not torch.equal(canvas.ids[place], written.ids[place]):
                vain.append(place)
            continue
        after[place] = (*banned[place], (doubt, int(canvas.ids[place, doubt])))
        ids = canvas.ids[place].clone()
        ids[doubt:] = canvas.mask
        canvas = canvas.with_row(place, ids)
    return vain, canvas, after


def _score(model: Checkpoint, courses: Sequence[_Course], cache: KVCache) -> None:
    """Mean log-probability of each middle and its `<eom>`, in one causal pass."""
    rows, tokenizer = _rows(courses), model.tokenizer
    ends = [
        [*course.middles[n], tokenizer.eom] if course.stopped[n] == "eom" else course.middles[n]
        for course, n in rows
    ]
    read = [[tokenizer.mid, *end[:-1]] for end in ends]
    hidden, _ = model.denoiser.encode(read, cache.without(torch.ones_like(cache.next_position)))
    logits = model.denoiser.logits(hidden)
    for place, (course, _) in enumerate(rows):
        if course.first is not None:  # the choice was among these
            leave_only(logits[place, 0], course.first)
    logs = logits.log_softmax(-1)
    for place, ((course, number), end) in enumerate(zip(rows, ends, strict=True)):
        if end:
            course.scores[number] = float(logs[place, range(len(end)), end].mean())
    for course in courses:
        course.nfe += 1
