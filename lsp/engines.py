"""Who answers: the embedded model, or a service in its place while that works.

The model is imported and loaded in a thread, so that the server answers `initialize`
before torch is there. A service that fails is left alone for a while (`lsp/endpoint.py`),
and the embedded model answers meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from talaria.coder.bounds import Bound
from talaria.coder.errors import TalariaError
from talaria.coder.source import Piece
from talaria.lsp.options import Options

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import Engine
    from talaria.coder.infill import Frame, Infill
    from talaria.lsp.endpoint import Endpoint

log = logging.getLogger("talaria")

T = TypeVar("T")
State = Literal["loading", "ready", "failed", "closed"]
DIVERSE = 0.7  # temperature at which a service is asked for several
WHOLE = 256  # tokens that a service may say where nothing else bounds them, as for a function


@dataclass(frozen=True)
class Question:
    """A hole in a document, and what is wanted for it.

    document    a request of the same one gives way to a newer
    count       how many middles are wanted; the first is the likeliest
    complete    whether nothing may be left for somebody to type
    seconds     until what is there is the answer
    """

    document: Hashable
    prefix: str
    suffix: str
    files: tuple[Piece, ...] = ()
    count: int = 1
    max_tokens: int | None = None
    until: Literal["line", "statement", "block"] | None = None
    complete: bool = False
    check_syntax: bool = True
    seconds: float | None = None


@dataclass(frozen=True)
class Answer:
    """Middles, the likeliest first; how sure that one is; what the model did, if it was ours.

    Those of a service are not judged: they may break the text.
    """

    texts: tuple[str, ...]
    confidence: float
    found: Infill | None = None


class Engines:
    """The embedded model and, where one is set, a service that is asked first."""

    def __init__(
        self,
        options: Options,
        changed: Callable[[State, str], None],
        trouble: Callable[[str, str], None],
    ) -> None:
        """Begin to load. `changed` and `trouble` are called from any thread.

        `trouble` is given a message and its kind.
        """
        self.options = options
        self.state: State = "loading"
        self._changed, self._trouble = changed, trouble
        self._engine: Future[Engine] = Future()
        self._live: dict[Hashable, asyncio.Task[Answer]] = {}  # by document
        self._endpoint: Endpoint | None = None
        if options.endpoint:
            self._endpoint = self._service(options)
        loader = threading.Thread(target=self._load, name="talaria-begin", daemon=True)
        # The answer that is being made goes out first: importing torch holds everything up.
        asyncio.get_running_loop().call_soon(loader.start)

    async def ask(
        self, question: Question, on_frame: Callable[[Frame], None] | None = None
    ) -> Answer:
        """Middles for a hole; CancelledError where a newer question took its place.

        `on_frame` is called by the model's worker. TalariaError where there is no model.
        """
        if older := self._live.get(question.document):
            older.cancel()
        task = asyncio.ensure_future(self._answer(question, on_frame))
        self._live[question.document] = task
        try:
            return await task
        finally:
            if self._live.get(question.document) is task:
                del self._live[question.document]

    async def _answer(self, question: Question, on_frame: Callable[[Frame], None] | None) -> Answer:
        if self._endpoint and not self._endpoint.waiting:
            from talaria.lsp.endpoint import EndpointError, Late

            try:
                middles = await self._endpoint.fill(
                    question.prefix,
                    question.suffix,
                    question.max_tokens or WHOLE,
                    question.count,
                    DIVERSE if question.count > 1 else 0.0,
                    question.seconds,
                )
                bound = Bound(question.until, question.prefix) if question.until else None
                if bound:
                    middles = [text[: bound.end(text)] for text in middles]
                return Answer(tuple(middles), 1.0)
            except Late as error:
                self._trouble(f"{error}. Until then, what is late is not shown.", error.kind)
                raise  # the embedded model would be later still
            except EndpointError as error:
                log.warning("%s", error)
                pause = math.ceil(error.retry_after or 0)
                self._trouble(f"{error}. For {pause} s the embedded model answers.", error.kind)
        engine = await _unharmed(self._engine)
        found = await self._fill(engine, question, on_frame)
        # The likeliest first, as it would come alone and as its steps were shown.
        ranked = sorted(found.candidates, key=lambda candidate: candidate.row != 0)
        said = [candidate for candidate in ranked if candidate.text] or ranked[:1]
        texts = tuple(candidate.text for candidate in said)
        return Answer(texts, found.confidence(said[0]), found)

    async def model(self) -> Checkpoint:
        """The embedded model, once it is loaded; TalariaError if it cannot be."""
        engine = await _unharmed(self._engine)
        return await _unharmed(engine.model)

    @property
    def answers(self) -> bool:
        """Whether somebody could answer at once."""
        service = self._endpoint is not None and not self._endpoint.waiting
        return self.state == "ready" or (service and self.state != "closed")

    @property
    def loaded(self) -> Checkpoint:
        """The embedded model, which must be loaded."""
        return self._engine.result().model.result()

    def statistics(self) -> dict[str, int | float | str]:
        """What the embedded engine has done; its state alone before there is one."""
        if self._engine.done() and not self._engine.exception():
            return self._engine.result().statistics()
        return {"state": self.state}

    async def close(self) -> None:
        """Cancel what is computed and let go of the model."""
        self.state = "closed"
        for task in self._live.values():
            task.cancel()
        if self._endpoint:
            await self._endpoint.close()
        if self._engine.done() and not self._engine.exception():
            await asyncio.to_thread(self._engine.result().close)

    async def _fill(
        self,
        engine: Engine,
        question: Question,
        on_frame: Callable[[Frame], None] | None,
    ) -> Infill:
        from talaria.coder.infill import Options as HowToFill

        mode = self.options.mode
        request = engine.submit(
            question.document,
            question.prefix,
            question.suffix,
            HowToFill(
                # Several middles are drawn, and verifying is for the one of temperature 0.
                mode="ar" if question.count > 1 and mode == "verify" else mode,
                candidates=question.count,
                max_tokens=question.max_tokens,
                until=question.until,
                confidence_threshold=self.options.confidence_threshold,
                complete=question.complete,
                check_syntax=question.check_syntax,
            ),
            question.seconds,
            on_frame,
            question.files,
        )
        return await asyncio.wrap_future(request.future)

    def _service(self, options: Options) -> Endpoint | None:
        from talaria.lsp.endpoint import Endpoint, Settings

        assert options.endpoint is not None
        try:
            return Endpoint(
                Settings(
                    options.endpoint,
                    options.endpoint_model,
                    options.endpoint_key_variable,
                    options.endpoint_timeout_ms / 1000,
                )
            )
        except TalariaError as error:
            self._trouble(f"{error}. The embedded model answers.", str(error))
            return None

    def _load(self) -> None:
        try:
            from talaria.coder import checkpoint
            from talaria.coder.engine import Engine

            options = self.options
            engine = Engine(lambda: checkpoint.load(options.model, options.device))
            self._engine.set_result(engine)
            model = engine.model.result()
        except BaseException as error:
            log.warning("no model: %s", error)
            if not self._engine.done():
                self._engine.set_exception(error)
            self._told("failed", str(error))
        else:
            self._told("ready", model.name)
            if self.state == "closed":
                engine.close()

    def _told(self, state: State, what: str) -> None:
        if self.state != "closed":
            self.state = state
            self._changed(state, what)


async def _unharmed(future: Future[T]) -> T:
    """What a future brings; who stops waiting for it does not cancel it for the others."""
    return await asyncio.shield(asyncio.wrap_future(future))
