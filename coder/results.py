"""What comes back: candidates, the frames of their denoising, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from talaria.coder.sampler import Step
from talaria.coder.syntax.judge import Verdict
from talaria.coder.tokenizer import Tokenizer

Interruption = Literal["deadline", "cancelled"]
Stopped = (
    Literal["eom", "bound", "suffix", "length", "max_nfe", "max_tokens", "syntax", "withheld"]
    | Interruption
)


@dataclass(frozen=True)
class Frame:
    """A step in the course of a request, or the restoring of an earlier canvas.

    canvas  number of the canvas, from 0
    rows    the candidates that its rows belong to
    healed  the end of the prefix that the first token repeats; only in a first canvas
    """

    canvas: int
    rows: list[int]
    step: Step
    healed: str = ""

    def text(self, row: int, tokenizer: Tokenizer) -> str:
        """The settled text of a row, up to its first mask, without the part that is `healed`."""
        return tokenizer.decode(self.step.settled(row)).removeprefix(self.healed)


@dataclass(frozen=True)
class Candidate:
    """One middle.

    score       mean log-probability per token, read left to right; None where one candidate was
                asked for, or nothing is left of it
    row         its number among the candidates that were generated
    repeats     whether its first token repeats the last one of the prefix and nothing else
    refused     why it must not be written into the file; None if it may, or if it is not to be
    unfinished  whether it opens a block without a body
    """

    text: str
    tokens: list[int]
    stopped: Stopped
    score: float | None
    row: int
    repeats: bool = False
    refused: str | None = None
    unfinished: bool = False

    @property
    def length(self) -> int:
        """How many tokens its text has."""
        return len(self.tokens) - self.repeats

    @property
    def committed(self) -> int:
        """How many tokens were committed for it: those of its text, and its `<eom>`."""
        return self.length + (self.stopped == "eom")


@dataclass(frozen=True)
class Infill:
    """The outcome of a request: distinct candidates, best first, and what they cost.

    elapsed_ms     of one request of a batch: the time of all divided by their number
    reused_tokens  of the context, taken from the cache of an earlier request
    """

    candidates: list[Candidate]
    nfe: int
    elapsed_ms: float
    context_tokens: int
    reused_tokens: int
    syntax: Verdict
    frames: list[Frame]

    @property
    def best(self) -> Candidate:
        """The candidate that is offered first."""
        return self.candidates[0]

    def probabilities(self, candidate: Candidate) -> list[float]:
        """The probabilities at which a middle's tokens were committed, its `<eom>` included.

        Tokens that were trimmed because of an error count too: they cast doubt on the rest.
        """
        sure: dict[tuple[int, int, int], float] = {}  # by canvas, position and token
        canvases: dict[int, list[int]] = {}
        for frame in self.frames:
            if candidate.row not in frame.rows:
                continue
            step, place = frame.step, frame.rows.index(candidate.row)
            ids = step.canvas.ids[place].tolist()
            # What an abandoned attempt wrote, or what stands behind a later `<eom>`, is left out.
            canvases[frame.canvas] = ids[: step.canvas.ended[place] + 1]
            for position in np.flatnonzero(step.committed[place]).tolist():
                sure[frame.canvas, position, ids[position]] = float(
                    step.confidence[place, position]
                )
        return [
            sure[canvas, position, token]
            for canvas, ids in sorted(canvases.items())
            for position, token in enumerate(ids)
            if (canvas, position, token) in sure
        ]

    def confidence(self, candidate: Candidate) -> float:
        """How likely the whole middle is right, by the model: the product of its probabilities.

        It separates suggestions that are accepted from others better than the least probability or
        the geometric mean: docs/evaluation.md has the figures.
        """
        return math.prod(self.probabilities(candidate))

    @property
    def stale_steps(self) -> list[int]:
        """The steps that took states kept from earlier ones, by number, from 1."""
        steps = [frame.step for frame in self.frames if frame.step.took_part.any()]
        return [
            number
            for number, step in enumerate(steps, 1)
            if step.stale is not None and step.stale.any()
        ]

    @property
    def tokens_per_forward(self) -> float:
        """Tokens committed for the best middle, its `<eom>` included, per evaluation."""
        return self.best.committed / max(1, self.nfe)


def unanswered(why: Interruption) -> Infill:
    """The outcome of a request that was interrupted before the model read anything."""
    return Infill([Candidate("", [], why, None, 0)], 0, 0.0, 0, 0, Verdict(0, 0), [])
