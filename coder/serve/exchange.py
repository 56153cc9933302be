"""What a client asks and what it gets, whatever wire format it speaks.

Each format (`serve/formats`) translates its bodies into an `Asked` and a `Given` into its answers,
so nothing else of the server knows how they look.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from talaria.coder.errors import UsageError
from talaria.coder.progress import healed_of
from talaria.coder.request import LIMITS, LONGEST_WAIT, Options, Request, Until
from talaria.coder.source import Piece

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.results import Candidate, Infill

MOST_CHOICES = 8  # middles of one request: each takes a row of its own
MOST_STOPS = 16
MOST_TOKENS = int(LIMITS["max_tokens"][2])
MOST_SEEDS = int(LIMITS["seed"][2]) + 1
TYPES = ("str", "list[str]", "list[int]", "int", "float", "bool")  # in the place of an error
SHOWN = 60  # characters of a wrong value that a message repeats

Finish = Literal["stop", "length", "deadline"]


class Refusal(Exception):
    """A request that gets no completion, in one sentence.

    status       of HTTP
    kind         in one word, as OpenAI has `type`; llama.cpp has the same words
    field        the name of the field that is wrong
    retry_after  seconds after which another attempt makes sense
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str = "invalid_request_error",
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.field, self.retry_after = status, kind, field, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        found = (
            {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        )
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        if self.status == 409:
            # OpenAI's libraries would ask again, and supersede the request that superseded theirs.
            found["x-should-retry"] = "false"
        return found


@dataclass(frozen=True)
class Asked:
    """A request in any format.

    stop      texts before the first of which a middle ends
    stream    whether the text is to come in pieces
    whole     whether each piece is the whole text so far, which may still change
    logprobs  whether the log-probabilities of tokens are wanted
    document  what the client calls the text that is being edited; a newer request about it
              supersedes this one
    seconds   the deadline that the client sets
    ahead     only read the context: a request will follow
    fields    of the answer, by their paths; None: all
    usage     whether a stream is to end with what the request took
    """

    prefix: str
    suffix: str
    options: Options
    files: tuple[Piece, ...] = ()
    stop: tuple[str, ...] = ()
    stream: bool = False
    whole: bool = False
    logprobs: bool = False
    document: str | None = None
    seconds: float | None = None
    ahead: bool = False
    fields: tuple[str, ...] | None = None
    usage: bool = False

    def request(self, model: Checkpoint, owner: str, client: str, longest: float) -> Request:
        """The request for the engine, with a deadline of at most `longest` seconds.

        Clients ask for more tokens than a model can write, as they mean "as many as you like".
        """
        most = self.options.max_tokens
        limit = model.settings.longest
        options = replace(self.options, max_tokens=None if most is None else min(most, limit))
        return Request(
            self.prefix,
            self.suffix,
            options,
            self.files,
            document=None if self.document is None else (owner, client, self.document),
            owner=owner,
            seconds=min(longest, LONGEST_WAIT if self.seconds is None else self.seconds),
        )


@dataclass(frozen=True)
class Token:
    """A token of a middle: its text, and the natural logarithm of its probability."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Choice:
    """One middle.

    tokens  those of its text; none if their log-probabilities were not asked for
    """

    text: str
    finish: Finish
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Given:
    """The outcome of a request.

    context, reused   tokens that were read before the middle, and those of them found in the cache
    written           tokens of all middles that differ, also those behind a text that stops them
    elapsed_ms        from the beginning of the work to its end
    first_ms          of these, until the first tokens were committed
    """

    choices: tuple[Choice, ...]
    context: int
    reused: int
    written: int
    nfe: int
    elapsed_ms: float
    first_ms: float
    model: str


class Format(Protocol):
    """A wire format: a module of `serve/formats`."""

    def asked(self, body: bytes, headers: Mapping[str, str]) -> Asked:
        """What a body asks; Refusal if it cannot be understood."""

    def answer(self, given: Given, asked: Asked, number: str) -> dict[str, Any]:
        """The body of an answer to the request of this number."""

    def piece(self, text: str, asked: Asked, model: str, number: str) -> dict[str, Any]:
        """An event of a stream: some more text or, if asked for, the whole of it so far."""

    def last(self, given: Given, rest: str, asked: Asked, number: str) -> Iterator[dict[str, Any]]:
        """The events that end a stream; the first choice still lacks `rest`."""

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """The body of an answer without a completion."""

    done: str | None
    """What follows the last event of a stream."""


class Body(BaseModel):
    """Fields that all formats share; unknown ones are ignored, wrong kinds are refused.

    Three are Talaria's own: `until`, `check_syntax` and `seed` mean what they do in `Options`; but
    where the temperature is above 0, no seed, or a negative one, means another one each time.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    stream: bool = False
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=10)
    until: Until | None = None
    check_syntax: bool = True
    user: str | None = None
    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, body: Any) -> Any:
        """Clients send null for what they do not set."""
        if isinstance(body, dict):
            return {name: value for name, value in body.items() if value is not None}
        return body

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which a middle ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > MOST_STOPS:
            raise Refusal(f"stop has {len(given)} texts; give at most {MOST_STOPS}", field="stop")
        return tuple(filter(None, given))

    def options(self, max_tokens: int | None, candidates: int = 1) -> Options:
        """How the middle is to be written."""
        try:
            return Options(
                candidates=candidates,
                max_tokens=None if max_tokens is None else min(max_tokens, MOST_TOKENS),
                until=self.until,
                temperature=self.temperature,
                check_syntax=self.check_syntax,
                abstain=True,
                seed=self.chosen_seed,
            )
        except UsageError as error:
            flag, _, said = str(error).removeprefix("--").partition(" ")
            field = flag.replace("-", "_")
            raise Refusal(f"{field} {said}", field=field) from None

    @property
    def chosen_seed(self) -> int:
        """The seed; where the client draws and names none, another one each time."""
        if self.seed is not None and self.seed >= 0:  # llama.cpp has -1 for "any"
            return self.seed
        return secrets.randbelow(MOST_SEEDS) if self.temperature else 0

    def document(self, headers: Mapping[str, str]) -> str | None:
        """What the client calls the document."""
        return headers.get("x-document") or self.user


