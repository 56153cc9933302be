"""A client for a remote fill-in-the-middle model (`lsp/completions.py` has the wire format).

Whatever the remote machine does, `fill` ends within its timeout, holds a bounded amount in
memory, and explains a failure in one sentence that names the server's options. After a failure
the endpoint is not asked again for a while; until then `fill` raises at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from talaria.coder.errors import TalariaError, UsageError
from talaria.lsp.completions import (
    MalformedResponse,
    ResponseReader,
    normalize,
    refusal_reason,
    request_body,
)
from talaria.lsp.endpoint_settings import EndpointSettings, check, is_loopback

if TYPE_CHECKING:
    import httpx2

REASON_BYTES = 4_096  # of a refusal's body

CONNECT_SECONDS = 3.0  # a host that can be reached accepts a connection sooner
# How long to wait for the end of a stream after its last event. Reading it keeps the connection
# usable, which saves the next request the handshakes.
DRAIN_SECONDS = 0.05
KEEP_SECONDS = 60.0  # people pause between completions for longer than the usual 5 s

FIRST_PAUSE = 2.0  # seconds; doubles with every failure in a row
LONGEST_PAUSE = 300.0


class EndpointError(TalariaError):
    """The endpoint did not fill the hole.

    kind         one word for the cause; failures of one kind have one remedy
    retry_after  seconds until the endpoint is asked again
    """

    def __init__(self, message: str, kind: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


class DeadlineMissed(EndpointError):
    """The endpoint missed this request's deadline; a later request may succeed."""


