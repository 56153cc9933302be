"""The ASGI application: routes, keys, bodies, answers and streams.

Starlette and no more: each format has errors of its own shape, so what FastAPI adds would have to
be turned off again for every route.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from talaria import __version__
from talaria.coder.serve.desk import Answering
from talaria.coder.serve.exchange import Asked, Format, Given, Refusal
from talaria.coder.serve.formats import FORMATS, llama_cpp, mercury, openai
from talaria.coder.serve.keys import Keys
from talaria.coder.serve.metrics import Metrics

log = logging.getLogger("talaria.serve")

BODY_SECONDS = 15.0  # for a body to come
GONE = 499  # what nginx calls a request whose client hung up; nobody reads it
OPEN = {"/health", "/v1/health", "/live", "/ready"}  # without a key: they say nothing about anybody
# Browsers send the origin of a page: no page from elsewhere may use a server without keys.
LOCAL = re.compile(r"\w[\w+.-]*://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


@dataclass
class Service:
    """What the routes share.

    keys  None: anybody who can connect may ask
    """

    desk: Answering
    metrics: Metrics
    keys: Keys | None = None
    body_bytes: int = 2_000_000

    def caller(self, request: Request) -> tuple[str, str]:
        """Whose key came with a request, and what tells its client from others of that key."""
        host = request.client.host if request.client else ""
        if self.keys:
            return self.keys.owner(request.headers.get("authorization")), host
        origin = request.headers.get("origin")
        if origin is not None and not LOCAL.fullmatch(origin):
            raise Refusal(
                "this server has no keys, so pages of other sites may not use it",
                403,
                "permission_error",
            )
        return "", host

    async def body(self, request: Request) -> bytes:
        """A request's body; Refusal if it is too long, or does not come."""
        whole, chunks = bytearray(), request.stream()
        length = request.headers.get("content-length", "")
        size = int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while size <= self.body_bytes and (chunk := await anext(chunks, b"")):
                    whole += chunk
                    size = max(size, len(whole))
        except TimeoutError:
            raise Refusal(f"the body did not come within {BODY_SECONDS:g} s", 408) from None
        if size > self.body_bytes:
            raise Refusal(
                f"the body has more than {self.body_bytes:,} bytes, the limit of this server; send "
                "what is near the cursor",
                413,
            )
        return bytes(whole)

    async def complete(self, request: Request, kind: Format) -> Response:
        """Answer a request for a completion in its format."""
        began, name = time.monotonic(), request.url.path
        try:
            owner, client = self.caller(request)
            if self.keys:
                self.keys.spend(owner)
            asked = kind.asked(await self.body(request), request.headers)
            number = uuid.uuid4().hex
            if asked.stream:
                return await self.stream(request, kind, asked, (owner, client), number, began)
            given = await while_there(request, self.desk.ask(asked, owner, client))
            response: Response = JSONResponse(kind.answer(given, asked, number))
            self.done(name, 200, began, owner, given)
        except Refusal as refusal:
            response = refused(kind, refusal)
            self.done(name, refusal.status, began)
        except ClientDisconnect:
            response = Response(status_code=GONE)
            self.done(name, GONE, began)
        except Exception as error:
            response = refused(kind, self.fault(error))
            self.done(name, 500, began)
        return response

    async def stream(
        self,
        request: Request,
        kind: Format,
        asked: Asked,
        caller: tuple[str, str],
        number: str,
        began: float,
    ) -> Response:
        """Answer with events; what is refused before the first of them has its status."""
        owner, client = caller
        news = News()
        work = asyncio.ensure_future(self.desk.ask(asked, owner, client, news.tell))
        work.add_done_callback(lambda _: news.changed.set())
        try:
            await while_there(request, news.changed.wait())
        except BaseException:
            work.cancel()
            raise
        if work.done() and (error := work.exception()):
            raise error
        model = self.desk.about.name
        told = Told(asked)

        async def events() -> AsyncIterator[bytes]:
            status = GONE
            given = None
            try:
                while not work.done():
                    news.changed.clear()
                    if text := told.more(news.text):
                        yield event(kind.piece(text, asked, model, number))
                    if not work.done():
                        await news.changed.wait()
                try:
                    given = work.result()
                except Refusal as refusal:
                    status = refusal.status
                    yield event(kind.error(refusal))
                except Exception as error:
                    status = 500
                    yield event(kind.error(self.fault(error)))
                else:
                    status = 200
                    for each in kind.last(given, told.rest(given.choices[0].text), asked, number):
                        yield event(each)
                if kind.done:
                    yield f"data: {kind.done}\n\n".encode()
            finally:
                work.cancel()
                self.done(request.url.path, status, began, owner, given)

        return StreamingResponse(events(), media_type="text/event-stream")

    def done(
        self, name: str, status: int, began: float, owner: str = "", given: Given | None = None
    ) -> None:
        """Count an answer and log it, without a word of what was asked or written."""
        seconds = time.monotonic() - began
        self.metrics.replied(name, status, seconds)
        took = f", {given.written} tokens, {given.nfe} steps" if given else ""
        log.info("%s %d %s %.0f ms%s", name, status, owner or "-", 1000 * seconds, took)

    def fault(self, error: Exception) -> Refusal:
        """What a client hears of a fault of ours; the log gets its place, not its message."""
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        log.error("fault: %s at %s", type(error).__name__, where)
        return Refusal("an internal error; its place is in the server's log", 500, "server_error")


