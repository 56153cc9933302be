"""An engine for servers: a model loaded once, one worker, requests that give way to newer ones.

The worker computes one request at a time, so a model may use every core that it is
given and nothing waits for a lock inside it. What an editor no longer wants is
dropped before the next evaluation, not computed to its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass, field
from typing import Literal

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.infill import Frame, Infill, Interruption, Memory, Options, infill, unanswered
from talaria.coder.source import Piece

State = Literal["loading", "ready", "failed", "closed"]


@dataclass
class Counters:
    """What an engine has done since it began; times in milliseconds.

    Every request ends as one that was answered, cancelled or failed.

    superseded  of those cancelled, which gave way to a newer request of their document
    expired     of those answered, which came to their deadline
    busy_ms     the worker's time, loading excluded
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
class Request:
    """A hole in a document that was asked about; `future` gets the answer.

    Whoever cancels the future, or the request, wants no answer any more: asking for it
    raises CancelledError.

    files     pieces of other files that matter there, the one that matters most last
    deadline  on the clock of `time.monotonic`, from which on what is there is the answer
    """

    document: Hashable
    prefix: str
    suffix: str
    options: Options
    deadline: float | None
    on_frame: Callable[[Frame], None] | None
    files: tuple[Piece, ...] = ()
    future: Future[Infill] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.future.add_done_callback(_tell_of_cancelling)

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self.future.cancel()

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def interrupted(self) -> Interruption | None:
        """Whether to go on, asked before every evaluation."""
        if self.future.cancelled():
            return "cancelled"
        return "deadline" if self.late else None


def _tell_of_cancelling(future: Future[Infill]) -> None:
    """Let those know who wait for several futures: cancelling alone does not wake them."""
    if future.cancelled():
        future.set_running_or_notify_cancel()


class Engine:
    """Answers requests about documents with one model.

    Of a document, the newest request alone is answered: an older one is cancelled.
    Requests of different documents are answered in their order.
    """

    def __init__(self, load: Callable[[], Checkpoint], capacity: int = 4096) -> None:
        """Begin to load in the background; contexts of at most `capacity` tokens are remembered."""
        self.counters = Counters()
        self.state: State = "loading"
        self.model: Future[Checkpoint] = Future()
        self._waiting: dict[Hashable, Request] = {}  # by document, the oldest first
        self._current: Request | None = None
        self._changed = threading.Condition()
        self._memory: Memory | None = None
        loader = threading.Thread(
            target=self._load, args=(load, capacity), name="talaria-loader", daemon=True
        )
        self._worker = threading.Thread(target=self._work, name="talaria-engine", daemon=True)
        loader.start()
        self._worker.start()

    def submit(
        self,
        document: Hashable,
        prefix: str,
        suffix: str,
        options: Options,
        seconds: float | None = None,
        on_frame: Callable[[Frame], None] | None = None,
        files: tuple[Piece, ...] = (),
    ) -> Request:
        """Ask what stands between two texts of a document; the answer is the request's `future`.

        `files` are pieces of other files, the one that matters most last. `seconds` from
        now on what is there is the answer; if the request still waits then, nothing is.
        `on_frame` is called by the worker and should be quick. UsageError once the engine
        is closed.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        request = Request(document, prefix, suffix, options, deadline, on_frame, files)
        with self._changed:
            if self.state == "closed":
                raise UsageError("the engine is closed; start another one")
            self.counters.requests += 1
            waiting, current = self._waiting.pop(document, None), self._current
            self.counters.cancelled += waiting is not None
            same = current if current and current.document == document else None
            older = [each for each in (waiting, same) if each and not each.future.done()]
            self.counters.superseded += len(older)
            self._waiting[document] = request
            self._changed.notify()
        # Whoever is told of it may ask something, so not while the lock is held.
        for each in older:
            each.cancel()
        return request

    def infill(self, prefix: str, suffix: str, options: Options) -> Infill:
        """Ask about a document of its own and wait; CancelledError if the engine is closed."""
        return self.submit(object(), prefix, suffix, options).future.result()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what waits and what is computed, and end the worker."""
        with self._changed:
            self.state = "closed"
            dropped = [*self._waiting.values()]
            self.counters.cancelled += len(dropped)
            dropped += [self._current] if self._current else []
            self._waiting.clear()
            self._changed.notify()
        for request in dropped:
            request.cancel()
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def statistics(self) -> dict[str, int | float | str]:
        """State and counters, as they are now."""
        with self._changed:
            return {"state": self.state, **asdict(self.counters)}

    def _load(self, load: Callable[[], Checkpoint], capacity: int) -> None:
        """Without a model every request, now and later, fails for the same reason."""
        try:
            model = load()
            self._memory = Memory(model.denoiser, capacity)
            self.model.set_result(model)
        except BaseException as error:
            self.model.set_exception(error)
        with self._changed:
            if self.state == "loading":
                self.state = "failed" if self.model.exception() else "ready"
            self._changed.notify()

    def _work(self) -> None:
        while request := self._next():
            self._answer(request)

    def _next(self) -> Request | None:
        """The request that has waited longest, once there is a model; None once closed."""
        while True:
            self._answer_late()
            with self._changed:
                self._current = None
                if self.state == "closed":
                    return None
                if self._waiting and self.model.done():
                    self._current = self._waiting.pop(next(iter(self._waiting)))
                    return self._current
                deadlines = [r.deadline for r in self._waiting.values() if r.deadline is not None]
                soon = min(deadlines, default=None)
                self._changed.wait(None if soon is None else max(0, soon - time.monotonic()))

    def _answer_late(self) -> None:
        """Requests whose deadline passes while they wait get an empty answer."""
        with self._changed:
            late = [request for request in self._waiting.values() if request.late]
            for request in late:
                del self._waiting[request.document]
        for request in late:
            self._settle(request, unanswered("deadline"))

    def _answer(self, request: Request) -> None:
        if request.future.cancelled():
            self._settle(request, unanswered("cancelled"))
            return
        began = time.monotonic()

        def interrupted() -> Interruption | None:
            self._answer_late()
            return request.interrupted()

        found: Infill | BaseException
        try:
            model = self.model.result()
            found = infill(
                model,
                request.prefix,
                request.suffix,
                request.options,
                request.on_frame,
                self._memory,
                interrupted,
                request.files,
            )
        # Whatever a caller's `on_frame` raises, others are still to be answered.
        except BaseException as error:
            found = error
        with self._changed:
            self.counters.busy_ms += 1000 * (time.monotonic() - began)
        self._settle(request, found)

    def _settle(self, request: Request, found: Infill | BaseException) -> None:
        """Give a request its answer, or the reason why there is none, and count it.

        It is counted first, so that who has an answer finds it among the figures.
        """
        with self._changed:
            count = self.counters
            if isinstance(found, Infill):
                count.nfe += found.nfe
                count.context_tokens += found.context_tokens
                count.reused_tokens += found.reused_tokens
            if request.future.cancelled():
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
                request.future.set_result(found)
            else:
                request.future.set_exception(found)
        except InvalidStateError:
            return  # cancelled since it was counted
