"""A remote model that fills in the middle, reached by URL.

The request is that of OpenAI's completions with a suffix, which Mistral's and Inception's
fill-in-the-middle services and most servers of open models understand. Each of them puts
the text elsewhere in its answer, which `piece` knows.

Whatever a remote machine does, `fill` ends within its time-out, keeps a bounded amount in
memory, and says in one sentence what went wrong, by the names of the server's options.
After a failure the endpoint is left alone for a while, in which `fill` raises at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import math
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from talaria.coder.errors import TalariaError, UsageError

if TYPE_CHECKING:
    import httpx2

# Some 5,000 and 1,300 tokens: with the answer they fit a window of 8,192, the smallest in
# use. A model gains little from what is farther away, and every token is paid for.
PREFIX_CHARACTERS = 16_000
SUFFIX_CHARACTERS = 4_000
# The cut moves in such steps, so that what the endpoint remembers of a prefix stays of use.
CUT_STEP = 4_000

ANSWER_CHARACTERS = 40_000  # some 10,000 tokens, more than anyone reads as grey text
ANSWER_BYTES = 4_000_000  # a streamed token takes 200 to 400 bytes, some 4 characters of text
REASON_BYTES = 4_096  # of the body of a refusal

CONNECT_SECONDS = 3.0  # a host that can be reached accepts a connection sooner than this
# The end of a stream comes with its last event. Having read it, the connection can be kept,
# which spares the next request the handshakes.
LAST_SECONDS = 0.05
KEEP_SECONDS = 60.0  # people pause between two completions for longer than the usual 5 s

FIRST_PAUSE = 2.0  # seconds; it doubles with every failure in a row
LONGEST_PAUSE = 300.0


@dataclass(frozen=True)
class Settings:
    """Where the endpoint is and what it is asked for.

    model         as the endpoint names it; None where it has but one
    key_variable  name of the environment variable that holds the key, never the key
                  itself; None where no key is needed
    """

    url: str
    model: str | None
    key_variable: str | None
    timeout_seconds: float


class EndpointError(TalariaError):
    """The endpoint did not fill the hole.

    kind         of trouble: one word, the same for the same remedy
    retry_after  seconds until it is asked again
    """

    def __init__(self, message: str, kind: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


class Late(EndpointError):
    """It did not within the time that there was, though it may well be about to."""


class Nonsense(Exception):
    """What came is no completion, for the reason that the message gives."""


class Endpoint:
    """A client of one endpoint, for one event loop. It connects when first asked.

    clock  seconds that never go backwards

    Raises:
        UsageError: the settings cannot be right.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
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
    ) -> list[str]:
        r"""At most `count` different middles of a hole, lines ending in `\n`.

        Every middle has a request of its own, all at a time, for few endpoints give several
        for one. At temperature 0 they would be equal: there is one. Cancelling closes the
        connections. What takes longer than `seconds` is late, which is no failure: whoever
        asks has no more time, and the endpoint is asked again at once.

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
                f"endpoint {self._host} is left alone for another {math.ceil(waiting)} s: "
                f"{message}",
                kind,
                waiting,
            )
        body = request(self.settings, *window(prefix, suffix), max_tokens, temperature)
        answers = await asyncio.gather(
            *(self._ask(body, seconds) for _ in range(count if temperature > 0 else 1)),
            return_exceptions=True,
        )
        failures: list[EndpointError] = []
        late: Late | None = None
        for answer in answers:
            if isinstance(answer, Late):
                late = answer
            elif isinstance(answer, EndpointError):
                failures.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
        middles = [answer for answer in answers if isinstance(answer, str)]
        if not failures:
            if late and not middles:
                raise late
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
        """Close the connections; a request under way fails, a later one connects anew."""
        async with self._opening:
            client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, body: bytes, seconds: float | None) -> str:
        """One middle from one request; a failure carries the pause that it asks for."""
        key = self._key()
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # unpacking could turn little into gigabytes
        }
        if key:
            headers["Authorization"] = f"Bearer {key}"
        timeout = self.settings.timeout_seconds
        given = timeout if seconds is None else min(seconds, timeout)
        client = await self._open()
        import httpx2

        try:
            async with (
                asyncio.timeout(given),
                client.stream("POST", self.settings.url, content=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise await self._refusal(response, key)
                return await self._read(response)
        except TimeoutError:
            said = f"endpoint {self._host} took longer than {given:g} s"
            if given < timeout:
                raise Late(f"{said}: raise deadline_ms or choose a faster one", "late") from None
            raise EndpointError(
                f"{said}: raise endpoint_timeout_ms or choose a faster one", "slow"
            ) from None
        except httpx2.ConnectTimeout:
            raise EndpointError(
                f"endpoint {self._host} cannot be connected to within {CONNECT_SECONDS:g} s: "
                "check its address in endpoint, the network and any proxy",
                "unreachable",
            ) from None
        except Nonsense as error:
            raise EndpointError(
                f"endpoint {self._host} gave an answer that is no completion, {error}: check that "
                "its address is that of a fill-in-the-middle service",
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
        """The middle that a response brings."""
        import httpx2

        answer = Answer(response.headers.get("content-type", ""))
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                answer.feed(chunk)
                if answer.complete:
                    break
            with contextlib.suppress(TimeoutError, httpx2.HTTPError):
                async with asyncio.timeout(LAST_SECONDS):
                    async for _ in chunks:
                        pass
        answer.end()
        return readable(answer.text)

    async def _refusal(self, response: httpx2.Response, key: str) -> EndpointError:
        """What a status other than 200 means for the one who set the endpoint up."""
        status, variable = response.status_code, self.settings.key_variable
        said = f"endpoint {self._host} answered {status}"
        if status in (401, 403):
            remedy = f"check the key in {variable}" if variable else "set endpoint_key_variable"
            return EndpointError(f"{said}, the key is refused: {remedy}", "key", LONGEST_PAUSE)
        if 300 <= status < 400:
            return EndpointError(
                f"{said}, a redirection, which is not followed: set endpoint to the address that "
                "it leads to",
                "moved",
            )
        asked = asked_pause(response.headers)
        if status == 429:
            return EndpointError(
                f"{said}, too many requests: wait, or raise its quota", "busy", asked
            )
        if status >= 500:
            return EndpointError(
                f"{said}, an error of its own: wait, or ask its operator", "broken", asked
            )
        body = b""
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= REASON_BYTES:
                    break
        reason = brief(stated_reason(body), key)
        return EndpointError(
            f"{said}{f' ({reason})' if reason else ''}: check endpoint, endpoint_model and "
            "max_tokens",
            "refused",
            asked,
        )

    def _key(self) -> str:
        """The key, read anew each time, that it is kept nowhere; empty where none is needed."""
        variable = self.settings.key_variable
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise EndpointError(
                f"the environment variable {variable} is not set: put the key of endpoint "
                f"{self._host} there and start the editor anew",
                "no key",
                LONGEST_PAUSE,
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise EndpointError(
                f"what the environment variable {variable} holds is no key, for it has spaces or "
                f"signs other than ASCII: put the key of endpoint {self._host} there",
                "no key",
                LONGEST_PAUSE,
            )
        return key

    async def _open(self) -> httpx2.AsyncClient:
        """The HTTP client, made where it does not hold up the loop: it takes 0.2 s."""
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
        """Seconds that the pause still lasts; 0 if there is none."""
        return max(0.0, self.until - self.clock())

    def failed(self, asked: float | None) -> None:
        """Begin a pause or, if one has begun since the request was made, lengthen it."""
        if not self.left:
            self.failures += 1
        self.until = max(self.until, self.clock() + pause_after(self.failures, asked))

    def succeeded(self) -> None:
        """End the pause and forget the failures."""
        self.failures = 0
        self.until = -math.inf


class Answer:
    """What has been read of an answer, streamed or not as its content type says."""

    def __init__(self, content_type: str) -> None:
        self.streamed = content_type.strip().lower().startswith("text/event-stream")
        self.text = ""
        self.complete = False
        self._bytes = 0
        self._rest = bytearray()
        self._chosen = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            Nonsense: no completion goes on like this.
        """
        self._bytes += len(data)
        if self._bytes > ANSWER_BYTES:
            raise Nonsense(f"longer than {ANSWER_BYTES} bytes")
        self._rest += data
        if self.streamed and b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if not self.complete:
                    self._line(bytes(line))

    def end(self) -> None:
        """Take the end of the body.

        Raises:
            Nonsense: that was no completion, or not all of one.
        """
        if self.complete:
            return
        if self.streamed:
            self._line(bytes(self._rest))
            if not self.complete:
                raise Nonsense("a stream that ends in the midst")
        else:
            self._take(bytes(self._rest))
        if not self._chosen:
            raise Nonsense("without a choice")

    def _line(self, line: bytes) -> None:
        # Other fields of an event, and comments that keep a connection alive, say nothing.
        if not line.startswith(b"data:"):
            return
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.complete = True
            if not self._chosen:
                raise Nonsense("without a choice")
        elif data:
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise Nonsense("not JSON") from None
        found = piece(event)
        if found is None:
            return
        text, last = found
        self._chosen = True
        self.text += text
        self.complete = last
        if len(self.text) > ANSWER_CHARACTERS:
            raise Nonsense(f"longer than {ANSWER_CHARACTERS} characters")
        if "\0" in text:
            raise Nonsense("with a NUL in it")


