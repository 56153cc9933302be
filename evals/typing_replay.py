"""Simulated typing: regions of held-out files are typed again with the model's help.

A region of lines is cut out of a file and typed character by character; what
follows it stays as suffix. The rules, the same for every model:

- The editor indents: the blanks that begin a line are nobody's keystrokes and
  nobody's merit.
- The editor asks for a completion where a line's code begins, after a suggestion
  was accepted, and each time that so many characters were typed since it asked last
  (`every`). It does not ask while the last suggestion still fits what was typed: then
  its rest stays on the screen.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import UsageError
from talaria.evals.cursors import held_out
from talaria.evals.generate import Request as Drawn
from talaria.evals.generate import header, progress
from talaria.evals.jsonl import Results
from talaria.evals.latency import load
from talaria.evals.suites import Problem, Suite

if TYPE_CHECKING:
    from talaria.coder.engine import Engine
    from talaria.coder.infill import Options

LINES = 8  # of a region
LONGEST = 600  # characters of a region


@dataclass(frozen=True)
class Suggestion:
    """What came back for a request: text, the model's confidence in it, and what it took.

    clean   whether it adds no syntax error
    reused  share of the context's tokens that were remembered from a former request
    """

    text: str
    confidence: float
    nfe: int
    elapsed_ms: float
    clean: bool = True
    reused: float = 0.0


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
    clean: bool
    reused: float


@dataclass(frozen=True)
class Replay:
    """A region typed: its characters without indentation, the keystrokes that it took, requests.

    completed  characters that came from accepted suggestions
    """

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
        # The last line's break stays behind the cursor, as it does in an editor.
        region = "".join(lines[first : first + LINES]).removesuffix("\n")
        if len(region) > LONGEST or sum(bool(line.strip()) for line in lines[first:][:LINES]) < 4:
            continue
        file = f"{document['package']}:{document['path']}"
        found[f"{file}:{first + 1}"] = Problem(
            id=f"{file}:{first + 1}",
            cluster=file,
            prefix="".join(lines[:first]),
            suffix="\n" + "".join(lines[first + LINES :]),
            solution=region,
        )
    return list(found.values())


def suite_of_regions(corpus: Path, count: int, seed: int) -> Suite:
    """Regions of a corpus' held-out files; UsageError if it has fewer."""
    documents, files = held_out(corpus)
    found = regions(documents, count, seed) if documents else []
    if len(found) < count:
        raise UsageError(
            f"--regions is {count}; {corpus} gives {len(found)}, whose {LINES} lines have at most "
            f"{LONGEST} characters; ask for fewer"
        )
    return Suite("typing", found, files, "files")


def replay(region: Problem, ask: Callable[[str, str], Suggestion], every: int = 1) -> Replay:
    """Type a region with the help of `ask`, which fills the hole between two texts."""
    text = region.solution
    to_type = typed_by_hand(text)
    typed = keystrokes = completed = 0
    live = ""  # what is still shown of the last suggestion
    since = every  # characters typed since the last request
    requests: list[Request] = []
    while typed < len(text):
        character = text[typed]
        rest = text[typed:].partition("\n")[0]
        line_start = bool(rest.strip()) and not text[:typed].rpartition("\n")[2].strip()
        if to_type[typed] and not live and (line_start or since >= every):
            since = 0
            answer = ask(region.prefix + text[:typed], region.suffix)
            taken = accepted(answer.text, text[typed:])
            requests.append(
                Request(
                    at=typed,
                    shown=len(answer.text) if answer.text.strip() else 0,
                    accepted=taken,
                    line_start=line_start,
                    line_right=bool(rest.strip()) and answer.text.partition("\n")[0] == rest,
                    confidence=round(answer.confidence, 4),
                    nfe=answer.nfe,
                    elapsed_ms=round(answer.elapsed_ms, 2),
                    clean=answer.clean,
                    reused=round(answer.reused, 4),
                )
            )
            if taken:
                keystrokes += 1
                completed += sum(to_type[typed : typed + taken])
                typed += taken
                since = every
                continue
            live = answer.text
        # Typing on: what was suggested stays while it fits, and is not asked for again.
        live = live[1:] if live[:1] == character else ""
        keystrokes += to_type[typed]
        since += to_type[typed]
        typed += 1
    return Replay(region.id, region.cluster, sum(to_type), keystrokes, completed, requests)


def typed_by_hand(text: str) -> list[bool]:
    """For each character whether a person types it; blanks that begin a line come by themselves."""
    found: list[bool] = []
    for line in text.splitlines(keepends=True):
        given = len(line) - len(line.lstrip(" \t"))
        found += [False] * given + [True] * (len(line) - given)
    return found


def accepted(suggestion: str, coming: str) -> int:
    """How many characters of a suggestion are taken by one who knows what is coming."""
    line = suggestion[: suggestion.find("\n")] if "\n" in suggestion else suggestion
    for text in (suggestion, line):
        if len(text) > 1 and text.strip() and coming.startswith(text):
            return len(text)
    return 0


def with_engine(engine: Engine, options: Options) -> Callable[[str, str], Suggestion]:
    """A function that asks an engine, which remembers what it read from request to request."""

    def ask(prefix: str, suffix: str) -> Suggestion:
        found = engine.infill(prefix, suffix, options)
        return Suggestion(
            found.best.text,
            found.confidence(found.best),
            found.nfe,
            found.elapsed_ms,
            found.syntax.clean,
            found.reused_tokens / found.context_tokens,
        )

    return ask


def type_again(
    suite: Suite, engine: Engine, options: Options, every: int, path: Path, device: str = "cpu"
) -> Results:
    """Type every region and append what came out to the file; what is there is not redone."""
    if every < 1:
        raise UsageError(f"--every is {every}; it must be at least 1")
    model = engine.model.result()
    head = header(suite, model, Drawn(options), device)
    head |= {"stage": "results", "every": every, "threads": model.denoiser.threads}
    results = Results(path, head)
    kept = {row["id"] for row in results.rows}
    ask = with_engine(engine, options)
    bar = progress(len(suite.problems), "region")
    bar.update(len(kept))
    try:
        # The first request after a model was loaded is slower; no editor sees more than one.
        ask("", "")
        for region in suite.problems:
            if region.id not in kept:
                results.append({**replay(region, ask, every).row(), "load": load()})
                bar.update()
                typed = sum(row["characters"] for row in results.rows)
                spared = typed - sum(row["keystrokes"] for row in results.rows)
                bar.set_postfix_str(f"{spared / typed:.1%} of keystrokes saved", refresh=False)
    finally:
        bar.close()
        results.close()
    return results
