"""A dialogue with a model that was trained for it: turns become a context, answers are decoded.

What anybody writes is text and never a special token; the sentinels around it come from here alone.
What a turn has read stays in the KV cache, so that the next one reads only what is new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from talaria.coder.backbone import KVCache, Marks
from talaria.coder.canvas import Canvas
from talaria.coder.capabilities import check_decoding
from talaria.coder.causal import autoregress, verify
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.contexts import common_prefix
from talaria.coder.errors import CheckpointError, UsageError
from talaria.coder.request import Options
from talaria.coder.sampler import Row, Step, denoise
from talaria.coder.schedule import Schedule
from talaria.coder.scheduled import follow
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.unmask import confidence_threshold

LONGEST = 4096  # tokens of a dialogue: 100 MB of keys and values with the large model
SYSTEM = "You are a coding assistant. Answer briefly, and put code into fenced blocks."

Role = Literal["system", "user", "assistant"]
Ended = Literal["end", "max_tokens", "cancelled"]


@dataclass(frozen=True)
class Template:
    """How a turn is written: `opening role (named) gap text closing behind`.

    first    sentinels before the first turn
    opening  the sentinel that begins a turn
    named    the sentinel behind the role; None: the role ends with the gap
    gap      text between the role and what is said
    closing  the sentinel that ends a turn
    behind   text between two turns
    """

    opening: str
    closing: str
    gap: str
    named: str | None = None
    first: tuple[str, ...] = ()
    behind: str = ""

    @property
    def sentinels(self) -> tuple[str, ...]:
        """All that a vocabulary must have."""
        named = () if self.named is None else (self.named,)
        return (*self.first, self.opening, *named, self.closing)

    def begun(self, tokenizer: Tokenizer, role: Role, text: str = "") -> list[int]:
        """A turn up to the end of this text, which may go on."""
        opening = tokenizer.special[self.opening]
        if self.named is None:
            return [opening, *tokenizer.encode(role + self.gap + text)]
        named = tokenizer.special[self.named]
        return [opening, *tokenizer.encode(role), named, *tokenizer.encode(self.gap + text)]

    def ended(self, tokenizer: Tokenizer) -> list[int]:
        """What stands behind the text of a turn."""
        return [tokenizer.special[self.closing], *tokenizer.encode(self.behind)]


# The tokens of each are those of the template in the publisher's own files, as their Jinja reads.
TEMPLATES = (
    # ChatML: tokenizer.chat_template in the GGUF file of Qwen2.5-Coder-0.5B-Instruct.
    Template("<|im_start|>", "<|im_end|>", "\n", behind="\n"),
    # tokenizer_config.json of GSAI-ML/LLaDA-8B-Instruct, which takes it from Llama 3.
    Template(
        "<|start_header_id|>",
        "<|eot_id|>",
        "\n\n",
        named="<|end_header_id|>",
        first=("<|startoftext|>",),
    ),
)


def template_of(model: Checkpoint) -> Template:
    """The template whose sentinels a model's vocabulary has.

    CheckpointError for models that have none, and for those that learn the length of a middle by
    growing it: they were never trained to answer.
    """
    if model.schedule is not None and model.schedule.expand is not None:
        raise CheckpointError(
            f"{model.name} was trained to find the length of a middle, so it fills holes and "
            "answers nothing; name another model with --model"
        )
    special = model.tokenizer.special.keys()
    for each in TEMPLATES:
        if special >= {*each.sentinels}:
            return each
    raise CheckpointError(
        f"{model.name} has no chat template, so it fills holes and answers nothing; fetch a model "
        "that does (`talaria models get qwen2.5-coder-0.5b`) or name one with --model"
    )


@dataclass(frozen=True)
class Turn:
    """What was said by whom, as tokens with the sentinels around them."""

    role: Role
    ids: list[int]


@dataclass(frozen=True)
class Reply:
    """An answer, and what it took.

    stopped         at its own end, at the limit, or because somebody wished so
    nfe             evaluations of the model behind the context
    context_tokens  those that stand before the answer; `reused_tokens` of them were read before
    dropped         how many of the oldest turns no longer fit, and were left out
    stale_steps     those computed with an approximate cache, by number, from 1; None: it was not
                    used
    """

    text: str
    tokens: list[int]
    stopped: Ended
    mode: str
    nfe: int
    elapsed_ms: float
    context_tokens: int
    reused_tokens: int
    dropped: int
    stale_steps: tuple[int, ...] | None = None

    @property
    def tokens_per_forward(self) -> float:
        """Tokens committed, the end of the turn included, per evaluation."""
        return (len(self.tokens) + (self.stopped == "end")) / max(1, self.nfe)


OnStep = Callable[[list[int], list[int]], None]
"""Gets the tokens that stand, and those that were evaluated behind them, masks included.

