"""Who answers a request: the embedded model or, while it works, a remote endpoint.

The model is imported and loaded in a thread, so that the server answers `initialize` first. An
endpoint that fails is paused (`lsp/endpoint.py`), and the embedded model answers meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from talaria.coder.bounds import Bound
from talaria.coder.errors import TalariaError
from talaria.coder.guard import Guard
from talaria.coder.request import Request
from talaria.lsp.options import ServerOptions

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import Engine, EngineState
    from talaria.coder.results import Frame, Infill
    from talaria.lsp.endpoint import Endpoint

log = logging.getLogger("talaria")

T = TypeVar("T")
SAMPLING_TEMPERATURE = 0.7  # at which an endpoint is asked for several middles
ENDPOINT_TOKENS = 256  # limit for an endpoint if the request has none, as for a function


@dataclass(frozen=True)
class Middles:
    """The answer to a request: texts, most likely first.

    confidence  in the first text; 1 from an endpoint, which gives none
    infill      what the embedded model did; None if an endpoint answered
    refusals    for the texts that the engine has checked, why each must not be written
    """

    texts: tuple[str, ...]
    confidence: float
    infill: Infill | None = None
    refusals: Mapping[str, str | None] = field(default_factory=dict)

    async def refusal(self, request: Request, text: str) -> str | None:
        """Why a text must not be written into the file of the request; None if it may be."""
        if text in self.refusals:
            return self.refusals[text]
        return await asyncio.to_thread(Guard(request).refusal, text)


class Engines:
    """The embedded model and, if one is configured, an endpoint that is asked first."""

    def __init__(
        self,
        options: ServerOptions,
        on_state: Callable[[EngineState, str], None],
        on_trouble: Callable[[str, str], None],
    ) -> None:
        """Start to load the model. Both callbacks may be called from any thread.

        `on_state` gets the new state with the model's name or the error, `on_trouble` a message
        about the endpoint and its kind.
        """
        self.options = options
        self.state: EngineState = "loading"
        self._on_state, self._on_trouble = on_state, on_trouble
        self._engine: Future[Engine] = Future()
        self._newest: dict[Hashable, asyncio.Task[Middles]] = {}  # by document
        self._endpoint = self._connect(options) if options.endpoint else None
        loader = threading.Thread(target=self._load, name="talaria-begin", daemon=True)
        # Let the pending response go out first: imports hold the GIL.
        asyncio.get_running_loop().call_soon(loader.start)

    async def ask(
        self, request: Request, on_frame: Callable[[Frame], None] | None = None
    ) -> Middles:
        """Middles for a hole; CancelledError if a newer request superseded this one.

        `on_frame` is called by the engine's worker thread. TalariaError if there is no model.
        """
        if self._endpoint is None or self._endpoint.waiting:
            return await self._ask_model(request, on_frame)
        # The engine supersedes requests itself, but never sees those that the endpoint answers.
        document = object() if request.document is None else request.document
        if older := self._newest.get(document):
            older.cancel()
        task = asyncio.ensure_future(self._ask_endpoint(self._endpoint, request, on_frame))
        self._newest[document] = task
        try:
            return await task
        finally:
            if self._newest.get(document) is task:
                del self._newest[document]

    async def model(self) -> Checkpoint:
        """The embedded model, once it is loaded; TalariaError if it cannot be."""
        engine = await _wait_for(self._engine)
        return await _wait_for(engine.model)

    @property
    def available(self) -> bool:
        """Whether a request could be answered now."""
        endpoint = self._endpoint is not None and not self._endpoint.waiting
        return self.state == "ready" or (endpoint and self.state != "closed")

    @property
    def loaded(self) -> Checkpoint:
        """The embedded model, which must be loaded."""
        return self._engine.result().model.result()

    def statistics(self) -> dict[str, int | float | str]:
        """State and counters of the embedded engine; only the state before it exists."""
        engine = self._running()
        return engine.statistics() if engine else {"state": self.state}

    async def close(self) -> None:
        """Cancel all requests and release the model."""
        self.state = "closed"
        for task in self._newest.values():
            task.cancel()
        if self._endpoint:
            await self._endpoint.close()
        if engine := self._running():
            await asyncio.to_thread(engine.close)
        else:
            self._engine.cancel()  # whoever waits for it

    async def _ask_model(
        self, request: Request, on_frame: Callable[[Frame], None] | None
    ) -> Middles:
        engine = await _wait_for(self._engine)
        infill = await asyncio.wrap_future(engine.submit(request, on_frame).future)
        # Row 0 is the likeliest: it would come alone, and its steps are the ones shown.
        ranked = sorted(infill.candidates, key=lambda candidate: candidate.row != 0)
        offered = [candidate for candidate in ranked if candidate.text] or ranked[:1]
        checked = offered if request.options.complete else []
        return Middles(
            tuple(candidate.text for candidate in offered),
            infill.confidence(offered[0]),
            infill,
            {candidate.text: candidate.refused for candidate in checked},
        )

    async def _ask_endpoint(
        self, endpoint: Endpoint, request: Request, on_frame: Callable[[Frame], None] | None
    ) -> Middles:
        """Ask the endpoint, or the model if the endpoint fails."""
        from talaria.lsp.endpoint import DeadlineMissed, EndpointError

        options = request.options
        try:
            middles = await endpoint.fill(
                request.prefix,
                request.suffix,
                options.max_tokens or ENDPOINT_TOKENS,
                options.candidates,
                SAMPLING_TEMPERATURE if options.candidates > 1 else 0.0,
                request.seconds,
            )
        except DeadlineMissed as error:
            self._on_trouble(f"{error}. Late answers are not shown.", error.kind)
            raise  # the embedded model would be even later
        except EndpointError as error:
            log.warning("%s", error)
            pause = math.ceil(error.retry_after or 0)
            self._on_trouble(f"{error}. The embedded model answers for {pause} s.", error.kind)
            return await self._ask_model(request, on_frame)
        if options.until:
            bound = Bound(options.until, request.prefix)
            middles = [text[: bound.end(text)] for text in middles]
        return Middles(tuple(middles), 1.0)

    def _connect(self, options: ServerOptions) -> Endpoint | None:
        """The configured endpoint; None with a message if its settings are invalid."""
        from talaria.lsp.endpoint import Endpoint
        from talaria.lsp.endpoint_settings import EndpointSettings

        assert options.endpoint is not None
        try:
            return Endpoint(
                EndpointSettings(
                    options.endpoint,
                    options.endpoint_model,
                    options.endpoint_key_variable,
                    options.endpoint_timeout_ms / 1000,
                )
            )
        except TalariaError as error:
            self._on_trouble(f"{error}. The embedded model answers.", str(error))
            return None

    def _running(self) -> Engine | None:
        """The engine, if it has started."""
        future = self._engine
        started = future.done() and not future.cancelled() and not future.exception()
        return future.result() if started else None

    def _load(self) -> None:
        try:
            from talaria.coder import checkpoint
            from talaria.coder.engine import Engine

            options = self.options
            engine = Engine(lambda: checkpoint.load(options.model, options.device))
            try:
                self._engine.set_result(engine)
            except InvalidStateError:  # closed meanwhile
                engine.close()
                return
            model = engine.model.result()
        except BaseException as error:
            log.warning("no model: %s", error)
            with contextlib.suppress(InvalidStateError):
                self._engine.set_exception(error)
            self._set_state("failed", str(error))
        else:
            self._set_state("ready", model.name)
            if self.state == "closed":
                engine.close()

    def _set_state(self, state: EngineState, detail: str) -> None:
        if self.state != "closed":
            self.state = state
            self._on_state(state, detail)


async def _wait_for(future: Future[T]) -> T:
    """A future's result; cancelling one waiter does not cancel it for the others."""
    waiting = asyncio.wrap_future(future)
    # Whoever was cancelled will not look at an error, and asyncio would complain about that.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(waiting)
