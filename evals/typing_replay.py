"""Simulated typing: regions of held-out files are typed again with the model's help.

A region of lines is cut out of a file and typed character by character; what
follows it stays as suffix. The rules, the same for every model:

- After each character the editor asks for a completion, unless the last
  suggestion still fits what was typed: then its rest stays on the screen.
- A suggestion is shown if it says anything.
- Whoever types looks at each new suggestion once. If all of it is what they were
  about to type, and more than one character, they accept it: one keystroke. If
  only its first line is right, and it has several, they accept that line.
- Everything else is typed, a keystroke a character.

So nobody is misled and nobody overlooks a good suggestion: the figures are upper
bounds for people, and comparable between models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evals.suites import Problem

LINES = 8  # of a region
LONGEST = 600  # characters of a region


@dataclass(frozen=True)
class Suggestion:
    """What came back for a request: text, the model's confidence in it, and what it took."""

    text: str
    confidence: float
    nfe: int
    elapsed_ms: float


@dataclass(frozen=True)
class Request:
    """One request in the course of typing, and what became of its answer.

    at         characters of the region typed before it
    shown      characters suggested
    accepted   characters taken, 0 if none
    line_start whether it stood where a line's code begins
    line_right whether its first line was all that the line still lacked
    """

    at: int
    shown: int
    accepted: int
    line_start: bool
    line_right: bool
    confidence: float
    nfe: int
    elapsed_ms: float


@dataclass(frozen=True)
class Replay:
    """A region typed: its characters, the keystrokes that it took, and all requests."""

    id: str
    cluster: str
    characters: int
    keystrokes: int
    completed: int
    requests: Sequence[Request]

    def row(self) -> dict[str, Any]:
        """As a line of a results file."""
        return {**asdict(self), "sample": 0}


def regions(documents: Sequence[dict[str, str]], count: int, seed: int) -> list[Problem]:
    """Regions of LINES whole lines with code in them, from files drawn at random."""
    rng = random.Random(seed)
    found: dict[str, Problem] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        document = rng.choice(documents)
        lines = document["text"].splitlines(keepends=True)
        if len(lines) < 2 * LINES:
            continue
        first = rng.randrange(len(lines) - LINES)
        region = "".join(lines[first : first + LINES])
        if len(region) > LONGEST or sum(bool(line.strip()) for line in lines[first:][:LINES]) < 4:
            continue
        file = f"{document['package']}:{document['path']}"
        found[f"{file}:{first + 1}"] = Problem(
            id=f"{file}:{first + 1}",
            cluster=file,
            prefix="".join(lines[:first]),
            suffix="".join(lines[first + LINES :]),
            solution=region,
        )
    return list(found.values())


def replay(region: Problem, ask: Callable[[str, str], Suggestion]) -> Replay:
    """Type a region with the help of `ask`, which fills the hole between two texts."""
    text = region.solution
    typed = keystrokes = completed = 0
    live = ""  # what is still shown of the last suggestion
    requests: list[Request] = []
    while typed < len(text):
        if not live:
            answer = ask(region.prefix + text[:typed], region.suffix)
            taken = accepted(answer.text, text[typed:])
            rest = text[typed:].partition("\n")[0]
            requests.append(
                Request(
                    at=typed,
                    shown=len(answer.text),
                    accepted=taken,
                    line_start=bool(rest.strip()) and not text[:typed].rpartition("\n")[2].strip(),
                    line_right=bool(rest.strip()) and answer.text.partition("\n")[0] == rest,
                    confidence=round(answer.confidence, 4),
                    nfe=answer.nfe,
                    elapsed_ms=round(answer.elapsed_ms, 2),
                )
            )
            if taken:
                keystrokes += 1
                completed += taken
                typed += taken
                continue
            live = answer.text
        character = text[typed]
        # Typing on: what was suggested stays while it fits, and is not asked for again.
        live = live[1:] if live[:1] == character else ""
        keystrokes += 1
        typed += 1
    return Replay(region.id, region.cluster, len(text), keystrokes, completed, requests)


def accepted(suggestion: str, coming: str) -> int:
    """How many characters of a suggestion are taken by one who knows what is coming."""
    line = suggestion[: suggestion.find("\n")] if "\n" in suggestion else suggestion
    for text in (suggestion, line):
        if len(text) > 1 and text.strip() and coming.startswith(text):
            return len(text)
    return 0


def every_request(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The requests of all replays."""
    for row in rows:
        yield from row["requests"]


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What typing with the model's help came to, with 95 % intervals over files drawn anew.

    `precision` tells, for suggestions of at least a confidence, how many of those
    shown were accepted and how many were shown.
    """
    from evals.intervals import bootstrap
    from evals.report import percentile

    clusters = [row["cluster"] for row in rows]
    characters = sum(row["characters"] for row in rows)
    requests = list(every_request(rows))
    shown = [request for request in requests if request["shown"]]
    starts = [request for request in requests if request["line_start"]]
    elapsed = [request["elapsed_ms"] for request in requests]
    return {
        "regions": len(rows),
        "characters": characters,
        "requests": len(requests),
        "completed_ratio": sum(row["completed"] for row in rows) / characters,
        "completed_ratio_interval": bootstrap(
            [row["completed"] / row["characters"] for row in rows], clusters
        ),
        "keystrokes_saved": 1 - sum(row["keystrokes"] for row in rows) / characters,
        "keystrokes_saved_interval": bootstrap(
            [1 - row["keystrokes"] / row["characters"] for row in rows], clusters
        ),
        "requests_per_character": len(requests) / characters,
        "shown_share": len(shown) / max(1, len(requests)),
        "accepted_share": sum(bool(r["accepted"]) for r in shown) / max(1, len(shown)),
        "exact_line_share": sum(r["line_right"] for r in starts) / max(1, len(starts)),
        "precision": [
            {
                "confidence": edge,
                "shown": len(some),
                "accepted": sum(bool(r["accepted"]) for r in some) / max(1, len(some)),
            }
            for edge in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
            for some in [[r for r in shown if r["confidence"] >= edge]]
        ],
        "elapsed_ms": {
            f"p{round(100 * share)}": percentile(elapsed, share) for share in (0.5, 0.95, 0.99)
        },
        "nfe": sum(request["nfe"] for request in requests) / max(1, len(requests)),
    }
