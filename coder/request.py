"""What is asked: one frozen request, from the editor or the command line to the decoder."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from talaria.coder.errors import UsageError

if TYPE_CHECKING:
    from talaria.coder.source import Piece  # brings a parser along, which the flags do not need

Mode = Literal["diffuse", "verify", "ar"]
MODES: tuple[Mode, ...] = get_args(Mode)
Until = Literal["line", "statement", "block"]
UNTIL: tuple[Until, ...] = get_args(Until)

CACHES = re.compile(r"(prefix|dual)(:[1-9][0-9]{0,4})?")
MOST_SIZES = 16  # canvases of different sizes that are tried at once
MOST_CHARACTERS = 2_000  # of an instruction
LONGEST_WAIT = 1_000_000  # seconds; systems cannot wait for every number

# Kind, minimum and maximum of each number that a request or a model may set.
LIMITS: dict[str, tuple[type, float, float]] = {
    "candidates": (int, 1, 64),
    "max_nfe": (int, 1, 100_000),
    "max_tokens": (int, 1, 100_000),
    "temperature": (float, 0, 10),
    "confidence_threshold": (float, 0, 1),
    "lookahead": (int, 1, 100_000),
    "seed": (int, 0, 2**63 - 1),
    "working_context": (int, 2, 2**20),
    "block_length": (int, 1, 2**20),
}


def out_of_range(name: str, value: object) -> str | None:
    """What a numeric option must be instead of this value; None if the value is fine."""
    kind, low, high = LIMITS[name]
    number = isinstance(value, int | kind) and not isinstance(value, bool)
    if number and low <= value <= high:  # type: ignore[operator]
        return None
    return f"a {'whole ' * (kind is int)}number between {low} and {high}"


@dataclass(frozen=True)
class Settings:
    """What a model decodes with where a request asks for nothing else; stored with its checkpoint.

    mode, confidence_threshold, lookahead, max_nfe, max_tokens   as in `Options`
    working_context  tokens that a request may use, context and canvases together; a network that
                     knows more positions still reads no more
    block_length     positions of a canvas
    bounded          the model runs on where its middle should end, so that every request gets a
                     bound, and what repeats the suffix ends a middle (`coder/bounds.py`)
    ends             of a bounded model: it runs on only where a hole ends a line that it does not
                     begin; elsewhere it ends its middles itself
    """

    confidence_threshold: float = 0.7
    lookahead: int = 8
    max_nfe: int = 128
    max_tokens: int = 128
    working_context: int = 512
    block_length: int = 32
    mode: Mode = "diffuse"
    bounded: bool = False
    ends: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; it must be one of {', '.join(MODES)}")
        for name in ("bounded", "ends"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is {value!r}; it must be true or false")  # noqa: TRY004
        for name in LIMITS.keys() & asdict(self).keys():
            value = getattr(self, name)
            if wanted := out_of_range(name, value):
                raise ValueError(f"{name} is {value!r}; it must be {wanted}")
        for name in ("max_tokens", "block_length"):
            if getattr(self, name) > self.longest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; a working_context of "
                    f"{self.working_context} leaves room for at most {self.longest}"
                )

    @property
    def longest(self) -> int:
        """Tokens that a middle may have at most: half of the working context."""
        return self.working_context // 2


@dataclass(frozen=True)
class Options:
    """How a middle is generated. None stands for the model's own setting.

    mode                  "diffuse" denoises canvases; "ar" writes a token per step; "verify"
                          writes the same text as "ar" by speculative verification, in fewer steps
    candidates            middles drawn from one context, best first
    max_nfe               evaluations of the denoiser after the prefill; ranking several
                          candidates takes one of them
    max_tokens            tokens of a middle, at most
    until                 end the middle no later than the "line", "statement" or "block" that
                          the hole is in (`coder/bounds.py`)
    temperature           0 takes the likeliest token; None: 0 for the first candidate, 0.7 for
                          the others
    confidence_threshold  commit tokens of at least this confidence
    lookahead             positions beyond the committed ones that a step evaluates; in "verify",
                          one more than the masks that it reads, if the model has any: they follow
                          the likeliest parts of a draft
    check_syntax          repair a middle that adds a syntax error: denoise it again from the
                          doubtful token on, then trim it to the longest clean part
    complete              a block that the middle opens must have its body: right for what is
                          written into a file, not for what is offered while the user types on
    abstain               a middle that begins a line may be blank where the model sees nothing
                          missing: right for what is offered unasked
    seed                  the same seed gives the same text
    sizes                 for models that cannot tell how long a middle is: how many tokens it may
                          have. A canvas of each is filled, side by side, and the text whose tokens
                          the model was surest of is taken; each size costs what one would alone.
                          A model that learns the length begins with the only one
    approximate_cache     for models that read in both directions, which compute everything in
                          every evaluation: "prefix" keeps the states of what is before the current
                          block from when it was begun, "dual" of all around it, though they depend
                          on what was written since; "dual:4" computes all in every fourth
                          evaluation, too. None: everything is computed, exactly
    """

    mode: Mode | None = None
    candidates: int = 1
    max_nfe: int | None = None
    max_tokens: int | None = None
    until: Until | None = None
    temperature: float | None = None
    confidence_threshold: float | None = None
    lookahead: int | None = None
    check_syntax: bool = True
    complete: bool = False
    abstain: bool = False
    seed: int = 0
    sizes: tuple[int, ...] | None = None
    approximate_cache: str | None = None

    def __post_init__(self) -> None:
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple(self.sizes))  # a socket brings lists
            if not 0 < len(self.sizes) <= MOST_SIZES:
                raise UsageError(f"--sizes has {len(self.sizes)}; give 1 to {MOST_SIZES} of them")
            for size in self.sizes:
                if wanted := out_of_range("max_tokens", size):
                    raise UsageError(f"--sizes has {size!r}; each must be {wanted}")
        if self.approximate_cache is not None and not CACHES.fullmatch(self.approximate_cache):
            raise UsageError(
                f"--approximate-cache is {self.approximate_cache!r}; it must be prefix or dual, or "
                "either with the number of evaluations after which all is computed, as dual:4"
            )
        if self.mode not in (None, *MODES):
            raise UsageError(f"mode is {self.mode!r}; it must be {', '.join(MODES[:-1])} or ar")
        if self.until not in (None, *UNTIL):
            raise UsageError(f"--until is {self.until!r}; it must be {', '.join(UNTIL)}")
        for name in LIMITS.keys() & asdict(self).keys():
            value = getattr(self, name)
            if value is None and getattr(Options, name) is None:
                continue
            if wanted := out_of_range(name, value):
                raise UsageError(f"--{name.replace('_', '-')} is {value!r}; it must be {wanted}")
        if self.mode == "verify" and (self.candidates > 1 or (self.temperature or 0) > 0):
            raise UsageError(
                f"--mode verify writes one middle, at temperature 0; this asks for "
                f"{self.candidates} at {self.temperature or 0}; use --mode ar or diffuse"
            )
        if self.candidates > 1 and self.max_nfe == 1:
            raise UsageError(
                f"--max-nfe is 1, and ranking {self.candidates} candidates takes one evaluation; "
                "give at least 2, or ask for one candidate"
            )

    def settled(self, settings: Settings) -> Options:
        """The options with a model's settings in the place of those that are None.

        A model that verifies by default writes several candidates, or draws, in the mode "ar".
        """
        own = asdict(settings)
        if own["mode"] == "verify" and (self.candidates > 1 or (self.temperature or 0) > 0):
            own["mode"] = "ar"
        return replace(
            self,
            **{name: own[name] for name in own if getattr(self, name, settings) is None},
        )


@dataclass(frozen=True)
class Request:
    """A hole to fill, and all that decides how.

    files     excerpts of other files, the most relevant last; they take at most a third of the
              room for the context, and the first are dropped first
    replaces  the text in the hole now, if the middle is to be written there: what the file was
              before decides whether it may be (`coder/guard.py`); None: it is not to be written
    length    write exactly so many tokens; the model sees where they end, and `max_tokens` does
              not apply. None: the model decides
    cell      the text is a cell of a notebook, which may await at its top
    instruction  what is wanted of the middle; the model reads it as a comment above the line of the
              hole, which is in no file and judged by nobody; "": nothing is said
    document  a newer request about the same document supersedes this one; None: nothing does
    owner     whose it is: contexts that were read for others are not used for it
    seconds   the deadline, from when it is submitted: whatever is committed by then is the answer
    """

    prefix: str
    suffix: str
    options: Options = field(default_factory=Options)
    files: tuple[Piece, ...] = ()
    replaces: str | None = None
    length: int | None = None
    cell: bool = False
    instruction: str = ""
    document: Hashable = None
    owner: Hashable = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        length, seconds = self.length, self.seconds
        if length is not None and (type(length) is not int or length < 0):
            raise UsageError(f"length is {length!r}; it must be a whole number of tokens")
        if len(self.instruction) > MOST_CHARACTERS:
            raise UsageError(
                f"--instruction has {len(self.instruction):,} characters, the limit is "
                f"{MOST_CHARACTERS:,}; say it in fewer, or write it into the file"
            )
        if seconds is not None and not 0 <= seconds <= LONGEST_WAIT:
            raise UsageError(f"seconds is {seconds!r}; it must be between 0 and {LONGEST_WAIT:,}")