Kind = TypeVar("Kind", bound=Body)


def parsed(kind: type[Kind], body: bytes) -> Kind:
    """A body by its fields; Refusal names the first that is wrong, and what it must be."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    # Of a field with several types, the place also names these.
    path = [part for part in first["loc"] if isinstance(part, int) or part not in TYPES]
    if not path:
        raise Refusal(f"the body is not a JSON object of this format ({message})")
    shown = repr(first["input"])
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
    field, *inside = path
    place = (
        f"{field}{''.join(f'[{each}]' if isinstance(each, int) else f'.{each}' for each in inside)}"
    )
    if first["type"] == "missing":
        raise Refusal(f"{place} is missing; it must be given", field=str(field))
    raise Refusal(f"{place} is {shown}: {message}", field=str(field))


def given(
    infill: Infill, request: Request, asked: Asked, model: Checkpoint, after_first: float
) -> Given:
    """The outcome of a request as clients get it, `after_first` seconds after its first step.

    A client that asks for several choices indexes them, so there are as many as it asked for: where
    the model wrote a text twice, or nothing else, the best one is repeated.
    """
    distinct = [choice(each, infill, request, asked, model) for each in infill.candidates]
    missing = request.options.candidates - len(distinct)
    choices = (*distinct, *[distinct[0]] * missing)
    return Given(
        choices,
        infill.context_tokens,
        infill.reused_tokens,
        sum(each.length for each in infill.candidates),
        infill.nfe,
        infill.elapsed_ms,
        max(0.0, infill.elapsed_ms - 1000 * after_first),
        model.name,
    )


def choice(
    candidate: Candidate, infill: Infill, request: Request, asked: Asked, model: Checkpoint
) -> Choice:
    """A candidate as a choice, cut at the first text that stops it."""
    text = candidate.text
    ends = [text.find(stop) for stop in asked.stop]
    end = min((at for at in ends if at >= 0), default=None)
    finish: Finish = "stop"
    if end is not None:
        text = text[:end]
    elif candidate.stopped in ("max_tokens", "max_nfe"):
        finish = "length"
    elif candidate.stopped == "deadline":
        finish = "deadline"
    if not asked.logprobs:
        return Choice(text, finish, ())
    pieces = pieces_of(candidate, healed_of(request, model.tokenizer), model.tokenizer.decode)
    chances = infill.probabilities(candidate)
    tokens, length = [], 0
    for piece, chance in zip(pieces, chances, strict=False):
        if length >= len(text):
            break
        shown = piece[: len(text) - length]
        length += len(piece)
        if shown:
            tokens.append(Token(shown, math.log(max(chance, 1e-30))))
    return Choice(text, finish, tuple(tokens))


def pieces_of(
    candidate: Candidate, healed: str, decode: Callable[[list[int]], str]
) -> Iterator[str]:
    """The text that each token of a candidate adds, without the part of the prefix it repeats.

    A token with part of a character adds nothing; the one that completes it adds all of it.
    """
    before = len(healed)
    for count in range(1, len(candidate.tokens) + 1):
        whole = decode(candidate.tokens[:count])
        if whole.endswith("\ufffd") and count < len(candidate.tokens):
            yield ""
            continue
        yield whole[before:]
        before = max(before, len(whole))
