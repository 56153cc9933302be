"""Type whole programs through the language server, and see what a person would see.

Programs are cut into windows of lines. In a window, everything above it stands in the file and
nothing below, as in a program that is being written. The rules:

- The editor indents, as in `typing`, and asks after every key, also after an accepted suggestion.
- The typist looks at every text that appears. If all of it is what they were about to type, and
  more than one character, they accept it with one keystroke; if only the first of several lines
  is right, they accept that line. Everything else is typed.

A key *changes* what is shown if a text was on the screen before it and its rest is not there
afterwards, unless the key ended that text: the user typed against it, or it was replaced while it
was typed. A text that comes where none was *appears*.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from talaria.coder.errors import DataError, UsageError
from talaria.coder.request import Options
from talaria.evals.cursors import held_out
from talaria.evals.generate import Sampling, header
from talaria.evals.jsonl import ResultRow, Results
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.tables import cells, columns, provenance, ratio, suite_of
from talaria.evals.timing import load_average
from talaria.evals.typing_replay import accepted, typed_by_hand

if TYPE_CHECKING:
    from talaria.coder.page import Section

LINES = range(60, 301)  # of a program
WINDOW = 12  # lines
DEADLINE_MS = 60_000  # what the server would offer with time enough is measured, not its speed
SHARES = {
    "changed": "keys that change the text on the screen",
    "appeared": "keys at which a text appears",
    "right": "texts shown that are right",
    "keystrokes_saved": "keystrokes saved",
    "completed": "characters completed",
}
RULES = (
    "Programs that the model has not seen are typed through the language server, with everything "
    "above the cursor and nothing below. A text is accepted with one keystroke if all of it, or "
    "its first line, is what comes next. A key changes what is shown if a text was there before "
    "it and its rest is not there afterwards."
)


class Editor(Protocol):
    """What the typist needs: a document whose text ends at the cursor."""

    def open(self, name: str, text: str) -> None:
        """Open a document."""

    def insert(self, text: str) -> None:
        """Insert a text at the cursor."""

    def suggestion(self) -> str:
        """The ghost text at the cursor; empty if there is none."""


@dataclass(frozen=True)
class TypedWindow:
    """A window of a program that was typed.

    characters  without indentation
    keystrokes  what typing it took, acceptances included
    completed   characters that came from accepted texts
    changed     keys that changed what was shown
    appeared    keys at which a text appeared
    shown       the texts that appeared or replaced another, each with how much of it was right
    seconds     waiting for the server
    """

    id: str
    cluster: str
    characters: int
    keystrokes: int
    completed: int
    changed: int
    appeared: int
    shown: Sequence[tuple[int, int]]
    seconds: float

    def row(self) -> dict[str, Any]:
        """Return it as a row of a result file."""
        return {**asdict(self), "sample": 0}


def suite_of_programs(corpus: Path, count: int, limit: int | None, seed: int) -> Suite:
    """Draw programs of different packages, and `limit` of their windows; UsageError if too few."""
    documents, files, source = held_out(corpus)
    rng = random.Random(seed)
    fitting = [d for d in documents if d["text"].count("\n") in LINES]
    rng.shuffle(fitting)
    chosen = list({d["package"]: d for d in fitting}.values())[:count]
    if len(chosen) < count:
        raise UsageError(
            f"--programs is {count}; {corpus} has only {len(chosen)} packages with a file of "
            f"{LINES[0]} to {LINES[-1]} lines; ask for fewer"
        )
    found = [window for document in chosen for window in windows(document)]
    if limit is not None and limit < len(found):
        found = sorted(rng.sample(found, limit), key=found.index)
    return Suite("programs", found, files, "files", source)


def windows(document: Mapping[str, str]) -> list[Problem]:
    """Cut a program into windows of lines, each with everything above it as its prefix."""
    lines = document["text"].split("\n")
    name = f"{document['package']}:{document['path']}"
    found = []
    for first in range(0, len(lines), WINDOW):
        own = "\n".join(lines[first : first + WINDOW])
        if own.strip():
            above = "".join(line + "\n" for line in lines[:first])
            found.append(Problem(f"{name}:{first + 1}", name, above, "", own))
    return found


def type_window(window: Problem, editor: Editor) -> TypedWindow:
    """Type a window by the rules."""
    text, by_hand = window.solution, typed_by_hand(window.solution)
    editor.open(window.id.rpartition(":")[0].replace(":", "/"), window.prefix)
    keystrokes = completed = changed = appeared = done = 0
    shown: list[tuple[int, int]] = []
    seconds, on_screen, taken = 0.0, "", 0
    while done < len(text):
        accepting = bool(taken)
        if not accepting:
            taken = 1
            while done + taken < len(text) and not by_hand[done + taken]:
                taken += 1
        new = text[done : done + taken]
        hand = sum(by_hand[done : done + taken])
        if hand or accepting:
            keystrokes += 1
            completed += hand if accepting else 0
        editor.insert(new)
        done += taken
        rest = on_screen[len(new) :] if on_screen.startswith(new) else ""
        against = bool(on_screen) and not on_screen.startswith(new)
        began = time.perf_counter()
        now = editor.suggestion()
        seconds += time.perf_counter() - began
        on_screen, taken = now, 0
        if against or (rest and now != rest):
            changed += 1
        elif now != rest:
            appeared += 1
        if now and now != rest:
            taken = accepted(now, text[done:])
            shown.append((len(now), taken))
    return TypedWindow(
        window.id,
        window.cluster,
        sum(by_hand),
        keystrokes,
        completed,
        changed,
        appeared,
        shown,
        round(seconds, 3),
    )


def type_programs(
    suite: Suite, name: str | None, device: str, least: float | None, path: Path
) -> Results:
    """Type every window and append the rows to the file; existing ones are kept."""
    from talaria.coder.loading import load
    from talaria.evals.typing_server import TypingServer

    model = load(name, device)
    head = header(suite, model, Sampling(Options()), device)
    head |= {"stage": "results", "threads": model.backbone.threads, "least_confidence": least}
    flags = ["--model", name or model.name, "--device", device, "--no-related-files"]
    flags += ["--deadline-ms", str(DEADLINE_MS), "--debounce-ms", "0"]
    if least is not None:
        flags += ["--least-confidence", str(least)]
    del model  # the server has its own
    results = Results(path, head)
    kept = {row["id"] for row in results.rows}
    bar = progress(len(suite.problems), "window")
    bar.update(len(kept))
    try:
        with TypingServer(flags) as server:
            for window in suite.problems:
                if window.id not in kept:
                    row = type_window(window, server).row()
                    results.append({**row, "load": load_average()})
                    bar.update()
    finally:
        bar.close()
        results.close()
    return results


def figures(head: Mapping[str, Any], rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute a run's figures, with 95 % bootstrap intervals over windows."""
    if not rows:
        raise DataError("no windows to report; type some first")
    ids = [row["id"] for row in rows]
    characters = [row["characters"] for row in rows]
    keys = [row["keystrokes"] for row in rows]
    saved = [row["characters"] - row["keystrokes"] for row in rows]
    right = [sum(taken > 0 for _, taken in row["shown"]) for row in rows]
    shown = [len(row["shown"]) for row in rows]
    return {
        **head,
        "windows": len(rows),
        "programs": len({row["cluster"] for row in rows}),
        "characters": sum(characters),
        "keystrokes": sum(keys),
        "shown": sum(shown),
        "right": sum(right),
        "seconds": sum(row["seconds"] for row in rows),
        "shares": {
            "changed": ratio([row["changed"] for row in rows], ids, keys),
            "appeared": ratio([row["appeared"] for row in rows], ids, keys),
            "right": ratio(right if sum(shown) else [], ids if sum(shown) else [], shown),
            "keystrokes_saved": ratio(saved, ids, characters),
            "completed": ratio([row["completed"] for row in rows], ids, characters),
        },
    }


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out a run's shares as rows of cells, the head first."""
    rows = [["", "share", "by windows 95 %"]]
    return rows + [[label, *cells(found["shares"][name])] for name, label in SHARES.items()]


