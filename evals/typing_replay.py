"""Simulate typing: retype regions of held-out files with the model's help.

A region of lines is cut out of a file and typed character by character; the rest of the file
after it is the suffix. The rules, the same for every model:

- The editor indents: blanks that begin a line count neither as keystrokes nor as completed.
- The editor asks for a completion where a line's code begins, after a suggestion was accepted,
  and every `every` typed characters since it last asked. It does not ask while what is typed
  still matches the last suggestion, whose rest stays on screen.
- A suggestion is shown unless it is blank.
- The typist looks at each new suggestion once. If all of it is what they were about to type, and
  more than one character, they accept it with one keystroke. If only the first of several lines
  is right, they accept that line.
- Everything else is typed, one keystroke per character.

The typist is never misled and never overlooks a good suggestion, so the figures are upper bounds
for people; they are comparable between models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import UsageError
from talaria.coder.request import Options, Request
from talaria.coder.syntax.lexical import lines_of
from talaria.evals.cursors import held_out
from talaria.evals.generate import Sampling, header
from talaria.evals.jsonl import Results
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.timing import load_average

if TYPE_CHECKING:
    from talaria.coder.engine import Engine


REGION_LINES = 8
REGION_CHARACTERS = 600  # at most


@dataclass(frozen=True)
class Completion:
    """The answer to a request: its text, the model's confidence in it, and its cost.

    clean   whether it adds no syntax error
    reused  share of the context's tokens found in the KV cache of an earlier request
    """

    text: str
    confidence: float
    nfe: int
    elapsed_ms: float
    clean: bool = True
    reused: float = 0.0


@dataclass(frozen=True)
class TypedRequest:
    """One request made while typing, and what became of its answer.

    at         characters of the region typed before it
    shown      characters suggested
    accepted   characters accepted, 0 if none
    line_start whether it was made where a line's code begins
    line_right whether its first line was exactly the rest of the line
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
    """A region that was typed.

    characters  without indentation
    keystrokes  what typing it took, acceptances included
    completed   characters that came from accepted suggestions
    """

    id: str
    cluster: str
    characters: int
    keystrokes: int
    completed: int
    requests: Sequence[TypedRequest]

    def row(self) -> dict[str, Any]:
        """Return it as a row of a result file."""
        return {**asdict(self), "sample": 0}


def regions(documents: Sequence[dict[str, str]], count: int, seed: int) -> list[Problem]:
    """Draw regions of REGION_LINES whole lines, at least half of them not blank."""
    rng = random.Random(seed)
    found: dict[str, Problem] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        document = rng.choice(documents)
        lines = lines_of(document["text"])
        if len(lines) < 2 * REGION_LINES:
            continue
        first = rng.randrange(len(lines) - REGION_LINES)
        own = lines[first : first + REGION_LINES]
        # The last line's break stays behind the cursor, as it does in an editor.
        region = "".join(own).removesuffix("\n")
        if len(region) > REGION_CHARACTERS or sum(bool(line.strip()) for line in own) < 4:
            continue
        file = f"{document['package']}:{document['path']}"
        found[f"{file}:{first + 1}"] = Problem(
            id=f"{file}:{first + 1}",
            cluster=file,
            prefix="".join(lines[:first]),
            suffix="\n" + "".join(lines[first + REGION_LINES :]),
            solution=region,
        )
    return list(found.values())


def suite_of_regions(corpus: Path, count: int, seed: int) -> Suite:
    """Draw regions from a corpus's held-out files; UsageError if it has fewer."""
    documents, files, source = held_out(corpus)
    found = regions(documents, count, seed) if documents else []
    if len(found) < count:
        raise UsageError(
            f"--regions is {count}; {corpus} has only {len(found)} of {REGION_LINES} lines with at "
            f"most {REGION_CHARACTERS} characters; ask for fewer"
        )
    return Suite("typing", found, files, "files", source)


def replay(region: Problem, ask: Callable[[str, str], Completion], every: int = 1) -> Replay:
    """Type a region with the help of `ask`, which completes between a prefix and a suffix."""
    text = region.solution
    to_type = typed_by_hand(text)
    typed = keystrokes = completed = 0
    shown = ""  # the rest of the last suggestion, while it matches what is typed
    since = every  # characters typed since the last request
    requests: list[TypedRequest] = []
    while typed < len(text):
        character = text[typed]
        rest = text[typed:].partition("\n")[0]
        line_start = bool(rest.strip()) and not text[:typed].rpartition("\n")[2].strip()
        if to_type[typed] and not shown and (line_start or since >= every):
            since = 0
            answer = ask(region.prefix + text[:typed], region.suffix)
            taken = accepted(answer.text, text[typed:])
            requests.append(
                TypedRequest(
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
            shown = answer.text
        shown = shown[1:] if shown[:1] == character else ""
        keystrokes += to_type[typed]
        since += to_type[typed]
        typed += 1
    return Replay(region.id, region.cluster, sum(to_type), keystrokes, completed, requests)


def typed_by_hand(text: str) -> list[bool]:
    """Say for each character whether a person types it; the editor types indentation."""
    found: list[bool] = []
    for line in lines_of(text):
        indentation = len(line) - len(line.lstrip(" \t"))
        found += [False] * indentation + [True] * (len(line) - indentation)
    return found


def accepted(suggestion: str, coming: str) -> int:
    """Return how many characters of a suggestion a typist who intends `coming` accepts."""
    line = suggestion[: suggestion.find("\n")] if "\n" in suggestion else suggestion
    for text in (suggestion, line):
        if len(text) > 1 and text.strip() and coming.startswith(text):
            return len(text)
    return 0


def with_engine(engine: Engine, options: Options) -> Callable[[str, str], Completion]:
    """Return a function that asks an engine, which keeps KV caches from request to request."""

    def ask(prefix: str, suffix: str) -> Completion:
        found = engine.fill(Request(prefix, suffix, options))
        return Completion(
            found.best.text,
            found.confidence(found.best),
            found.nfe,
            found.elapsed_ms,
            found.syntax.sound,
            found.reused_tokens / found.context_tokens,
        )

    return ask


def type_again(
    suite: Suite, engine: Engine, options: Options, every: int, path: Path, device: str = "cpu"
) -> Results:
    """Type every region and append the replays to the file; existing ones are kept."""
    from talaria.coder.capabilities import check

    if every < 1:
        raise UsageError(f"--every is {every}; it must be at least 1")
    options = replace(options, abstain=True)  # nobody asked
    model = engine.model.result()
    check(model, options)
    head = header(suite, model, Sampling(options), device)
    head |= {"stage": "results", "every": every, "threads": model.backbone.threads}
    results = Results(path, head)
    kept = {row["id"] for row in results.rows}
    ask = with_engine(engine, options)
    bar = progress(len(suite.problems), "region")
    bar.update(len(kept))
    try:
        ask("", "")  # warm-up: the first request after loading is slower
        for region in suite.problems:
            if region.id not in kept:
                results.append({**replay(region, ask, every).row(), "load": load_average()})
                bar.update()
                typed = sum(row["characters"] for row in results.rows)
                saved = typed - sum(row["keystrokes"] for row in results.rows)
                bar.set_postfix_str(f"{saved / typed:.1%} of keystrokes saved", refresh=False)
    finally:
        bar.close()
        results.close()
    return results