class Endpoint:
    """A client of one endpoint, for one event loop. It connects on the first request.

    clock  a monotonic clock, in seconds

    Raises:
        UsageError: the settings cannot be right.
    """

    def __init__(
        self, settings: EndpointSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check(settings)
        self.settings = settings
        self._host = urlsplit(settings.url).netloc
        self._pause = Pause(clock)
        self._failure = "", ""  # message and kind
        self._opening = asyncio.Lock()
        self._client: httpx2.AsyncClient | None = None

    @property
    def waiting(self) -> float:
        """Seconds until the endpoint may be asked again; 0 if now."""
        return self._pause.left

    async def fill(
        self,
        prefix: str,
        suffix: str,
        max_tokens: int,
        count: int = 1,
        temperature: float = 0.0,
        seconds: float | None = None,
        more: Mapping[str, object] | None = None,
    ) -> list[str]:
        r"""At most `count` different middles of a hole, with `\n` line endings.

        Each middle has its own request, all concurrent, since few endpoints return several for
        one. At temperature 0 they would be equal, so there is one request. Cancelling closes the
        connections. A response after `seconds` misses its deadline, which is not a failure of the
        endpoint: it is asked again with the next request. `more` are fields that not every endpoint
        would accept.

        Raises:
            EndpointError: there is no middle at all.
        """
        if count < 1:
            raise UsageError(f"count is {count}; it must be at least 1 middle")
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1 token")
        if waiting := self.waiting:
            message, kind = self._failure
            raise EndpointError(
                f"endpoint {self._host} is paused for another {math.ceil(waiting)} s: {message}",
                kind,
                waiting,
            )
        body = request_body(self.settings, prefix, suffix, max_tokens, temperature, more or {})
        answers = await asyncio.gather(
            *(self._ask(body, seconds) for _ in range(count if temperature > 0 else 1)),
            return_exceptions=True,
        )
        failures: list[EndpointError] = []
        missed: DeadlineMissed | None = None
        for answer in answers:
            if isinstance(answer, DeadlineMissed):
                missed = answer
            elif isinstance(answer, EndpointError):
                failures.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
        middles = [answer for answer in answers if isinstance(answer, str)]
        if not failures:
            if missed and not middles:
                raise missed
            self._pause.succeeded()
            return list(dict.fromkeys(middles))
        # Together they are one failure, or the pause would double with every candidate.
        worst = max(failures, key=lambda failure: failure.retry_after or 0.0)
        self._pause.failed(worst.retry_after)
        self._failure = str(worst), worst.kind
        if not middles:
            worst.retry_after = self.waiting
            raise worst
        return list(dict.fromkeys(middles))

    async def close(self) -> None:
        """Close the connections; pending requests fail, later ones connect again."""
        async with self._opening:
            client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, body: bytes, seconds: float | None) -> str:
        """One middle from one request; an error carries the pause that the endpoint asked for."""
        key = self._key()
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # a few compressed bytes can unpack to gigabytes
        }
        if key:
            headers["Authorization"] = f"Bearer {key}"
        timeout = self.settings.timeout_seconds
        limit = timeout if seconds is None else min(seconds, timeout)
        client = await self._open()
        import httpx2

        try:
            async with (
                asyncio.timeout(limit),
                client.stream("POST", self.settings.url, content=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise await self._refusal(response, key)
                return await self._read(response)
        except TimeoutError:
            what = f"endpoint {self._host} took longer than {limit:g} s"
            if limit < timeout:
                raise DeadlineMissed(
                    f"{what}: raise deadline_ms or choose a faster one", "late"
                ) from None
            raise EndpointError(
                f"{what}: raise endpoint_timeout_ms or choose a faster one", "slow"
            ) from None
        except httpx2.ConnectTimeout:
            raise EndpointError(
                f"endpoint {self._host} did not accept a connection within {CONNECT_SECONDS:g} s: "
                "check its address in endpoint, the network and any proxy",
                "unreachable",
            ) from None
        except MalformedResponse as error:
            raise EndpointError(
                f"the response of endpoint {self._host} is not a completion ({error}): check that "
                "endpoint is the URL of a fill-in-the-middle service",
                "nonsense",
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise EndpointError(
                f"cannot reach endpoint {self._host} ({type(error).__name__}: "
                f"{brief(str(error), key)}): check its address in endpoint, the network and any "
                "proxy",
                "unreachable",
            ) from None

    async def _read(self, response: httpx2.Response) -> str:
        """The middle in a response."""
        import httpx2

        reader = ResponseReader(response.headers.get("content-type", ""))
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                reader.feed(chunk)
                if reader.complete:
                    break
            with contextlib.suppress(TimeoutError, httpx2.HTTPError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    async for _ in chunks:
                        pass
        reader.end()
        return normalize(reader.text)

    async def _refusal(self, response: httpx2.Response, key: str) -> EndpointError:
        """What a status other than 200 means to whoever configured the endpoint."""
        status, variable = response.status_code, self.settings.key_variable
        what = f"endpoint {self._host} answered {status}"
        if status in (401, 403):
            remedy = f"check the key in {variable}" if variable else "set endpoint_key_variable"
            return EndpointError(f"{what}, the key is refused: {remedy}", "key", LONGEST_PAUSE)
        if 300 <= status < 400:
            return EndpointError(
                f"{what}, a redirect, which is not followed: set endpoint to the URL it leads to",
                "moved",
            )
        pause = requested_pause(response.headers)
        if status == 429:
            return EndpointError(
                f"{what}, too many requests: wait, or raise the quota", "busy", pause
            )
        if status >= 500:
            return EndpointError(
                f"{what}, an internal error: wait, or ask its operator", "broken", pause
            )
        body = b""
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= REASON_BYTES:
                    break
        reason = brief(refusal_reason(body), key)
        return EndpointError(
            f"{what}{f' ({reason})' if reason else ''}: check endpoint, endpoint_model and "
            "max_tokens",
            "refused",
            pause,
        )

    def _key(self) -> str:
        """The API key, or an empty string if none is needed; read each time, never stored."""
        variable = self.settings.key_variable
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise EndpointError(
                f"the environment variable {variable} is not set: put the key for endpoint "
                f"{self._host} into it and restart the editor",
                "no key",
                LONGEST_PAUSE,
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise EndpointError(
                f"the environment variable {variable} does not hold a key, since its value has "
                f"spaces or non-ASCII characters: put the key for endpoint {self._host} into it",
                "no key",
                LONGEST_PAUSE,
            )
        return key

    async def _open(self) -> httpx2.AsyncClient:
        """The HTTP client, created off the event loop because that takes 0.2 s."""
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(make_client, self.settings.url)
                except (ValueError, ImportError, OSError) as error:
                    raise EndpointError(
                        f"cannot set up a client for endpoint {self._host} "
                        f"({type(error).__name__}): check the variables HTTPS_PROXY, HTTP_PROXY, "
                        "ALL_PROXY and SSL_CERT_FILE",
                        "no client",
                        LONGEST_PAUSE,
                    ) from None
            return self._client


class Pause:
    """How long an endpoint is left alone after failures."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.failures = 0
        self.until = -math.inf

    @property
    def left(self) -> float:
        """Seconds left of the pause; 0 outside one."""
        return max(0.0, self.until - self.clock())

    def failed(self, requested: float | None) -> None:
        """Start a pause, or extend one that began while the request was under way."""
        if not self.left:
            self.failures += 1
        self.until = max(self.until, self.clock() + pause_after(self.failures, requested))

    def succeeded(self) -> None:
        """End the pause and forget the failures."""
        self.failures = 0
        self.until = -math.inf


def pause_after(failures: int, requested: float | None) -> float:
    """Seconds of pause after so many failures in a row, or as requested, within bounds."""
    if requested is not None:
        return min(max(requested, FIRST_PAUSE), LONGEST_PAUSE)
    doublings = min(failures - 1, 16)  # far beyond the longest pause, and no overflow
    return min(FIRST_PAUSE * 2.0**doublings, LONGEST_PAUSE)


def requested_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After`, which gives seconds or a date; None if it gives neither."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        # Against the server's own clock, since this machine's may be wrong.
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(headers["date"])
        return (then - now).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def brief(text: str, key: str) -> str:
    """A foreign text on one short line, without the key."""
    if key:
        text = text.replace(key, "[key]")
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text if len(text) <= 160 else text[:159] + "…"


def make_client(url: str) -> httpx2.AsyncClient:
    """An HTTP client that verifies certificates, follows no redirect and keeps connections.

    It uses the environment's proxy, but never for this machine itself.
    """
    import httpx2

    limits = httpx2.Limits(keepalive_expiry=KEEP_SECONDS)
    transport = None
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        # The environment's proxies apply only to clients without a transport of their own.
        transport = httpx2.AsyncHTTPTransport(
            # Loading the trusted certificates takes 0.1 s; without TLS none are needed.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if parts.scheme == "http" else True,
            limits=limits,
        )
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),  # `fill` bounds the whole request
        limits=limits,
        follow_redirects=False,
        transport=transport,
    )
