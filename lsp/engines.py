"""Who answers a request: a model in this process or, while it works, a remote endpoint.

Models are imported and loaded in a thread, so that the server answers `initialize` first. Where
the user names none and the large one is here, the embedded one answers until it is loaded, and
whenever somebody who types would have to wait for it. An endpoint that fails is paused
(`lsp/endpoint.py`), and a model answers meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from talaria.coder.bounds import Bound
from talaria.coder.errors import TalariaError
from talaria.coder.guard import Guard
from talaria.coder.machine import available_memory
from talaria.coder.request import Request
from talaria.lsp.options import ServerOptions

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import Engine, EngineState, Pending
    from talaria.coder.results import Frame, Infill
    from talaria.lsp.endpoint import Endpoint

log = logging.getLogger("talaria")

T = TypeVar("T")
SAMPLING_TEMPERATURE = 0.7  # at which an endpoint is asked for several middles
ENDPOINT_TOKENS = 256  # limit for an endpoint if the request has none, as for a function

# Bytes that must be free: to load the large model at the start, and when a request asks for it.
# It was measured to take 0.9 GB for a moment while it loads, and 1.3 while it is prepared.
FREE_AT_START, FREE_TO_LOAD = 2e9, 1.2e9
SLOWEST = 0.3  # seconds to the first token; nobody who types waits longer for the large model
# Seconds until a request made while typing is answered with what there is by then: the embedded
# model, the large one beside it, and one that must read every place while the user waits.
DEADLINE, LARGE_DEADLINE, ALONE_DEADLINE = 0.3, 1.0, 5.0
RETIMED = 60.0  # seconds until a model that was too slow is timed anew
PATIENCE = 5.0  # seconds that the first request made on purpose waits for the large model


@dataclass(frozen=True)
class Middles:
    """The answer to a request: texts, most likely first.

    confidence  in the first text; 1 from an endpoint, which gives none
    infill      what the model did; None if an endpoint answered
    model       the one that did it
    refusals    for the texts that the engine has checked, why each must not be written
    """

    texts: tuple[str, ...]
    confidence: float
    infill: Infill | None = None
    model: Checkpoint | None = None
    refusals: Mapping[str, str | None] = field(default_factory=dict)

    async def refusal(self, request: Request, text: str) -> str | None:
        """Why a text must not be written into the file of the request; None if it may be."""
        if text in self.refusals:
            return self.refusals[text]
        return await asyncio.to_thread(Guard(request).refusal, text)


class Engines:
    """The models and, if one is configured, an endpoint that is asked first."""

    def __init__(
        self,
        options: ServerOptions,
        on_state: Callable[[EngineState, str], None],
        on_trouble: Callable[[str, str], None],
        on_progress: Callable[[float], None] = lambda done: None,
    ) -> None:
        """Start to load the models. All callbacks may be called from any thread.

        `on_state` gets the new state with the error or the model that answers from now on while
        the user types; `on_trouble` a message for the user and its kind; `on_progress` the
        fraction that is done while a base is prepared.
        """
        self.options = options
        self.state: EngineState = "loading"
        self._on_state, self._on_trouble, self._on_progress = on_state, on_trouble, on_progress
        self._engine: Future[Engine] = Future()  # the first that is loaded
        self._large: Future[Engine] | None = None  # of the large model, if it grows beside that
        self._timed = 0.0  # when it was, last
        self._types = False  # whether the large one may answer while the user types
        self._loads_on_request = False  # the large model, because little memory is free
        self._answered: Counter[str] = Counter()  # by model, while the user typed
        self._first = threading.Event()  # set when the first model is ready
        self._settled: Future[str] = Future()
        self._chosen: dict[str, str] = {}  # for the statistics
        self._started: list[Engine] = []
        self._retired: dict[str, int | float | str] = {}  # counters of an engine that is gone
        self._newest: dict[Hashable, asyncio.Task[Middles]] = {}  # by document, at the endpoint
        self._pending: dict[Hashable, Pending] = {}  # by document, with a model
        self._endpoint = self._connect(options) if options.service else None
        self._session = secrets.token_hex(8)  # with which names of documents tell nobody anything
        loader = threading.Thread(target=self._load, name="talaria-begin", daemon=True)
        # Let the pending response go out first: imports hold the GIL.
        asyncio.get_running_loop().call_soon(loader.start)

    async def ask(
        self,
        request: Request,
        on_frame: Callable[[Frame, Checkpoint], None] | None = None,
        *,
        typing: bool = False,
    ) -> Middles:
        """Middles for a hole; CancelledError if a newer request superseded this one.

        `on_frame` is called by the engine's worker thread. `typing` says that nobody made the
        request on purpose; if it has no deadline, the model that answers has one for it.
        TalariaError if there is no model.
        """
        if self._endpoint is None or self._endpoint.waiting:
            return await self._ask_model(request, on_frame, typing)
        # The engine supersedes requests itself, but never sees those that the endpoint answers.
        document = object() if request.document is None else request.document
        if older := self._newest.get(document):
            older.cancel()
        task = asyncio.ensure_future(self._ask_endpoint(self._endpoint, request, on_frame, typing))
        self._newest[document] = task
        try:
            return await task
        finally:
            if self._newest.get(document) is task:
                del self._newest[document]

    async def settled(self) -> str:
        """The name of the model that answers while the user types, once that is decided.

        TalariaError if no model can be loaded.
        """
        return await _wait_for(self._settled)

    @property
    def available(self) -> bool:
        """Whether a request could be answered now."""
        endpoint = self._endpoint is not None and not self._endpoint.waiting
        return self.state == "ready" or (endpoint and self.state != "closed")

    async def grow(self, on_progress: Callable[[float], None]) -> bool:
        """Take over to the large model, whose base has arrived; whether it is loaded now.

        `on_progress` gets the fraction that is done while it is prepared, from another thread.
        """
        await _wait_for(self._engine)
        if self._large is not None or self.options.model is not None:
            return False
        self._on_progress = on_progress
        await asyncio.to_thread(self._grow)
        return self._loaded() is not None

    def statistics(self) -> dict[str, Any]:
        """State, choice of models and counters; only the state before there is an engine."""
        found: dict[str, Any] = {**self._retired}
        if self._answered:
            found["answered_by"] = dict(self._answered)
        for engine in [*self._started]:
            for name, value in engine.statistics().items():
                found[name] = found.get(name, 0) + value if name != "state" else value
        return {**found, **self._chosen, "state": self.state}

    async def close(self) -> None:
        """Cancel all requests and release the models."""
        self.state = "closed"
        for task in self._newest.values():
            task.cancel()
        if self._endpoint:
            await self._endpoint.close()
        for engine in [*self._started]:
            await asyncio.to_thread(engine.close)
        # Whoever waits for them.
        self._engine.cancel()
        self._settled.cancel()

    async def _ask_model(
        self,
        request: Request,
        on_frame: Callable[[Frame, Checkpoint], None] | None,
        typing: bool,
    ) -> Middles:
        engine = await self._answering(request, typing)
        model = engine.model.result()
        if typing and request.seconds is None:
            alone = LARGE_DEADLINE if self._large else ALONE_DEADLINE
            seconds = alone if "base" in model.config else DEADLINE
            request = replace(request, seconds=seconds)

        def show(frame: Frame) -> None:
            assert on_frame is not None
            on_frame(frame, model)

        pending = engine.submit(request, show if on_frame else None)
        document = object() if request.document is None else request.document
        # An engine supersedes its own requests; the older one may be another engine's.
        if older := self._pending.get(document):
            older.cancel()
        self._pending[document] = pending
        try:
            infill = await asyncio.wrap_future(pending.future)
        finally:
            if self._pending.get(document) is pending:
                del self._pending[document]
        if typing:
            self._answered[model.name] += 1
        # Row 0 is the likeliest: it would come alone, and its steps are the ones shown.
        ranked = sorted(infill.candidates, key=lambda candidate: candidate.row != 0)
        offered = [candidate for candidate in ranked if candidate.text] or ranked[:1]
        checked = offered if request.options.complete else []
        return Middles(
            tuple(candidate.text for candidate in offered),
            infill.confidence(offered[0]),
            infill,
            model,
            {candidate.text: candidate.refused for candidate in checked},
        )

    async def _answering(self, request: Request, typing: bool) -> Engine:
        """The engine that answers a request.

        On purpose, that is the large model's if it is loaded now, or within PATIENCE. While the
        user types, it is the large model's if the first token can be found in SLOWEST; if not, it
        reads what it has not read yet meanwhile, so that it answers one of the next requests.
        """
        engine = await _wait_for(self._engine)
        if not typing:
            await self._load_on_request()
        large = self._loaded()
        if large is None:
            return engine
        if not typing:
            return large
        if not self._types:
            return engine
        if large.seconds_to_first(request) <= SLOWEST:
            if self._chosen["model"] != large.model.result().name:  # the machine was busy before
                del self._chosen["choice"]
                self._set_state("ready", large.model.result().name)
            return large
        if fast(large):
            large.read_ahead(request, lambda: bool(self._pending))  # they share the cores
        elif time.monotonic() >= self._timed + RETIMED:
            self._timed = time.monotonic()
            threading.Thread(target=large.warm_up, name="talaria-timing", daemon=True).start()
        return engine

    def _loaded(self) -> Engine | None:
        """The large model's engine, if it is loaded beside the first one."""
        large = self._large
        return large.result() if large and large.done() and not large.exception() else None

    async def _load_on_request(self) -> None:
        """Load the large model if that was put off and there is memory for it now."""
        if self._loads_on_request and available_memory() >= FREE_TO_LOAD:
            self._loads_on_request = False
            self._large = Future()
            threading.Thread(target=self._load_large, name="talaria-large", daemon=True).start()
            # `_load_large` reports why it failed; TimeoutError: it is slow.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(_wait_for(self._large), PATIENCE)

    async def _ask_endpoint(
        self,
        endpoint: Endpoint,
        request: Request,
        on_frame: Callable[[Frame, Checkpoint], None] | None,
        typing: bool,
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
                *((self._more(request),) if self.options.served else ()),
            )
        except DeadlineMissed as error:
            self._on_trouble(f"{error}. Late answers are not shown.", error.kind)
            raise  # the embedded model would be even later
        except EndpointError as error:
            log.warning("%s", error)
            pause = math.ceil(error.retry_after or 0)
            self._on_trouble(f"{error}. The embedded model answers for {pause} s.", error.kind)
            return await self._ask_model(request, on_frame, typing)
        if options.until:
            bound = Bound(options.until, request.prefix)
            middles = [text[: bound.end(text)] for text in middles]
        return Middles(tuple(middles), 1.0)

    def _more(self, request: Request) -> dict[str, object]:
        """What a server of ours understands besides the usual fields.

        Several candidates are several requests, which must not supersede each other.
        """
        more: dict[str, object] = {"check_syntax": request.options.check_syntax}
        if request.options.until:
            more["until"] = request.options.until
        if request.document is not None and request.options.candidates == 1:
            named = f"{self._session} {request.document}"
            more["user"] = hashlib.sha256(named.encode("utf-8", "replace")).hexdigest()[:16]
        return more

    def _connect(self, options: ServerOptions) -> Endpoint | None:
        """The configured endpoint; None with a message if its settings are invalid."""
        from talaria.lsp.endpoint import Endpoint
        from talaria.lsp.endpoint_settings import EndpointSettings

        assert options.service is not None
        try:
            return Endpoint(
                EndpointSettings(
                    options.service,
                    options.endpoint_model,
                    options.endpoint_key_variable,
                    options.endpoint_timeout_ms / 1000,
                )
            )
        except TalariaError as error:
            self._on_trouble(f"{error}. The embedded model answers.", str(error))
            return None

    def _load(self) -> None:
        try:
            from talaria.coder import checkpoint

            # Beside a server, what answers while that is gone need not be large.
            local = checkpoint.EMBEDDED if self.options.served else self.options.model
            name = local or checkpoint.default()
            grows = self.options.model is None and name == checkpoint.LARGE
            engine = self._start(checkpoint.EMBEDDED if grows else name)
            try:
                self._engine.set_result(engine)
            except InvalidStateError:  # closed meanwhile
                return
            # Beside the embedded one, which is mostly Python; the large one is hardly any.
            growing = threading.Thread(target=self._grow, name="talaria-large", daemon=True)
            if grows:
                growing.start()
            model = engine.model.result()
        except BaseException as error:
            log.warning("no model: %s", error)
            for future in (self._engine, self._settled):
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(error)
            self._set_state("failed", str(error))
            return
        self._set_state("ready", model.name)
        self._first.set()
        if grows:
            growing.join()
        with contextlib.suppress(InvalidStateError):
            self._settled.set_result(self._chosen["model"])

    def _grow(self) -> None:
        """Load the large model beside the embedded one, if the memory that is free allows it."""
        from talaria.coder import bases
        from talaria.coder.checkpoint import EMBEDDED, LARGE

        free = available_memory()
        if free >= FREE_AT_START:
            self._large = Future()
            self._load_large(at_start=True)
            return
        if bases.prepared(bases.named(LARGE)):
            self._loads_on_request = True
            most = f"{LARGE} is loaded for requests by hand if {FREE_TO_LOAD / 1e9:.1f} GB are free"
        else:
            most = f"close some programs and restart, or run `talaria models get {LARGE}`"
        self._choose(
            f"{EMBEDDED} answers, since only {free / 1e9:.1f} GB of memory are free "
            f"({FREE_AT_START / 1e9:.0f} needed); {most}. The setting `model` overrides this"
        )

    def _load_large(self, at_start: bool = False) -> None:
        """Load the large model; at the start, it then answers whatever it is fast enough for."""
        from talaria.coder.checkpoint import EMBEDDED, LARGE

        assert self._large is not None
        engine = self._start(LARGE)
        try:
            engine.warm_up()
        except BaseException as error:
            self._large.set_exception(error)
            self._retire(engine)
            self._choose(f"{error}. {EMBEDDED} answers")
            return
        self._types, self._timed = at_start, time.monotonic()
        self._large.set_result(engine)
        if not at_start:
            return
        if fast(engine):
            self._first.wait()
            self._set_state("ready", LARGE)
            return
        self._choose(
            f"{EMBEDDED} answers while you type, and {LARGE} requests by hand, since its step "
            f"takes {1000 * engine.pace.step:.0f} ms here (at most {1000 * SLOWEST / 2:.0f}). "
            "The setting `model` overrides this"
        )

    def _start(self, name: str) -> Engine:
        """Start an engine with a model."""
        from talaria.coder import checkpoint
        from talaria.coder.engine import Engine

        device = self.options.device
        engine = Engine(lambda: checkpoint.load(name, device, self._on_progress))
        self._started.append(engine)
        if self.state == "closed":
            engine.close()
        return engine

    def _retire(self, engine: Engine) -> None:
        """Close an engine and release its model; its counters stay."""
        engine.close()
        self._retired = engine.statistics()
        self._started.remove(engine)

    def _choose(self, reason: str) -> None:
        """Tell the user why the large model does not answer everything."""
        if self.state != "closed":
            self._chosen["choice"] = reason
            self._on_trouble(f"{reason}.", "model")

    def _set_state(self, state: EngineState, detail: str) -> None:
        if self.state != "closed":
            self.state = state
            if state == "ready":
                log.info("%s answers", detail)
                self._chosen["model"] = detail
            self._on_state(state, detail)


def fast(engine: Engine) -> bool:
    """Whether a model that has read a place is in time there: a step to read, one to write."""
    return 2 * engine.pace.step <= SLOWEST


async def _wait_for(future: Future[T]) -> T:
    """A future's result; cancelling one waiter does not cancel it for the others."""
    waiting = asyncio.wrap_future(future)
    # Whoever was cancelled will not look at an error, and asyncio would complain about that.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(waiting)
