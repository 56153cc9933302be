"""The wire format of completion endpoints: request bodies, streamed and whole responses.

The request is OpenAI's completion with a suffix, which Mistral's and Inception's
fill-in-the-middle services and most servers of open models accept. They differ in where a
response has its text; `text_of` knows the places.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from talaria.lsp.endpoint_settings import EndpointSettings

# About 5,000 and 1,300 tokens: with the response they fit a window of 8,192 tokens, the smallest
# in use. A model gains little from text farther away, and every token costs money.
PREFIX_CHARACTERS = 16_000
SUFFIX_CHARACTERS = 4_000
# The cut moves in steps of this size, so that the endpoint's prompt cache stays valid.
CUT_STEP = 4_000

RESPONSE_CHARACTERS = 40_000  # about 10,000 tokens, more than anyone reads as ghost text
RESPONSE_BYTES = 4_000_000  # a streamed token takes 200 to 400 bytes for about 4 characters


class MalformedResponse(Exception):
    """The response is not a completion; the message says why."""


class ResponseReader:
    """Collects the text of a response, streamed or whole according to its content type."""

    def __init__(self, content_type: str) -> None:
        self.streamed = content_type.strip().lower().startswith("text/event-stream")
        self.text = ""
        self.complete = False
        self._bytes = 0
        self._buffer = bytearray()
        self._has_choice = False

    def feed(self, data: bytes) -> None:
        """Read the next bytes.

        Raises:
            MalformedResponse: no completion looks like this.
        """
        self._bytes += len(data)
        if self._bytes > RESPONSE_BYTES:
            raise MalformedResponse(f"longer than {RESPONSE_BYTES} bytes")
        self._buffer += data
        if self.streamed and b"\n" in data:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                if not self.complete:
                    self._read_line(bytes(line))

    def end(self) -> None:
        """Read the end of the body.

        Raises:
            MalformedResponse: the body is not a completion, or not a whole one.
        """
        if self.complete:
            return
        if self.streamed:
            self._read_line(bytes(self._buffer))
            if not self.complete:
                raise MalformedResponse("the stream ends in the middle")
        else:
            self._read_object(bytes(self._buffer))
        if not self._has_choice:
            raise MalformedResponse("it has no choice")

    def _read_line(self, line: bytes) -> None:
        # Other event fields, and comments that keep the connection alive, carry no text.
        if not line.startswith(b"data:"):
            return
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.complete = True
            if not self._has_choice:
                raise MalformedResponse("it has no choice")
        elif data:
            self._read_object(data)

    def _read_object(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise MalformedResponse("it is not JSON") from None
        found = text_of(event)
        if found is None:
            return
        text, last = found
        self._has_choice = True
        self.text += text
        self.complete = last
        if len(self.text) > RESPONSE_CHARACTERS:
            raise MalformedResponse(f"longer than {RESPONSE_CHARACTERS} characters")
        if "\0" in text:
            raise MalformedResponse("it contains a NUL character")


def text_of(event: object) -> tuple[str, bool] | None:
    """The text of one response object and whether it is the last; None if it has no choices.

    OpenAI and Inception use `text`, Mistral `message.content` or, in a stream, `delta.content`.
    A stream may also contain objects with statistics and an empty list of choices.

    Raises:
        MalformedResponse: the object is none of these.
    """
    if not isinstance(event, dict):
        raise MalformedResponse("it is not an object")
    if event.get("error"):
        raise MalformedResponse("it reports an error")
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise MalformedResponse("it has no list of choices")
    if not choices:
        return None
    choice = choices[0]
    if not isinstance(choice, dict):
        raise MalformedResponse("its choice is not an object")
    last = bool(choice.get("finish_reason"))
    places = [choice.get(name) for name in ("delta", "message")]
    texts = [choice.get("text"), *(p.get("content") for p in places if isinstance(p, dict))]
    if len(texts) == 1 and "text" not in choice:
        raise MalformedResponse("its choice has no text")
    found = [text for text in texts if text is not None]
    if not all(isinstance(text, str) for text in found):
        raise MalformedResponse("its text is not a string")
    return (found[0] if found else ""), last


def request_body(
    settings: EndpointSettings,
    prefix: str,
    suffix: str,
    max_tokens: int,
    temperature: float,
    more: Mapping[str, object],
) -> bytes:
    """The JSON body that asks for one middle, with the context cut to size, and `more` fields."""
    prefix, suffix = window(prefix, suffix)
    body: dict[str, object] = {
        "prompt": normalize(prefix),
        "suffix": normalize(suffix),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        **more,
    }
    # Some endpoints reject null.
    if settings.model is not None:
        body["model"] = settings.model
    return json.dumps(body).encode()


def window(prefix: str, suffix: str) -> tuple[str, str]:
    """The end of a prefix and the start of a suffix, cut at line breaks where possible."""
    if len(prefix) > PREFIX_CHARACTERS:
        start = math.ceil((len(prefix) - PREFIX_CHARACTERS) / CUT_STEP) * CUT_STEP
        line = prefix.find("\n", start) + 1
        prefix = prefix[line or start :]
    if len(suffix) > SUFFIX_CHARACTERS:
        end = suffix.rfind("\n", 0, SUFFIX_CHARACTERS) + 1
        suffix = suffix[: end or SUFFIX_CHARACTERS]
    return prefix, suffix


def normalize(text: str) -> str:
    r"""A text with `\n` line endings and no lone surrogates, which UTF-8 cannot encode.

    Surrogate pairs that a stream split are joined again.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def refusal_reason(body: bytes) -> str:
    """The error message in a refusal's body, in the usual places; empty if there is none.

    Nothing else of the body is shown: some endpoints echo the whole request.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    if not isinstance(found, dict):
        return ""
    reasons = (found.get(name) for name in ("message", "detail", "error"))
    return next((reason for reason in reasons if isinstance(reason, str)), "")
