"""The server benchmark's figures, from small runs and from a scripted server."""

from __future__ import annotations

import json
import random
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import lsp, lsp_typing
from benchmarks.lsp import ServerPlan
from benchmarks.lsp_client import ClientRequest, EditorDocument, EditorWorkspace, LspClient, server
from benchmarks.lsp_typing import KeystrokeRequest, Typist
from talaria.coder.errors import TalariaError, UsageError
from talaria.evals.suites import Problem

REGION = Problem(
    "f.py:3", "f.py", "def f(x):\n", "def g():\n    pass\n", "    if x:\n        return 1\n"
)


class ScriptedServer:
    """Stands in for a server and its client; suggests the true rest of the line.

    A suggestion is served from memory, without the model, while it is typed through.
    """

    def __init__(self, late: bool = False) -> None:
        self.late = late
        self.text, self.left = "", ""
        self.asked: list[ClientRequest] = []
        self.notified: list[str] = []
        self.cancelled: list[int] = []
        self.requests = 0
        self.taken: list[Any] = []

    def ask(self, method: str, params: Any) -> ClientRequest:
        """Suggest the rest of the line, at once or, if late, not before the next key."""
        asked = ClientRequest(len(self.asked), sent=time.perf_counter())
        if method == "workspace/executeCommand":
            self.taken.append(params)
            return asked
        self.asked.append(asked)
        line, character = (params["position"][name] for name in ("line", "character"))
        whole = (REGION.prefix + REGION.solution + REGION.suffix).split("\n")
        left = whole[line][character:]
        if left != self.left:
            self.requests += 1
        self.left = left[1:]
        if not self.late:
            asked.answered = time.perf_counter()
            asked.result = [{"insertText": left, "command": {"command": "taken"}}] if left else []
            asked.done.set()
        return asked

    def wait(self, asked: ClientRequest) -> Any:
        """Late answers arrive now."""
        asked.answered = asked.answered or time.perf_counter()
        asked.done.set()
        return asked.result

    def model_requests(self) -> int:
        """Return how many suggestions did not come from memory."""
        return self.requests

    def notify(self, method: str, params: Any) -> None:
        """Record a notification."""
        self.notified.append(method)

    def cancel(self, asked: ClientRequest) -> None:
        """Record a cancellation."""
        self.cancelled.append(asked.id)


def typist_and_page(late: bool = False) -> tuple[ScriptedServer, Typist, EditorDocument]:
    """A typist, 1,000 times as fast as a person, with the region's file open."""
    scripted = ScriptedServer(late)
    client = cast(LspClient, scripted)
    place = EditorWorkspace.__new__(EditorWorkspace)
    place.root = Path("/")
    place.texts = {"f.py": REGION.prefix + REGION.solution + REGION.suffix}
    return scripted, Typist(client, random.Random(1), 1000), EditorDocument(client, place, "f.py")


def row(cursor: str, ms: float, **other: Any) -> KeystrokeRequest:
    """A request that the model answered before the next key, unless overridden."""
    given = {"after": "key", "overtaken": False, "model": True, "shown": 3, "error": None}
    return KeystrokeRequest(
        cursor, "f.py", cancels=True, ms=ms, until_key=200.0, **{**given, **other}
    )


def test_gaps_are_like_a_persons() -> None:
    """About 180 ms, with bursts and pauses; the seed decides."""
    found = list(islice(lsp_typing.gaps(random.Random(0)), 5000))
    assert found == list(islice(lsp_typing.gaps(random.Random(0)), 5000))
    assert 0.14 < statistics.median(found) < 0.2
    assert 0.2 < statistics.fmean(found) < 0.3
    assert min(found) < 0.06
    assert max(found) > 1.5


def test_percentiles_of_finished_and_unfinished_requests() -> None:
    """An overtaken request counts as longer than the time until that key; five computed by hand."""
    ms, ones = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.ones(5, int)
    assert lsp_typing.quantiles(ms, ones > 0, ones) == [30.0, 50.0, 50.0]
    # After 20 and 30 are cut off, 1 - 1/5 of all is left, then half of it, then nothing.
    finished = np.array([True, False, False, True, True])
    assert lsp_typing.quantiles(ms, finished, ones) == [40.0, 50.0, 50.0]
    assert lsp_typing.quantiles(ms, np.zeros(5, bool), ones) == [None, None, None]
    assert lsp_typing.quantiles(ms, ones > 0, np.array([0, 0, 0, 1, 0])) == [40.0] * 3
    assert lsp_typing.quantiles(ms[:0], finished[:0], ones[:0]) == [None] * 3


