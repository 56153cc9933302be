"""An engine for servers: a model loaded once, one worker, requests that give way to newer ones.

The worker computes one request at a time, so a model may use every core that it is
given and nothing waits for a lock inside it. What an editor no longer wants is
dropped before the next evaluation, not computed to its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Literal

from coder.checkpoint import Checkpoint
from coder.errors import UsageError
from coder.infill import Frame, Infill, Interruption, Memory, Options, infill
from coder.source import Piece

State = Literal["loading", "ready", "failed", "closed"]


@dataclass
class Counters:
    """What an engine has done since it began; times in milliseconds.

    superseded  gave way to a newer request of their document
    expired     came to their deadline; they have an answer all the same
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

    files     pieces of other files that matter there, the one that matters most last
    deadline  on the clock of `time.monotonic`, from which on what is there is the answer
    """

    document: str
    prefix: str
    suffix: str
    options: Options
    deadline: float | None
    on_frame: Callable[[Frame], None] | None
    files: tuple[Piece, ...] = ()
    future: Future[Infill] = field(default_factory=Future)
    dropped: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody wants the answer any more; asking for it raises CancelledError."""
        self.dropped.set()
        self.future.cancel()

    def interrupted(self) -> Interruption | None:
        """Whether to go on, asked before every evaluation."""
        if self.dropped.is_set():
            return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "deadline"
        return None


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
        self._load, self._capacity = load, capacity
        self._waiting: dict[str, Request] = {}  # by document, the oldest first
        self._current: Request | None = None
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="talaria-engine", daemon=True)
        self._worker.start()

    def submit(
        self,
        document: str,
        prefix: str,
        suffix: str,
        options: Options,
        seconds: float | None = None,
        on_frame: Callable[[Frame], None] | None = None,
        files: tuple[Piece, ...] = (),
    ) -> Request:
        """Ask what stands between two texts of a document; the answer is the request's `future`.

        `files` are pieces of other files, the one that matters most last. `seconds` from
        now on what is there is the answer. `on_frame` is called by the worker and should
        be quick. UsageError once the engine is closed.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        request = Request(document, prefix, suffix, options, deadline, on_frame, files)
        with self._changed:
            if self.state == "closed":
                raise UsageError("the engine is closed; start another one")
            self.counters.requests += 1
            current = self._current
            same = current if current and current.document == document else None
            for older in (self._waiting.pop(document, None), same):
                if older and not older.dropped.is_set() and not older.future.done():
                    self.counters.superseded += 1
                    older.cancel()
            self._waiting[document] = request
            self._changed.notify()
        return request

    def infill(self, prefix: str, suffix: str, options: Options) -> Infill:
        """Ask and wait: for callers that have one thing to do."""
        return self.submit("", prefix, suffix, options).future.result()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what waits and what is computed, and end the worker."""
        with self._changed:
            self.state = "closed"
            for request in (*self._waiting.values(), self._current):
                if request:
                    request.cancel()
            self._waiting.clear()
            self._changed.notify()
        self._worker.join()

    def statistics(self) -> dict[str, int | float | str]:
        """State and counters, as they are now."""
        with self._changed:
            return {"state": self.state, **asdict(self.counters)}

    def _work(self) -> None:
        try:
            model = self._load()
        except BaseException as error:
            self._fail(error)
            return
        memory = Memory(model.denoiser, self._capacity)
        with self._changed:
            if self.state == "loading":
                self.state = "ready"
        self.model.set_result(model)
        while request := self._next():
            self._answer(request, model, memory)

    def _fail(self, error: BaseException) -> None:
        """Without a model every request, now and later, fails for the same reason."""
        with self._changed:
            if self.state == "loading":
                self.state = "failed"
        self.model.set_exception(error)
        while request := self._next():
            if request.future.set_running_or_notify_cancel():
                self.counters.failed += 1
                request.future.set_exception(error)

    def _next(self) -> Request | None:
        with self._changed:
            self._current = None
            while not self._waiting and self.state != "closed":
                self._changed.wait()
            if self.state == "closed":
                return None
            self._current = self._waiting.pop(next(iter(self._waiting)))
            return self._current

    def _answer(self, request: Request, model: Checkpoint, memory: Memory) -> None:
        if request.dropped.is_set():
            self.counters.cancelled += 1
            return
        began = time.monotonic()
        try:
            found = infill(
                model,
                request.prefix,
                request.suffix,
                request.options,
                request.on_frame,
                memory,
                request.interrupted,
                request.files,
            )
        except Exception as error:
            with self._changed:
                self.counters.failed += 1
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)
            return
        with self._changed:
            count = self.counters
            count.busy_ms += 1000 * (time.monotonic() - began)
            count.nfe += found.nfe
            count.context_tokens += found.context_tokens
            count.reused_tokens += found.reused_tokens
            if request.dropped.is_set():
                count.cancelled += 1
                return
            count.answered += 1
            count.expired += found.best.stopped == "deadline"
            count.tokens += len(found.best.tokens)
        if request.future.set_running_or_notify_cancel():
            request.future.set_result(found)