What stands is never taken back: where a schedule may do so, nothing stands before the end.
"""


class Dialogue:
    """Turns with one model; `ask` adds two.

    system  what the model is told about its part
    longest tokens of the dialogue that the model sees, the answer included; the oldest turns are
            left out beyond
    most    tokens of an answer: half of that
    """

    def __init__(self, model: Checkpoint, system: str = SYSTEM) -> None:
        self.template = template_of(model)
        self.model, self.tokenizer = model, model.tokenizer
        special = self.tokenizer.special
        closing = special[self.template.closing]
        never = {*model.marks.never, model.marks.eom, *special.values()} - {closing}
        self.marks = Marks(model.marks.mask, closing, (*sorted(never),))
        # The same network: a turn ends at another token than a middle.
        self.backbone = copy(model.backbone)
        self.backbone.marks, self.backbone.on_read = self.marks, self._keep
        positions = self.backbone.positions or model.settings.working_context
        self.longest = min(LONGEST, positions)
        self.most = self.longest // 2
        first = [special[name] for name in self.template.first]
        self.head = [*first, *self._turn("system", system).ids]
        self.turns: list[Turn] = []
        self._read: list[int] = []  # the token of each column of the cache
        self._cache: KVCache | None = None

    def ask(
        self,
        text: str,
        options: Options,
        interrupted: Callable[[], bool] = lambda: False,
        on_step: OnStep = lambda stands, behind: None,
    ) -> Reply:
        """Say something, and decode the answer; both are then turns of the dialogue.

        `interrupted` is asked before every evaluation; what stands by then is the answer, and
        nothing was said if that is nothing. Raises
        UsageError, and leaves the dialogue as it was, for options that the model cannot serve and
        for a text that is too long.
        """
        began = time.perf_counter()
        schedule = self.model.schedule and self.model.schedule.asked(options)
        options = options.settled(self.model.settings)
        room = self.check(options)
        asked = self._turn("user", text)
        opening = self.template.begun(self.tokenizer, "assistant")
        kept, dropped = fitting([*self.turns, asked], room)
        if not kept:
            raise UsageError(
                f"this turn has {len(asked.ids):,} tokens, and there is room for {room:,} beside "
                "an answer; shorten it, or lower --max-tokens"
            )
        context = [*self.head, *(token for turn in kept for token in turn.ids), *opening]
        reused = min(common_prefix(context, self._read), len(context) - 1)
        tokens, stopped, stale = self._decode(context, options, schedule, interrupted, on_step)
        if tokens or stopped != "cancelled":
            end = self.template.ended(self.tokenizer)
            self.turns = [*kept, Turn("assistant", [*opening, *tokens, *end])]
        elapsed = 1000 * (time.perf_counter() - began)
        said = self.tokenizer.decode(tokens)
        mode = str(options.mode)
        numbers = tuple(number for number, flag in enumerate(stale, 1) if flag)
        approximate = numbers if options.approximate_cache else None
        cost = len(stale), elapsed, len(context), reused, dropped
        return Reply(said, tokens, stopped, mode, *cost, approximate)

    def _turn(self, role: Role, text: str) -> Turn:
        begun = self.template.begun(self.tokenizer, role, text)
        return Turn(role, [*begun, *self.template.ended(self.tokenizer)])

    def check(self, options: Options) -> int:
        """How many tokens all turns may have beside an answer by these options.

        UsageError for options that the model cannot serve, and where nothing could be asked.
        """
        options = options.settled(self.model.settings)
        assert options.max_tokens is not None
        if options.max_tokens > self.most:
            raise UsageError(
                f"--max-tokens is {options.max_tokens}; the limit is {self.most}, half of what a "
                "dialogue may have"
            )
        check_decoding(self.model, options)
        opening = self.template.begun(self.tokenizer, "assistant")
        room = self.longest - options.max_tokens - len(opening)
        if room - len(self.head) <= len(self._turn("user", "").ids):
            raise UsageError(
                f"what --system and --context say has {len(self.head):,} tokens, and a dialogue of "
                f"{self.longest:,} has room for {room:,} beside an answer, the questions included; "
                "give less of it, or lower --max-tokens"
            )
        return room - len(self.head)

    def _decode(
        self,
        context: list[int],
        options: Options,
        schedule: Schedule | None,
        interrupted: Callable[[], bool],
        on_step: OnStep,
    ) -> tuple[list[int], Ended, list[bool]]:
        """The tokens of an answer, why it ended, and whether each evaluation was approximate."""
        assert options.max_tokens is not None
        width, tokens, stale = options.max_tokens, list[int](), list[bool]()
        whole = schedule is not None and bool(schedule.sizes)  # an answer is one canvas
        kept = schedule is None or schedule.pace != "p2"  # whether what stands is final
        # A canvas that sees itself causally may be of any length.
        if options.mode == "diffuse" and not self.backbone.shift and not whole:
            width = self.model.settings.block_length
        seen = options.lookahead or width if options.mode == "diffuse" else self._masks(options)
        if schedule is not None:  # it chooses where
            seen = width
        steps_of = 0 if schedule is None else schedule.steps or 0
        row = Row(
            np.random.default_rng(options.seed),
            # Never reached: a step commits one token at least, or is one of a schedule's own.
            max(options.max_tokens, steps_of) + 1,
            temperature=options.temperature or 0.0,
        )
        while len(tokens) < options.max_tokens:
            causal = options.mode != "diffuse" or self.model.foresees
            known = [*context, *tokens]
            if whole:  # with nothing behind it
                known = self.model.layout.arrange(known, [])
            cache = self._encode(known[: len(known) - causal], interrupted)
            if cache is None:
                return tokens, "cancelled", stale
            size = min(width, options.max_tokens - len(tokens))
            canvas = Canvas.blank(1, size, self.marks)
            steps = self._steps(known, cache, canvas, options, schedule, row)
            while canvas.open.any():
                if interrupted():
                    return [*tokens, *canvas.middle(0)], "cancelled", stale
                step = next(steps)
                shown, canvas = step.canvas, step.certain
                stale.append(step.stale is not None and bool(step.stale.any()))
                stands = canvas.middle(0) if kept or not canvas.open.any() else []
                behind = shown.ids[0, len(stands) : len(stands) + seen]
                behind = behind[: max(0, shown.ended[0] - len(stands))]
                on_step([*tokens, *stands], behind.tolist())
            tokens += canvas.middle(0)
            if canvas.ended[0] < size and len(tokens) <= options.max_tokens:
                return tokens, "end", stale
        return tokens[: options.max_tokens], "max_tokens", stale

    def _steps(
        self,
        known: list[int],
        cache: KVCache,
        canvas: Canvas,
        options: Options,
        schedule: Schedule | None,
        row: Row,
    ) -> Iterator[Step]:
        """The steps that write a canvas; the cache has the last token known only to denoise."""
        if schedule is not None:
            return follow(schedule, self.backbone, cache, known[-1:], canvas, [row])
        if options.mode == "diffuse" and not self.model.foresees:
            rule = confidence_threshold(options.confidence_threshold or 0.0)
            return denoise(self.backbone, cache, known[-1:], canvas, rule, [row], options.lookahead)
        if options.mode == "ar":
            return autoregress(self.backbone, cache, [known], canvas, [row])
        masks = min(self._masks(options), canvas.ids.shape[1])
        least = (options.confidence_threshold or 0.0) if options.mode == "diffuse" else None
        return verify(self.backbone, cache, [known], canvas, [row], masks, least=least)

    def _masks(self, options: Options) -> int:
        """The masks that an evaluation reads where it writes from left to right."""
        return (options.lookahead or 1) - 1 if options.mode != "ar" and self.model.foresees else 0

    def _encode(self, ids: list[int], interrupted: Callable[[], bool]) -> KVCache | None:
        """The KV cache of these tokens, read as far as they are not yet; None if interrupted."""
        shared = common_prefix(ids, self._read)
        cache = self._cache.first(shared) if self._cache and shared else None
        step = self.backbone.pass_length or len(ids)
        for begin in range(shared, len(ids), step):
            if interrupted():
                return None
            _, cache = self.backbone.encode([ids[begin : begin + step]], cache)
        return cache

    def _keep(self, rows: Sequence[Sequence[int]], before: KVCache | None, cache: KVCache) -> None:
        """Keep what was read; what a draft or a mask said stays there until it is found wrong."""
        begin = 0 if before is None else before.valid.shape[1]
        self._read = [*self._read[:begin], *rows[0]]
        self._cache = cache


def fitting(turns: Sequence[Turn], room: int) -> tuple[list[Turn], int]:
    """The newest turns that fit into so many tokens, and how many are left out.

    Where not all fit, no more than half of the room is used, so that this is not needed at every
    turn: what follows must be read anew. Answers never stand first. Nothing fits where the last
    turn does not.
    """
    size = sum(len(turn.ids) for turn in turns)
    kept = list(turns)
    if size > room:
        while len(kept) > 1 and (size > room // 2 or kept[0].role == "assistant"):
            size -= len(kept.pop(0).ids)
    return (kept, len(turns) - len(kept)) if size <= room else ([], len(turns))
