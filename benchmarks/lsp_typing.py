"""Typing through the language server, as a person does, and the figures of its requests.

The editor asks after every key. A request that is not answered by the next key is overtaken:
its answer comes too late. Percentiles of answers in time alone would flatter a slow server, so
the same percentiles are also given over all requests, with overtaken ones as unfinished at that
key (Kaplan and Meier, 1958).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np

from benchmarks.lsp_client import ClientRequest, EditorDocument, EditorWorkspace, LspClient
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import ratio
from talaria.evals.typing_replay import accepted, regions, typed_by_hand

SHARES = (0.5, 0.95, 0.99)
DRAWS = 1000  # of cursors, for intervals

# Seconds between keys, log-normal with these medians; a burst is a few quick keys.
KEY, BURST, PAUSE, LOOK = 0.18, 0.09, 1.2, 0.5
SPREAD = 0.4
BURSTS, PAUSES = 0.05, 0.06  # shares of draws
CURSORS = 3  # in a file before the next one is opened
KEYS = 60  # typed at a cursor, at most
NO_CANCEL = 4  # at one cursor in this many, the editor cancels nothing, as Neovim does
ACCEPTED, DISMISSED = 0.6, 0.2  # shares of right and of wrong suggestions


@dataclass(frozen=True)
class KeystrokeRequest:
    """A request made while typing; times in milliseconds.

    after      what preceded the request
    cancels    whether the editor cancels overtaken requests
    ms         time to the answer
    until_key  time to the next change of the text
    overtaken  whether that change came before the answer
    model      whether the model was asked; None where that is unknown
    shown      characters suggested
    error      the code of an error answer
    """

    cursor: str
    file: str
    after: Literal["opening", "key", "acceptance"]
    cancels: bool
    ms: float
    until_key: float
    overtaken: bool
    model: bool | None
    shown: int
    error: int | None


def gaps(rng: random.Random) -> Iterator[float]:
    """Yield the seconds between one key and the next, without end."""
    while True:
        drawn = rng.random()
        if drawn < BURSTS:
            yield from (log_normal(rng, BURST) for _ in range(rng.randrange(3, 9)))
        else:
            yield log_normal(rng, PAUSE if drawn < BURSTS + PAUSES else KEY)


def log_normal(rng: random.Random, median: float) -> float:
    """Draw seconds from a log-normal distribution with this median."""
    return median * rng.lognormvariate(0, SPREAD)


def type_in_files(
    client: LspClient,
    place: EditorWorkspace,
    documents: Sequence[dict[str, str]],
    minutes: float,
    speed: float,
) -> tuple[list[KeystrokeRequest], int]:
    """Open file after file and type at cursors in them; returns the requests and the keys struck.

    `minutes` are those of a person; they pass `speed` times as fast.
    """
    rng, rows = random.Random(0), list[KeystrokeRequest]()
    typist = Typist(client, rng, speed)
    bar = progress(round(60 * minutes), "second")
    for visit in count():
        document = documents[visit % len(documents)]
        page = EditorDocument(client, place, document["path"])
        time.sleep(1 / speed)  # people look before they type
        for number, region in enumerate(regions([document], CURSORS, visit)):
            cancels = (visit * CURSORS + number) % NO_CANCEL != 0
            rows += typist.type_region(page, region, not number, cancels)
            bar.update(round(min(typist.seconds, 60 * minutes)) - bar.n)
            if typist.seconds >= 60 * minutes:
                bar.close()
                return rows, typist.keys
        page.close()
    raise AssertionError("unreachable: visits never end")


class Typist:
    """Types regions, looks at suggestions and accepts some.

    seconds  what a person would have needed so far
    """

    def __init__(self, client: LspClient, rng: random.Random, speed: float) -> None:
        self.client, self.rng, self.speed = client, rng, speed
        self.gaps = gaps(rng)
        self.seconds, self.keys = 0.0, 0
        self._counted: int | None = None  # the model's requests; None if it may have had more

    def type_region(
        self, page: EditorDocument, region: Problem, opening: bool, cancels: bool
    ) -> list[KeystrokeRequest]:
        """Remove a region, retype it with a request after every key, and restore the rest."""
        # The last line break stays: nobody types right before the code of the next line.
        start, text = len(region.prefix), region.solution.rstrip("\n")
        by_hand = typed_by_hand(text)
        done = by_hand.index(True)  # the editor indents
        page.edit(start + done, start + len(text), "")
        made: list[tuple[ClientRequest, dict[str, Any]]] = []
        after: Literal["opening", "key", "acceptance"] = "opening" if opening else "key"
        last_key, taken, shown, command = self.keys + KEYS, 0, "", None
        while done < len(text) and self.keys < last_key:
            if made and not made[-1][0].done.is_set():
                made[-1][1]["overtaken"] = True
                self._counted = None
                if cancels:
                    self.client.cancel(made[-1][0])
            if self._counted is None:
                self._counted = self.client.model_requests()
            if not taken:
                self.keys += 1
                taken = 1
                while done + taken < len(text) and not by_hand[done + taken]:
                    taken += 1
            new = text[done : done + taken]
            page.edit(start + done, start + done, new)
            if command:
                self.client.ask("workspace/executeCommand", command)
            shown = shown[taken:] if shown.startswith(new) else ""
            done += taken
            request, gap = page.ask(start + done), next(self.gaps)
            about = {"after": after, "until_key": gap, "overtaken": False, "model": None}
            made.append((request, about))
            taken, after, command = 0, "key", None
            if request.done.wait(gap / self.speed):
                counted, before = self.client.model_requests(), self._counted
                about["model"], self._counted = counted > before, counted
                if request.text and request.text != shown:
                    taken, pause = self.react(page, request, text[done:])
                    about["until_key"] = gap = gap + pause
                    if taken:
                        after, self._counted = "acceptance", None
                        command = request.command if taken == len(request.text) else None
                shown = request.text
            self.seconds += gap
            time.sleep(max(0.0, request.sent + gap / self.speed - time.perf_counter()))
        for request, _ in made:
            self.client.wait(request)
        self._counted = None
        page.edit(start + done, start + done, text[done:])
        own = {"cursor": region.id, "file": region.cluster, "cancels": cancels}
        return [row_of(request, {**own, **about}, self.speed) for request, about in made]

    def react(self, page: EditorDocument, request: ClientRequest, coming: str) -> tuple[int, float]:
        """React to a new suggestion: how many characters are accepted, and the seconds it takes."""
        right = accepted(request.text, coming)
        if right and self.rng.random() < ACCEPTED:
            return right, log_normal(self.rng, LOOK)
        if not right and self.rng.random() < DISMISSED:
            self.client.notify("talaria/didDismiss", {"uri": page.uri})
            return 0, log_normal(self.rng, LOOK)
        return 0, 0.0


def row_of(request: ClientRequest, about: dict[str, Any], speed: float) -> KeystrokeRequest:
    """Make the record of an answered request."""
    error = request.error["code"] if request.error else None
    times = {"ms": request.ms, "until_key": 1000 * about["until_key"] / speed}
    return KeystrokeRequest(**{**about, **times, "shown": len(request.text), "error": error})


def typing_figures(rows: Sequence[KeystrokeRequest]) -> dict[str, Any]:
    """Compute times by what became of a request, and how often something was suggested."""
    in_time = [row for row in rows if not row.overtaken]
    keyed = [row for row in in_time if row.after == "key"]
    late = [row for row in rows if row.overtaken]
    classes = {
        "answered": in_time,
        "model": [row for row in keyed if row.model],
        "typed through": [row for row in keyed if row.model is False and row.shown],
        "silent": [row for row in keyed if row.model is False and not row.shown],
        "accepted": [row for row in in_time if row.after == "acceptance"],
        "first": [row for row in rows if row.after == "opening"],
        "all": rows,
        "all model": [row for row in rows if row.overtaken or row.model],
    }
    clusters = [row.cursor for row in in_time]
    return {
        "requests": len(rows),
        "cursors": len({row.cursor for row in rows}),
        "times": {name: times(own) for name, own in classes.items()},
        "suggested": ratio([float(row.shown > 0) for row in in_time], clusters),
        "accepted": sum(row.after == "acceptance" for row in rows),
        "overtaken": {
            **ratio([float(row.overtaken) for row in rows], [row.cursor for row in rows]),
            **{
                f"then_answered_{name}": times(
                    [row for row in late if row.cancels is cancels], True
                )
                for name, cancels in (("cancelled", True), ("not_cancelled", False))
            },
            "with_text": sum(row.shown > 0 for row in late),
        },
        "errors": dict(Counter(str(row.error) for row in rows if row.error)),
    }


def times(rows: Sequence[KeystrokeRequest], since_key: bool = False) -> dict[str, Any]:
    """Compute percentiles of requests' times, with 95 % bootstrap intervals over cursors.

    Overtaken requests count as unfinished at the key that overtook them; with `since_key`, their
    time begins at that key instead. None means longer than anything observed.
    """
    places = {name: number for number, name in enumerate(dict.fromkeys(r.cursor for r in rows))}
    finished = np.array([since_key or not row.overtaken for row in rows], bool)
    answered = np.array([row.ms for row in rows], float)
    key = np.array([row.until_key for row in rows], float)
    ms = np.maximum(0, answered - key) if since_key else np.where(finished, answered, key)
    order = np.argsort(ms, kind="stable")
    own = np.array([places[row.cursor] for row in rows], int)[order]
    ms, finished = ms[order], finished[order]
    rng, size = np.random.default_rng(0), len(places)
    drawn = [
        quantiles(ms, finished, np.bincount(rng.integers(size, size=size), minlength=size)[own])
        for _ in range(DRAWS if size > 1 else 0)
    ]
    found: dict[str, Any] = {"requests": len(rows)}
    point = quantiles(ms, finished, np.ones(len(ms), int))
    for number, share in enumerate(SHARES):
        values = sorted((draw[number] for draw in drawn), key=lambda ms: (ms is None, ms))
        edges = [values[len(values) // 40], values[-1 - len(values) // 40]] if values else None
        found[f"p{100 * share:.0f}"] = {"ms": point[number], "interval": edges}
    return found


def quantiles(
    ms: np.ndarray[Any, Any], finished: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
) -> list[float | None]:
    """Return the least time by which each of `SHARES` of the requests is finished (Kaplan-Meier).

    ms        [requests], sorted
    finished  [requests]; False where a time is only a lower bound
    weights   [requests]; how often each counts
    None where even the longest time is a lower bound.
    """
    at_risk = weights[::-1].cumsum()[::-1]
    left = np.cumprod(1 - np.where(finished, weights, 0) / np.maximum(at_risk, 1))
    found: list[float | None] = []
    for share in SHARES:
        reached = np.flatnonzero((left <= 1 - share + 1e-9) & (weights > 0))
        found.append(float(ms[reached[0]]) if len(reached) else None)
    return found
