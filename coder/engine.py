"""An engine for servers: a model loaded once, and newer requests supersede older ones.

One worker computes one request at a time, so a model may use every core that it is given. Several
workers share the passes of the model (`batched`). A cancelled request stops before its next
evaluation. Only requests that go to a remote endpoint instead are superseded elsewhere
(`lsp/engines`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from talaria.coder.batched import Batched
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.contexts import CAPACITY
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, fill, read_ahead, unread
from talaria.coder.machine import Pace, trim_memory
from talaria.coder.request import Request
from talaria.coder.results import Frame, Infill, Interruption, unanswered

IDLE = 2.0  # seconds without work, after which memory is given back
HELD = 0.01  # seconds between two looks at whether reading ahead may go on

EngineState = Literal["loading", "ready", "failed", "closed"]


@dataclass
class Counters:
    """What an engine has done since it started. Every request is answered, cancelled or failed.

    superseded  the cancelled ones that a newer request about their document replaced
    expired     the answered ones whose deadline passed first
    busy_ms     milliseconds that workers computed or waited for each other, loading excluded
    """

    requests: int = 0
    answered: int = 0
    cancelled: int = 0
    superseded: int = 0
    expired: int = 0
    failed: int = 0
    nfe: int = 0
    tokens: int = 0
    context_tokens: int = 0
    reused_tokens: int = 0
    busy_ms: float = 0.0


@dataclass(eq=False)
class Pending:
    """A request that was submitted; `future` gets the outcome.

    After `cancel`, or cancelling the future, asking for the outcome raises CancelledError.

    deadline  on the clock of `time.monotonic`; from then on, what is committed is the answer
    since     since when its document has waited for an answer, on that clock
    """

    request: Request
    document: Hashable
    deadline: float | None
    since: float
    on_frame: Callable[[Frame], None] | None
    future: Future[Infill] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.future.add_done_callback(_notify_if_cancelled)

    def cancel(self) -> None:
        """Say that the outcome is no longer wanted."""
        self.future.cancel()

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def interrupted(self) -> Interruption | None:
        """Why to stop, if at all; asked before every evaluation."""
        if self.future.cancelled():
            return "cancelled"
        return "deadline" if self.late else None


def _notify_if_cancelled(future: Future[Infill]) -> None:
    """Wake up `concurrent.futures.wait` and the like, which cancelling alone does not."""
    if future.cancelled():
        future.set_running_or_notify_cancel()


class Engine:
    """Answers requests with one model.

    Of a document, only the newest request is answered; older ones are cancelled. It takes the place
    of one that still waited, so whoever types on loses none. Otherwise requests are answered in
    their order, as many at a time as there are workers.
    """

    def __init__(
        self,
        load: Callable[[], Checkpoint],
        capacity: int = CAPACITY,
        *,
        workers: int = 1,
        most_bytes: int | None = None,
        on_pass: Callable[[int], None] = lambda calls: None,
    ) -> None:
        """Start loading in the background.

        KV caches of at most `capacity` tokens are kept or, if given, `most_bytes`. With several
        workers, `on_pass` is told how many requests shared each pass.
        """
        if workers < 1:
            raise UsageError(f"workers is {workers}; it must be at least 1")
        self.counters = Counters()
        self.state: EngineState = "loading"
        self.model: Future[Checkpoint] = Future()
        self._waiting: dict[Hashable, Pending] = {}  # by document
        self._running: set[Pending] = set()
        self._ahead: Request | None = None  # whose context is read while nothing waits
        self._worked = True  # since memory was given back; loading takes some, too
        self._held: Callable[[], bool] = lambda: False  # whether reading it has to wait
        self._changed = threading.Condition()
        self._memory: Memory | None = None
        self._reading = False

        def memory_of(model: Checkpoint) -> tuple[Checkpoint, Memory]:
            if workers > 1 and model.schedule is None:
                model = replace(model, backbone=Batched(model.backbone, on_pass))
            return model, Memory(model, capacity, most_bytes)

        loader = threading.Thread(
            target=self._load, args=(load, memory_of), name="talaria-loader", daemon=True
        )
        self._workers = [
            threading.Thread(target=self._work, name="talaria-engine", daemon=True)
            for _ in range(workers)
        ]
        for thread in (loader, *self._workers):
            thread.start()

    @property
    def workers(self) -> int:
        """How many requests are computed at a time."""
        return len(self._workers)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the KV caches that are kept."""
        return self._memory.contexts.bytes if self._memory else 0

    def submit(self, request: Request, on_frame: Callable[[Frame], None] | None = None) -> Pending:
        """Queue a request; it supersedes an older one about the same document.

        Its deadline counts from now; if it still waits then, its outcome is empty. `on_frame` is
        called by the worker and should be quick. UsageError once the engine is closed.
        """
        now = time.monotonic()
        deadline = None if request.seconds is None else now + request.seconds
        # Requests without a document supersede nothing.
        document = object() if request.document is None else request.document
        with self._changed:
            if self.state == "closed":
                raise UsageError("the engine is closed; start another one")
            self.counters.requests += 1
            waiting = self._waiting.pop(document, None)
            since = waiting.since if waiting else now
            pending = Pending(request, document, deadline, since, on_frame)
            self.counters.cancelled += waiting is not None
            same = [each for each in self._running if each.document == document]
            older = [each for each in (waiting, *same) if each and not each.future.done()]
            self.counters.superseded += len(older)
            self._waiting[document] = pending
            if self._ahead and self._ahead.document == request.document:
                self._ahead = None  # answering reads it
            self._changed.notify_all()
        pending.future.add_done_callback(lambda _: self._forget(pending))
        # Cancelling calls back to whoever waits, who may submit again: not while locked.
        for each in older:
            each.cancel()
        return pending

    def read_ahead(self, request: Request, held: Callable[[], bool] = lambda: False) -> None:
        """Read the context of a request that is not made yet, while there is nothing else to do.

        That is, nothing here, and nothing that `held` says is more urgent. Only the newest such
        wish counts. What was read is kept, also of one that others interrupt.
        """
        with self._changed:
            self._ahead, self._held = request, held
            self._changed.notify_all()

    @property
    def pace(self) -> Pace:
        """How fast the model reads; nothing is known before it is loaded."""
        return self._memory.contexts.pace if self._memory else Pace()

    def seconds_to_first(self, request: Request) -> float:
        """Seconds until the first token of an answer is found, going by the latest passes.

        What the worker is doing now is not counted. Infinity while there is no model, or its passes
        have not been timed.
        """
        if self._memory is None or not self.model.done():
            return math.inf
        return self.pace.seconds(unread(self.model.result(), request, self._memory))

    def warm_up(self) -> None:
        """Wait for the model and time its passes, before there is any request.

        Raises what loading raised.
        """
        self.model.result()
        assert self._memory is not None
        self._memory.contexts.warm_up()
        with self._changed:
            self._worked = True
            self._changed.notify_all()

    def fill(self, request: Request) -> Infill:
        """Submit a request and wait for its outcome; CancelledError if the engine is closed."""
        return self.submit(request).future.result()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what waits and what is computed, and end the workers."""
        with self._changed:
            self.state = "closed"
            dropped = [*self._waiting.values()]
            self.counters.cancelled += len(dropped)
            dropped += self._running
            self._waiting.clear()
            self._changed.notify_all()
        for pending in dropped:
            pending.cancel()
        for thread in self._workers:
            if threading.current_thread() is not thread:
                thread.join()

    def statistics(self) -> dict[str, int | float | str]:
        """State and counters, as they are now."""
        with self._changed:
            return {"state": self.state, **asdict(self.counters)}

    def _load(
        self,
        load: Callable[[], Checkpoint],
        memory_of: Callable[[Checkpoint], tuple[Checkpoint, Memory]],
    ) -> None:
        """Load the model; if that fails, every request fails with the same error."""
        try:
            model, self._memory = memory_of(load())
            self.model.set_result(model)
        except BaseException as error:
            self.model.set_exception(error)
        with self._changed:
            if self.state == "loading":
                self.state = "failed" if self.model.exception() else "ready"
            self._changed.notify_all()

    def _work(self) -> None:
        memory: Memory | None = None
        while found := self._next():
            if memory is None and self._memory is not None:
                memory = self._memory.beside()
            if isinstance(found, Pending):
                self._answer(found, memory)
            else:
                self._read(found)
            with self._changed:
                self._worked = True
                if isinstance(found, Pending):
                    self._running.discard(found)
                else:
                    self._reading = False
                self._changed.notify_all()

    def _next(self) -> Pending | Request | None:
        """The request whose turn it is, once there is a model; None once closed.

        Without any, and if no worker has one, a request whose context is to be read.
        """
        while True:
            self._answer_late()
            with self._changed:
                if self.state == "closed":
                    return None
                if self._waiting and self.model.done():
                    found = min(self._waiting.values(), key=lambda each: each.since)
                    del self._waiting[found.document]
                    self._running.add(found)
                    return found
                busy = bool(self._running) or self._reading
                held = self._ahead is not None and self.model.done() and (busy or self._held())
                if self._ahead and self.model.done() and not held:
                    self._reading = True
                    return self._ahead
                deadlines = [r.deadline for r in self._waiting.values() if r.deadline is not None]
                soon = min(deadlines, default=None)
                seconds = None if soon is None else max(0, soon - time.monotonic())
                idle = self._worked and self.model.done() and not (self._waiting or held or busy)
                if self._changed.wait(HELD if held else IDLE if idle else seconds) or not idle:
                    continue
                self._worked = False
            if not self.model.exception():
                self.model.result().backbone.release()
                trim_memory()

    def _read(self, request: Request) -> None:
        """Read a context ahead until something else is to be done."""
        began = time.monotonic()

        def interrupted() -> bool:
            held, closed = self._held(), self.state == "closed"
            return bool(self._waiting) or self._ahead is not request or held or closed

        done = True
        with suppress(Exception):  # the request itself will fail, and say why
            assert self._memory is not None
            model = self.model.result()
            with taking_part(model):
                done = read_ahead(model, request, self._memory, interrupted)
        with self._changed:
            self.counters.busy_ms += 1000 * (time.monotonic() - began)
            if self._ahead is request and done:
                self._ahead = None

    def _forget(self, pending: Pending) -> None:
        """Keep a request that waits no longer than somebody wants its outcome."""
        with self._changed:
            # Superseded ones are counted where they are replaced, computed ones when they stop.
            if pending.future.cancelled() and self._waiting.get(pending.document) is pending:
                del self._waiting[pending.document]
                self.counters.cancelled += 1

    def _answer_late(self) -> None:
        """Requests whose deadline passes while they wait get an empty answer."""
        with self._changed:
            late = [pending for pending in self._waiting.values() if pending.late]
            for pending in late:
                del self._waiting[pending.document]
        for pending in late:
            self._settle(pending, unanswered("deadline"))

    def _answer(self, pending: Pending, memory: Memory | None) -> None:
        if pending.future.cancelled():
            self._settle(pending, unanswered("cancelled"))
            return
        began = time.monotonic()

        def interrupted() -> Interruption | None:
            self._answer_late()
            return pending.interrupted()

        found: Infill | BaseException
        try:
            model = self.model.result()
            with taking_part(model):
                found = fill(model, pending.request, pending.on_frame, memory, interrupted)
        # Whatever a caller's `on_frame` raises, other requests still need an answer.
        except BaseException as error:
            found = error
        with self._changed:
            self.counters.busy_ms += 1000 * (time.monotonic() - began)
        self._settle(pending, found)

    def _settle(self, pending: Pending, found: Infill | BaseException) -> None:
        """Count a request, then give it its outcome, or the error that it failed with.

        In this order, an outcome that somebody has is in the counters already.
        """
        with self._changed:
            count = self.counters
            if isinstance(found, Infill):
                count.nfe += found.nfe
                count.context_tokens += found.context_tokens
                count.reused_tokens += found.reused_tokens
            if pending.future.cancelled():
                count.cancelled += 1
                return
            if isinstance(found, Infill):
                count.answered += 1
                count.expired += found.best.stopped == "deadline"
                count.tokens += found.best.length
            else:
                count.failed += 1
        try:
            if isinstance(found, Infill):
                pending.future.set_result(found)
            else:
                pending.future.set_exception(found)
        except InvalidStateError:
            return  # cancelled since it was counted


def taking_part(model: Checkpoint) -> AbstractContextManager[None]:
    """Be one of the requests whose passes wait for each other, if several share them."""
    backbone = model.backbone
    return backbone.taking_part() if isinstance(backbone, Batched) else nullcontext()