def test_figures_of_typing() -> None:
    """Times by what became of requests; overtaken ones do not flatter the percentiles."""
    rows = [row(cursor, ms) for cursor in "abcd" for ms in (50.0, 60.0, 70.0)]
    rows += [row(cursor, 400.0, overtaken=True, model=None, shown=0) for cursor in "abcd"]
    rows += [row(cursor, 1.0, model=False) for cursor in "ab"]
    rows += [row("c", 2.0, model=False, shown=0), row("d", 90.0, after="acceptance")]
    rows += [row("a", 80.0, after="opening")]
    found = lsp_typing.typing_figures(rows)
    counts = {name: part["requests"] for name, part in found["times"].items()}
    assert counts == {
        "answered": 17,
        "model": 12,
        "typed through": 2,
        "silent": 1,
        "accepted": 1,
        "first": 1,
        "all": 21,
        "all model": 18,
    }
    assert found["times"]["model"]["p50"] == {"ms": 60.0, "interval": [60.0, 60.0]}
    assert found["times"]["answered"]["p95"]["ms"] == 90.0
    assert found["times"]["all"]["p95"] == {"ms": None, "interval": [None, None]}
    assert found["times"]["typed through"]["p95"]["ms"] == 1.0
    assert found["suggested"]["share"] == pytest.approx(16 / 17)
    assert found["overtaken"]["share"] == pytest.approx(4 / 21)
    assert found["overtaken"]["then_answered_cancelled"]["p50"]["ms"] == 200.0
    assert found["overtaken"]["then_answered_not_cancelled"]["requests"] == 0


def test_the_typist_uses_suggestions() -> None:
    """Each key asks; right suggestions are accepted or typed through; the file is restored."""
    scripted, typist, page = typist_and_page()
    whole, rows = page.text, list[KeystrokeRequest]()
    for number in range(8):
        rows += typist.type_region(page, REGION, number == 0, True)
        assert page.text == whole
    assert [row.after for row in rows].count("opening") == 1
    assert any(row.after == "acceptance" for row in rows)
    assert len(scripted.taken) == sum(row.after == "acceptance" for row in rows)
    through = [row for row in rows if row.model is False and row.shown]
    assert through
    assert all(row.after == "key" for row in through)
    assert not any(row.overtaken for row in rows)
    assert len(scripted.asked) == len(rows)
    assert typist.keys < 8 * len(REGION.solution)
    assert not scripted.cancelled


@pytest.mark.parametrize("cancels", [True, False])
def test_late_answers_are_overtaken(cancels: bool) -> None:
    """Late requests are overtaken, cancelled if the editor does so; the last one is awaited."""
    scripted, typist, page = typist_and_page(late=True)
    rows = typist.type_region(page, REGION, True, cancels)
    assert [row.overtaken for row in rows] == [True] * (len(rows) - 1) + [False]
    assert len(scripted.cancelled) == (len(rows) - 1 if cancels else 0)
    assert all(row.model is None for row in rows)


def test_every_figure_is_made(
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A small run against real servers answers everything and gives plausible figures."""
    for kind in ("exit", "exit while computing", "input closed"):
        monkeypatch.delitem(lsp.ENDINGS, kind)
    out = tmp_path / "rows.jsonl"
    words = ["--model", str(model_folder), "--starts", "1", "--minutes", "0.1", "--speed", "10"]
    words += ["--requests", "40", "--idle", "0.2", "--rows", str(out), "--json"]
    assert lsp.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["made_by"]["command"].startswith("python -m benchmarks.lsp --model")
    assert found["start"]["initialize_ms"]["count"] == 2
    # The model may be ready before the answer to `initialize` has arrived.
    assert found["start"]["initialize_ms"]["worst"] > 0 < found["start"]["ready_ms"]["worst"]
    assert found["start"]["bytes"]["median"] > 50 << 20
    for part in found["end"].values():
        assert 0 < part["worst"] < 30_000
    assert [part["codes"] for part in found["end"].values()] == [[0], [1]]
    typing, memory = found["typing"], found["memory"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == typing["requests"] >= typing["keys"] > 5
    # The slower the answers, the fewer are accepted, and the more files are opened.
    assert typing["times"]["all"]["requests"] == len(rows)
    assert 1 <= typing["times"]["first"]["requests"] <= typing["cursors"]
    assert set(typing["answered_by"]) <= {found["model"]["name"]}
    assert 0 <= found["idle"]["share"] < 3
    assert len(memory["points"]) == lsp.POINTS + 1
    assert memory["engine"]["requests"] > 0
    assert sum(memory["answers"].values()) == 40
    for part in (typing, memory):
        for fault in ("unanswered", "answered_twice_or_unasked", "logged_errors", "crashes"):
            assert part[fault] == 0, fault
    text = "\n".join(lsp.lines(found))
    for what in (
        *lsp.CLASSES.values(),
        *lsp.ENDINGS.values(),
        "idle:",
        "memory with the model",
        "models' answers",
    ):
        assert what in text


def test_a_server_that_ends_is_an_error(tmp_path: Path, model_folder: Path) -> None:
    """Waiting for an answer fails at once, with the server's log."""
    place = EditorWorkspace(tmp_path, str(model_folder))
    place.flags = ["--no-such-flag"]
    with server(place) as client, pytest.raises(TalariaError, match="unrecognized arguments"):
        client.initialize(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"starts": 0}, "--starts is 0"),
        ({"speed": 0.5}, "--speed is 0.5"),
        ({"requests": 10}, "--requests is 10; it must be at least 20"),
        ({"minutes": 0.0}, "--minutes is 0.0"),
        ({"idle": float("nan")}, "--idle is nan"),
    ],
)
def test_invalid_plans(given: dict[str, Any], message: str) -> None:
    """The error names the value and the limit."""
    with pytest.raises(UsageError, match=message):
        ServerPlan(**given)