def piece(event: object) -> tuple[str, bool] | None:
    """The text in an object of an answer, and whether it is the last; None if it has no choice.

    OpenAI and Inception put it in `text`, Mistral in `message.content` or, in a stream,
    `delta.content`. A stream may also have objects with figures and an empty list of choices.

    Raises:
        Nonsense: it is nothing of this.
    """
    if not isinstance(event, dict):
        raise Nonsense("no object")
    if event.get("error"):
        raise Nonsense("the report of an error")
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise Nonsense("without a list of choices")
    if not choices:
        return None
    choice = choices[0]
    if not isinstance(choice, dict):
        raise Nonsense("with a choice that is no object")
    last = bool(choice.get("finish_reason"))
    places = [choice.get(name) for name in ("delta", "message")]
    texts = [choice.get("text"), *(p.get("content") for p in places if isinstance(p, dict))]
    if len(texts) == 1 and "text" not in choice:
        raise Nonsense("with a choice that has no text")
    found = [text for text in texts if text is not None]
    if not all(isinstance(text, str) for text in found):
        raise Nonsense("with a text that is no text")
    return (found[0] if found else ""), last


def readable(text: str) -> str:
    r"""A text with `\n` for every line ending, and no half of a character.

    Halves come together if a stream parted them; others could not be sent on in UTF-8.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def window(prefix: str, suffix: str) -> tuple[str, str]:
    """The end of a prefix and the beginning of a suffix, in whole lines where they are cut."""
    if len(prefix) > PREFIX_CHARACTERS:
        start = math.ceil((len(prefix) - PREFIX_CHARACTERS) / CUT_STEP) * CUT_STEP
        line = prefix.find("\n", start) + 1
        prefix = prefix[line or start :]
    if len(suffix) > SUFFIX_CHARACTERS:
        end = suffix.rfind("\n", 0, SUFFIX_CHARACTERS) + 1
        suffix = suffix[: end or SUFFIX_CHARACTERS]
    return prefix, suffix


def request(
    settings: Settings, prefix: str, suffix: str, max_tokens: int, temperature: float
) -> bytes:
    """The body of a request for one middle."""
    body: dict[str, object] = {
        "prompt": readable(prefix),
        "suffix": readable(suffix),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
    }
    # Some endpoints refuse null.
    if settings.model is not None:
        body["model"] = settings.model
    return json.dumps(body).encode()


def pause_after(failures: int, asked: float | None) -> float:
    """Seconds to leave an endpoint alone after failures in a row, or as it asked for."""
    if asked is not None:
        return min(max(asked, FIRST_PAUSE), LONGEST_PAUSE)
    doublings = min(failures - 1, 16)  # by then it is the longest anyway
    return min(FIRST_PAUSE * 2.0**doublings, LONGEST_PAUSE)


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as `Retry-After` says, in seconds or as a date; None if it says nothing."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        # Against the server's own clock, for that of this machine may be wrong.
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(headers["date"])
        return (then - now).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def stated_reason(body: bytes) -> str:
    """What a refusal says in words, in the usual places; empty if it says nothing there.

    Nothing else of it is shown: some endpoints repeat the whole request.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        said = said["error"]
    if not isinstance(said, dict):
        return ""
    reasons = (said.get(name) for name in ("message", "detail", "error"))
    return next((reason for reason in reasons if isinstance(reason, str)), "")