def facts(found: Mapping[str, Any]) -> list[str]:
    """List what a reader must know about a run besides its shares."""
    return [
        f"{found['windows']} windows of {WINDOW} lines in {found['programs']} programs: "
        f"{found['characters']} characters, {found['keystrokes']} keystrokes, "
        f"{found['shown']} texts shown, {found['right']} of them right",
        f"the server answered without a deadline, in {found['seconds']:.0f} s in all",
        *provenance(found),
    ]


def as_text(found: Mapping[str, Any]) -> str:
    """Format the report of a run for the terminal."""
    return "\n".join([name_of(found), *facts(found), "", columns(table(found))])


def name_of(found: Mapping[str, Any]) -> str:
    """Name a run in tables."""
    least = found.get("least_confidence")
    return f"{suite_of(found)}, {found['model']['name']}" + (
        f", least confidence {least:g}" if least is not None else ""
    )


def sections(runs: Sequence[tuple[Mapping[str, Any], Sequence[ResultRow]]]) -> list[Section]:
    """Make the page's sections: the rules, then each run."""
    from talaria.coder.page import Section

    return [
        Section("Typing programs", RULES),
        *(
            Section(name_of(found), "; ".join(facts(found)) + ".", table=table(found))
            for found, _ in runs
        ),
    ]
