"""talaria-7m answers 324 recorded requests as it did before the models' seams were drawn.

`golden/requests.jsonl.xz` was recorded with the decoder in torch: by the engine, in batches, on the
command line and by the language server, in all modes. Texts, evaluations and why they ended must
be equal. Draws at a temperature were recorded with numpy's generator over the 64 likeliest tokens,
as the decoder draws since.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from talaria.coder import checkpoint, cli
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.infill import fill_batch
from talaria.coder.request import Options, Request
from talaria.coder.results import Infill
from talaria.coder.source import Piece
from tests.lsp.session import Editor, session

Recorded = dict[str, Any]
CALM = {"deadline_ms": 60_000, "fill_deadline_ms": 60_000, "debounce_ms": 0, "least_confidence": 0}
CLOSE = 2e-3  # rounded to three digits, and computed by another library


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[Recorded]]:
    """The recorded requests, by the way they came."""
    found = defaultdict(list)
    path = Path(__file__).parent / "golden" / "requests.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            found[row["via"]].append(row)
    return found


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    """talaria-7m."""
    return checkpoint.load()


def differences(found: Infill, expected: Recorded) -> list[str]:
    """What is not as it was recorded."""
    now = {
        "candidates": [[c.text, c.stopped, c.length] for c in found.candidates],
        "nfe": found.nfe,
        "context_tokens": found.context_tokens,
        "syntax": [found.syntax.errors_before, found.syntax.errors_after, found.syntax.refused],
        "frames": len(found.frames),
    }
    then = {**expected, "candidates": [each[:3] for each in expected["candidates"]]}
    wrong = [f"{name}: {now[name]!r} != {then[name]!r}" for name in now if now[name] != then[name]]
    numbers: list[tuple[float | None, float | None]] = [
        (found.confidence(found.best), expected["confidence"])
    ]
    if len(found.candidates) == len(expected["candidates"]):
        pairs = zip(found.candidates, expected["candidates"], strict=True)
        numbers += [(candidate.score, old[3]) for candidate, old in pairs]
    for new, old in numbers:
        if (new is None) != (old is None) or abs((new or 0) - (old or 0)) > CLOSE:
            wrong.append(f"a score or the confidence: {new} != {old}")
    return wrong


def request(row: Recorded) -> Request:
    """A recorded row as a request."""
    options = Options(**row["options"])
    if "seed" in row:
        options = Options(**{**row["options"], "seed": row["seed"]})
    files = tuple(Piece(*each) for each in row.get("files", ()))
    sides = row["prefix"], row["suffix"]
    return Request(*sides, options, files, length=row.get("length"), document=row.get("document"))


@pytest.mark.golden
def test_the_engine(recorded: dict[str, list[Recorded]], shipped: Checkpoint) -> None:
    """One request after the other, contexts reused, with excerpts of other files."""
    with Engine(lambda: shipped) as engine:
        wrong = {
            place: found
            for place, row in enumerate(recorded["engine"])
            if (found := differences(engine.fill(request(row)), row["expected"]))
        }
    assert not wrong


@pytest.mark.golden
def test_batches(recorded: dict[str, list[Recorded]], shipped: Checkpoint) -> None:
    """Holes side by side, some with a given length."""
    batches = defaultdict(list)
    for row in recorded["batch"]:
        batches[row["batch"]].append(row)
    for rows in batches.values():
        found = fill_batch(shipped, [request(row) for row in rows])
        wrong = [differences(each, row["expected"]) for each, row in zip(found, rows, strict=True)]
        assert not any(wrong)


@pytest.mark.golden
def test_the_command_line(recorded: dict[str, list[Recorded]], tmp_path: Path) -> None:
    """Exit codes, standard output, and files that were written."""
    for row in recorded["cli"]:
        expected, target = row["expected"], row["target"]
        file = tmp_path / row["name"]
        if row["text"] is not None:
            file.write_text(row["text"], encoding="utf-8")
            target = f"{file}{target}"
        with standard_input(row["stdin"]), contextlib.redirect_stderr(io.StringIO()):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = cli.main(["infill", target, *row["args"]])
        said: Any = out.getvalue()
        if "--json" in row["args"] and said:
            said = json.loads(said)
            del said["elapsed_ms"]
            for each in (said, *said["candidates"]):
                for name in {"score", "confidence"} & each.keys():
                    each[name] = each[name] and pytest.approx(each[name], abs=CLOSE)
        elif "--diff" in row["args"]:
            said = said.replace(str(file), "FILE")
        assert (code, said) == (expected["code"], expected["out"]), row["args"]
        if expected["file"] is not None:
            assert file.read_text(encoding="utf-8") == expected["file"]


@contextlib.contextmanager
def standard_input(text: str) -> Iterator[None]:
    """A text on standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        yield


@pytest.mark.golden
def test_the_server(recorded: dict[str, list[Recorded]], tmp_path: Path) -> None:
    """Ghost text, and functions that are written on request."""

    async def answer(editor: Editor, row: Recorded, address: str) -> Recorded:
        editor.open(address, row["text"])
        if row["what"] == "inline":
            items = await editor.ask(address, row["offset"], invoked=row["invoked"])
            found: Recorded = {"texts": [item.insert_text for item in items]}
        else:
            said = await editor.command(row["what"], editor.place(address, row["offset"]))
            found = {"said": said, "text": editor.texts[address]}
        editor.close(address)
        return found

    with session(tmp_path, kind="vscode", options=CALM) as here:
        for place, row in enumerate(recorded["server"]):
            address = (tmp_path / f"{place}.py").as_uri()
            assert here.run(answer(here.editor, row, address)) == row["expected"], place