def brief(text: str, key: str) -> str:
    """A text from elsewhere on one short line, without the key."""
    if key:
        text = text.replace(key, "[key]")
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return text if len(text) <= 160 else text[:159] + "…"


def check(settings: Settings) -> None:
    """See that settings can be right; the url is not shown, for it may hold a secret.

    Raises:
        UsageError: they cannot.
    """
    url = settings.url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isprintable() or " " in url:
        raise UsageError("endpoint is no address: give one like https://host/v1/completions")
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"endpoint begins with {parts.scheme}: give an address of http or https")
    if "@" in parts.netloc:
        raise UsageError(
            "endpoint holds a name or a password: put the key into an environment variable and "
            "its name into endpoint_key_variable"
        )
    variable = settings.key_variable
    if variable is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable):
        raise UsageError(
            "endpoint_key_variable must be the name of an environment variable in capitals, like "
            "MISTRAL_API_KEY; what it is now is not shown, for it may be a key"
        )
    if not 0 < settings.timeout_seconds < math.inf:
        raise UsageError(
            f"endpoint_timeout_ms is {1000 * settings.timeout_seconds}; it must be more than 0 "
            "and finite"
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def make_client(url: str) -> httpx2.AsyncClient:
    """A client that verifies certificates, follows no redirection, and keeps connections.

    It goes through the proxy that the environment names, but never to this machine itself.
    """
    import httpx2

    limits = httpx2.Limits(keepalive_expiry=KEEP_SECONDS)
    transport = None
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        # The environment's proxies are for clients that have no transport of their own.
        transport = httpx2.AsyncHTTPTransport(
            # Reading the certificates to trust takes 0.1 s; without TLS none are needed.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if parts.scheme == "http" else True,
            limits=limits,
        )
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),  # `fill` bounds the whole
        limits=limits,
        follow_redirects=False,
        transport=transport,
    )