class News:
    """The latest text of a stream: what a slow reader has missed, it need not read any more."""

    def __init__(self) -> None:
        self.text, self.changed = "", asyncio.Event()

    def tell(self, text: str) -> None:
        """Replace the text."""
        self.text = text
        self.changed.set()


class Told:
    """What a stream has told, which it cannot take back.

    Where each event has the whole text, it may change. Elsewhere only what is certain is told: all
    of it at the end, as the syntax check or another choice may take anything back before; without
    them, all but the last characters, which a stop may cut. (Where a bound may cut, or what repeats
    the suffix, the desk says nothing before the end.)
    """

    def __init__(self, asked: Asked) -> None:
        self.asked, self.text = asked, ""
        self.final = asked.options.check_syntax or asked.options.candidates > 1

    def more(self, text: str) -> str:
        """What can be told now of the text so far."""
        ends = [text.find(stop) for stop in self.asked.stop]
        text = text[: min((at for at in ends if at >= 0), default=len(text))]
        if self.asked.whole:
            changed, self.text = text != self.text, text
            return text if changed else ""
        if self.final:
            return ""
        held = max(map(len, self.asked.stop), default=1)
        sure = text[: max(0, len(text) - held)]
        if not sure.startswith(self.text):
            return ""
        more, self.text = sure[len(self.text) :], sure
        return more

    def rest(self, text: str) -> str:
        """What is still to be told of the final text."""
        if self.asked.whole:
            return text
        # Should something be taken back after all, a second copy would only make it worse.
        return text[len(self.text) :] if text.startswith(self.text) else ""


async def while_there(request: Request, work: Any) -> Any:
    """What an awaitable gives; if the client hangs up first, it is cancelled: ClientDisconnect."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(BaseException):
                await each


async def hung_up(request: Request) -> None:
    """Wait until the client closes the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return (
        b"data: "
        + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        + b"\n\n"
    )


def refused(kind: Format, refusal: Refusal) -> JSONResponse:
    """An answer without a completion."""
    return JSONResponse(kind.error(refusal), refusal.status, refusal.headers)


def application(service: Service) -> Starlette:
    """The routes."""
    desk = service.desk

    def completion(kind: Format) -> Any:
        async def endpoint(request: Request) -> Response:
            return await service.complete(request, kind)

        return endpoint

    async def edits(request: Request) -> Response:
        return refused(mercury, mercury.EDITS)

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def health(request: Request) -> Response:
        """As llama.cpp has it: 503 until the model is loaded."""
        try:
            return JSONResponse({"status": "ok", "model": desk.about.name})
        except Refusal as refusal:
            return refused(llama_cpp, refusal)

    async def ready(request: Request) -> Response:
        status = {"ready": desk.ready, "admitted": desk.admitted, "queue": desk.limits.queue}
        return JSONResponse(status, 200 if desk.ready else 503)

    async def props(request: Request) -> Response:
        try:
            about = desk.about
        except Refusal as refusal:
            return refused(llama_cpp, refusal)
        settings = {"n_ctx": about.context, "n_predict": about.longest}
        return JSONResponse(
            {
                "default_generation_settings": settings,
                "total_slots": about.workers,
                "model_alias": about.name,
                "model_path": about.name,
                "build_info": f"talaria {__version__}",
            }
        )

    async def models(request: Request) -> Response:
        try:
            name = desk.about.name
        except Refusal as refusal:
            return refused(openai, refusal)
        listed = {"id": name, "object": "model", "created": 0, "owned_by": "talaria"}
        return JSONResponse({"object": "list", "data": [listed]})

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.page(), media_type=service.metrics.content_type)

    def shape(path: str) -> Format:
        return FORMATS.get(path, openai if path.startswith("/v1/") else llama_cpp)

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = ", ".join(FORMATS)
        what = "is not served" if error.status_code == 404 else f"does not take {request.method}"
        message = f"{request.url.path[:100]} {what}; completions are at {known}"
        return refused(shape(request.url.path), Refusal(message, error.status_code))

    def guarded(path: str, endpoint: Any) -> Any:
        async def checked(request: Request) -> Response:
            try:
                service.caller(request)
            except Refusal as refusal:
                return refused(shape(path), refusal)
            response: Response = await endpoint(request)
            return response

        return endpoint if path in OPEN else checked

    plain = {
        "/live": live,
        "/health": health,
        "/v1/health": health,
        "/ready": ready,
        "/props": props,
        "/v1/models": models,
        "/metrics": metrics,
    }
    routes = [Route(path, completion(kind), methods=["POST"]) for path, kind in FORMATS.items()]
    routes += [
        Route("/v1/edit/completions", guarded("/v1/edit/completions", edits), methods=["POST"])
    ]
    routes += [Route(path, guarded(path, endpoint)) for path, endpoint in plain.items()]
    served = Starlette(routes=routes, exception_handlers={404: wrong, 405: wrong})
    served.router.redirect_slashes = False  # a redirect is no refusal in a format's own shape
    return served
