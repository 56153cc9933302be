"""Fill the hole between a prefix and a suffix: canvas after canvas until `<eom>`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from coder.canvas import Canvas
from coder.checkpoint import Checkpoint
from coder.denoiser import KVCache
from coder.errors import UsageError
from coder.sampler import Step, autoregress, denoise
from coder.syntax import Verdict, judge
from coder.tokenizer import Tokenizer
from coder.unmask import confidence_threshold

Stopped = Literal["eom", "max_nfe", "max_tokens"]


@dataclass(frozen=True)
class Options:
    """How a middle is generated.

    mode                  "diffuse" denoises canvases; "ar" writes a token a step
    candidates            middles drawn from one context, best first
    max_nfe               evaluations of the denoiser after the context is read; ranking
                          several candidates takes one of them
    max_tokens            longest middle; None: a quarter of the model's context
    temperature           0 takes the likeliest token; None: 0, but 0.7 where several
                          candidates are asked for
    confidence_threshold  probability from which a token is committed
    seed                  the same seed gives the same text
    """

    mode: Literal["diffuse", "ar"] = "diffuse"
    candidates: int = 1
    max_nfe: int = 128
    max_tokens: int | None = None
    temperature: float | None = None
    confidence_threshold: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("diffuse", "ar"):
            raise UsageError(f"mode is {self.mode!r}; it must be diffuse or ar")
        for name, low, high in (
            ("candidates", 1, 64),
            ("max_nfe", 1, 100_000),
            ("max_tokens", 1, 100_000),
            ("temperature", 0, 10),
            ("confidence_threshold", 0, 1),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {value}; it must lie between {low} and {high}"
                )
        if self.candidates > 1 and self.max_nfe < 2:
            raise UsageError(
                f"--max-nfe is 1, and ranking {self.candidates} candidates takes one evaluation; "
                "give at least 2, or ask for one candidate"
            )


@dataclass(frozen=True)
class Frame:
    """A step in the course of a request.

    canvas  number of the canvas, from 0
    rows    the candidates that its rows belong to
    """

    canvas: int
    rows: list[int]
    step: Step


@dataclass(frozen=True)
class Candidate:
    """One middle; `score` is its mean log-probability per token, read left to right.

    The score is None where only one candidate was asked for.
    """

    text: str
    tokens: list[int]
    stopped: Stopped
    score: float | None
    row: int


@dataclass(frozen=True)
class Infill:
    """The outcome of a request: distinct candidates, best first, and what they cost."""

    candidates: list[Candidate]
    nfe: int
    elapsed_ms: float
    context_tokens: int
    syntax: Verdict
    frames: list[Frame]

    @property
    def best(self) -> Candidate:
        """The candidate that is offered first."""
        return self.candidates[0]

    @property
    def tokens_per_forward(self) -> float:
        """Tokens committed for the best middle, its `<eom>` included, by evaluations."""
        return (len(self.best.tokens) + (self.best.stopped == "eom")) / self.nfe


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


def fit_context(tokenizer: Tokenizer, prefix: str, suffix: str, room: int) -> list[int]:
    """The layout of a hole in at most `room` tokens, the suffix taking up to two fifths."""
    room -= 3
    after = tokenizer.encode(suffix[: 12 * room])[: int(0.4 * room)]
    before = fit_prefix(tokenizer, prefix, room - len(after))
    return tokenizer.layout(before, after)


@torch.inference_mode()
def infill(
    model: Checkpoint,
    prefix: str,
    suffix: str,
    options: Options,
    on_frame: Callable[[Frame], None] | None = None,
) -> Infill:
    """Generate what stands between `prefix` and `suffix`; `on_frame` is shown every step."""
    began = time.perf_counter()
    denoiser, tokenizer = model.denoiser, model.tokenizer
    length = denoiser.config.context_length
    max_tokens = options.max_tokens or length // 4
    if max_tokens > length // 2:
        raise UsageError(
            f"--max-tokens is {max_tokens}; this model's limit is {length // 2}, half its context"
        )
    # Canvases are whole, and none may reach past the positions that training knew.
    block = denoiser.config.block_length if options.mode == "diffuse" else 1
    room = length - -(-max_tokens // block) * block
    context = fit_context(tokenizer, prefix, suffix, room)
    count = options.candidates
    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if count == 1 else 0.7
    request = _Request(model, options, max_tokens, temperature, on_frame)

    _, cache = denoiser.encode([context[:-1]])
    shared = cache.rows(torch.zeros(count, dtype=torch.long, device=denoiser.device))
    if options.mode == "ar":
        request.autoregress(shared, context[-1])
    else:
        request.diffuse(denoiser.encode([[context[-1]]] * count, shared)[1])
    scores = request.score(context[-1], shared) if count > 1 else [None]
    candidates: dict[str, Candidate] = {}
    for row, tokens in enumerate(request.middles):
        text = tokenizer.decode(tokens)
        candidate = Candidate(text, tokens, request.stopped[row], scores[row], row)
        candidates.setdefault(text, candidate)
    ranked = sorted(candidates.values(), key=lambda c: -(c.score or 0))
    return Infill(
        ranked,
        request.nfe,
        1000 * (time.perf_counter() - began),
        len(context),
        judge(prefix, ranked[0].text, suffix),
        request.frames,
    )


class _Request:
    """What changes while a request runs: the middles so far and the evaluations spent."""

    def __init__(
        self,
        model: Checkpoint,
        options: Options,
        max_tokens: int,
        temperature: float,
        on_frame: Callable[[Frame], None] | None,
    ) -> None:
        self.denoiser, self.tokenizer = model.denoiser, model.tokenizer
        self.options = options
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.on_frame = on_frame
        self.generators = [
            torch.Generator(self.denoiser.device).manual_seed(options.seed + row)
            for row in range(options.candidates)
        ]
        self.middles: list[list[int]] = [[] for _ in range(options.candidates)]
        self.stopped: list[Stopped] = ["max_nfe"] * options.candidates
        self.frames: list[Frame] = []
        self.budget = options.max_nfe - (options.candidates > 1)
        self.nfe = 0

    def blank(self, rows: int, length: int) -> Canvas:
        return Canvas.blank(
            rows, length, self.tokenizer.mask, self.tokenizer.eom, self.denoiser.device
        )

    def record(self, canvas: int, rows: list[int], step: Step) -> None:
        self.nfe += 1
        self.frames.append(Frame(canvas, rows, step))
        if self.on_frame is not None:
            self.on_frame(self.frames[-1])

    def autoregress(self, cache: KVCache, last: int) -> None:
        """Write all rows from left to right."""
        rows = list(range(self.options.candidates))
        canvas = self.blank(len(rows), self.max_tokens)
        for step in autoregress(
            self.denoiser,
            cache,
            last,
            canvas,
            self.budget,
            self.temperature,
            self.generators,
        ):
            self.record(0, rows, step)
            canvas = step.canvas
        self.take(canvas, rows)

    def diffuse(self, cache: KVCache) -> None:
        """Denoise canvas after canvas; rows that met `<eom>` drop out."""
        rows = list(range(self.options.candidates))
        rule = confidence_threshold(self.options.confidence_threshold)
        number = 0
        while rows and self.nfe < self.budget:
            canvas = self.blank(len(rows), self.denoiser.config.block_length)
            for step in denoise(
                self.denoiser,
                cache,
                canvas,
                rule,
                self.budget - self.nfe,
                self.temperature,
                [self.generators[row] for row in rows],
            ):
                self.record(number, rows, step)
                canvas, forced = step.canvas, step.forced.tolist()
            going = self.take(canvas, rows)
            for place, row in enumerate(rows):
                if forced[place]:
                    self.stopped[row] = "max_nfe"
            # The canvas becomes context, one more evaluation, if anything can follow.
            if not going or self.nfe + 1 >= self.budget:
                return
            index = torch.tensor(going, device=self.denoiser.device)
            _, cache = self.denoiser.encode(canvas.ids[index].tolist(), cache.rows(index))
            self.nfe += 1
            rows = [rows[place] for place in going]
            number += 1

    def take(self, canvas: Canvas, rows: list[int]) -> list[int]:
        """Append a finished canvas to the middles; the places of rows that may go on."""
        going = []
        for place, row in enumerate(rows):
            middle = self.middles[row]
            middle += canvas.middle(place)
            ended = bool(canvas.ended[place] < canvas.ids.shape[1])
            if len(middle) > self.max_tokens or (len(middle) == self.max_tokens and not ended):
                self.stopped[row] = "max_tokens"
                del middle[self.max_tokens :]
            elif ended:
                self.stopped[row] = "eom"
            else:
                going.append(place)
        return going

    def score(self, last: int, cache: KVCache) -> list[float | None]:
        """Mean log-probability of each middle and its `<eom>`, in one causal pass."""
        ends = [
            [*middle, self.tokenizer.eom] if stopped == "eom" else middle
            for middle, stopped in zip(self.middles, self.stopped, strict=True)
        ]
        hidden, _ = self.denoiser.encode([[last, *end[:-1]] for end in ends], cache)
        self.nfe += 1
        logs: Tensor = self.denoiser.logits(hidden).log_softmax(-1)
        return [float(logs[row, range(len(end)), end].mean()) for row, end in enumerate(ends)]
