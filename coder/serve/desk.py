"""Between clients and the engine: who is admitted, who has to wait, and what each one gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from talaria.coder.errors import TalariaError
from talaria.coder.progress import healed_of, may_be_cut
from talaria.coder.serve.exchange import Asked, Choice, Given, Refusal, given

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import Engine
    from talaria.coder.request import Request
    from talaria.coder.results import Frame
    from talaria.coder.serve.metrics import Metrics

NOTHING = Choice("", "stop", ())
RETRY = 1.0  # seconds, at least, until somebody who was sent away should come again


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    queue    requests that wait or are computed, at most; more are sent away
    seconds  the longest deadline; it also holds for requests that set none
    """

    queue: int = 64
    seconds: float = 20.0


@dataclass(frozen=True)
class About:
    """What clients may know of the model.

    context, longest  tokens that it reads and writes together, and that a middle has, at most
    workers           requests that are computed at a time
    """

    name: str
    context: int
    longest: int
    workers: int


class Answering(Protocol):
    """What the routes ask: a `Desk`, or one whose engines are elsewhere."""

    limits: Limits
    admitted: int

    @property
    def about(self) -> About:
        """The model; Refusal while it is loading, or if it cannot be loaded."""

    @property
    def ready(self) -> bool:
        """Whether a request would be admitted now."""

    async def ask(
        self,
        asked: Asked,
        owner: str,
        client: str,
        on_text: Callable[[str], None] | None = None,
    ) -> Given:
        """The outcome of a request, as `Desk` has it."""


class Desk:
    """Admits requests, asks the engine, gives back what it finds. For one event loop."""

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics) -> None:
        self.engine, self.limits, self.metrics = engine, limits, metrics
        self.admitted = 0
        self.stopping = False
        self.pace = 0.0  # seconds that the engine takes for a request, smoothed
        metrics.watch(self, lambda: engine.kept_bytes)

    @property
    def model(self) -> Checkpoint:
        """The model; Refusal while it is loading, or if it cannot be loaded."""
        if not self.engine.model.done():
            raise loading()
        if error := self.engine.model.exception():
            raise Refusal(f"no model: {error}", 503, "unavailable_error")
        return self.engine.model.result()

    @property
    def about(self) -> About:
        """The model, as `Answering` has it."""
        model = self.model
        settings = model.settings
        return About(model.name, settings.working_context, settings.longest, self.engine.workers)

    @property
    def ready(self) -> bool:
        """Whether a request would be admitted now."""
        loaded = self.engine.model.done() and not self.engine.model.exception()
        return loaded and not self.stopping and self.admitted < self.limits.queue

    def stop(self) -> None:
        """Refuse what comes from now on; what was admitted is finished."""
        self.stopping = True

    async def ask(
        self,
        asked: Asked,
        owner: str,
        client: str,
        on_text: Callable[[str], None] | None = None,
    ) -> Given:
        """The outcome of a request; cancelling the caller's task cancels it.

        `owner` is whose cached contexts it may use, `client` who may supersede it. `on_text` gets
        the text of the first choice so far, in the event loop; where a bound or a repetition of
        the suffix may cut it, only if each text replaces the one before.

        Raises:
            Refusal: there is no place for it, a newer one superseded it, or it is wrong.
        """
        model = self.model
        if self.stopping:
            raise offline()
        if self.admitted >= self.limits.queue:
            raise full(self.admitted, self.pace * self.admitted / self.engine.workers)
        request = asked.request(model, owner, client, self.limits.seconds)
        if asked.ahead:
            self.engine.read_ahead(request)
            return Given((NOTHING,), 0, 0, 0, 0, 0.0, 0.0, model.name)
        if on_text is not None and not asked.whole and may_be_cut(request, model.settings):
            on_text = None  # that would take back what was told
        watch = Watch(request, model, on_text, whole=asked.whole)
        self.admitted += 1
        try:
            pending = self.engine.submit(request, watch)
            pending.future.add_done_callback(watch.end)
            found = await asyncio.wrap_future(pending.future)
        except (CancelledError, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # nobody waits any more
            if self.engine.state == "closed":
                raise offline() from None
            raise Refusal(
                "a newer request about the same document superseded this one", 409, "superseded"
            ) from None
        except TalariaError as error:
            raise Refusal(str(error)) from None
        finally:
            self.admitted -= 1
        if found.nfe:  # what only waited says nothing of the pace
            self.pace += 0.1 * (found.elapsed_ms / 1000 - self.pace)
        outcome = given(found, request, asked, model, watch.since_first)
        self.metrics.answered(outcome)
        return outcome


# Each refusal is a new one: an exception that is raised again keeps the frames, and so the texts,
# of every request that it was raised for.
def loading() -> Refusal:
    """Why somebody is sent away before there is a model."""
    return Refusal("Loading model", 503, "unavailable_error", retry_after=RETRY)


def offline() -> Refusal:
    """Why somebody is sent away once the server stops."""
    said = "the server is stopping; ask again in a moment"
    return Refusal(said, 503, "unavailable_error", retry_after=5)


def full(admitted: int, seconds: float) -> Refusal:
    """Why somebody is sent away who comes while so many wait, for about so long."""
    seconds = max(RETRY, seconds)
    return Refusal(
        f"{admitted} requests are waiting, the most that this server takes on; ask again in "
        f"{seconds:.0f} s",
        429,
        "rate_limit_error",
        retry_after=seconds,
    )


class Watch:
    """Follows a request step by step, called by the engine's worker.

    `on_text` gets the whole text so far, or what no later step of the canvas replaces.
    """

    def __init__(
        self,
        request: Request,
        model: Checkpoint,
        on_text: Callable[[str], None] | None,
        *,
        whole: bool,
    ) -> None:
        self.first: float | None = None  # when the first step was done
        self.last = 0.0  # when there was an outcome, or the request was given up
        self.on_text, self.whole = on_text, whole
        if on_text is not None:  # only a stream needs these, and they take half a millisecond
            self.tokenizer, self.loop = model.tokenizer, asyncio.get_running_loop()
            self.most = request.options.settled(model.settings).max_tokens
            self.healed = healed_of(request, model.tokenizer)
            self.canvases: dict[int, list[int]] = {}

    def __call__(self, frame: Frame) -> None:
        """Note a step, and tell what the text is now."""
        self.first = self.first or time.monotonic()
        if self.on_text is None or 0 not in frame.rows:
            return
        row = frame.rows.index(0)
        step = frame.step
        self.canvases[frame.canvas] = step.canvas.middle(row) if self.whole else step.settled(row)
        tokens = [token for _, ids in sorted(self.canvases.items()) for token in ids]
        text = self.tokenizer.decode(tokens[: self.most]).removeprefix(self.healed)
        self.loop.call_soon_threadsafe(self.on_text, text.rstrip("\ufffd"))

    def end(self, _: object) -> None:
        """Note that there is an outcome; the event loop may hear of it later."""
        self.last = time.monotonic()

    @property
    def since_first(self) -> float:
        """Seconds from the first step to the outcome; 0 if there was none."""
        return 0.0 if self.first is None else max(0.0, self.last - self.first)
