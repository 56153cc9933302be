"""The page shows what happened, needs nothing else, and interprets nothing of the file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from coder.checkpoint import Checkpoint
from coder.infill import Options, infill
from coder.tokenizer import Tokenizer
from coder.trace import page, pieces

PREFIX = "# </script><script>alert('{{data}}')</script> <!-- &amp; é\n" * 30 + "x = "
SUFFIX = "\n<b>\n"


def data_of(text: str) -> dict[str, Any]:
    """The data that the page's script reads."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def replayed(steps: list[dict[str, Any]]) -> str:
    """The middle that the script shows at the end."""
    canvases: dict[int, list[str | None]] = {}
    ends: dict[int, int | None] = {}
    for step in steps:
        cells = canvases.setdefault(step["canvas"], [None] * step["length"])
        ends[step["canvas"]] = step["end"]
        for place, text, _ in step["set"]:
            cells[place] = text
    return "".join(t or "" for n, cells in canvases.items() for t in cells[: ends[n]])


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("candidates", [1, 3])
def test_the_page_replays_the_request(model: Checkpoint, mode: str, candidates: int) -> None:
    """Every candidate, step by step, up to the very text that was offered."""
    options = Options(mode=mode, candidates=candidates, max_tokens=24, seed=2)  # type: ignore[arg-type]
    result = infill(model, PREFIX, SUFFIX, options)
    data = data_of(page(result, model, PREFIX, SUFFIX))
    assert len(data["candidates"]) == len(result.candidates)
    for shown, candidate in zip(data["candidates"], result.candidates, strict=True):
        assert len(shown["steps"]) == sum(candidate.row in f.rows for f in result.frames)
        assert replayed(shown["steps"]).startswith(candidate.text)
    assert PREFIX.endswith(data["before"])
    assert data["after"] == SUFFIX


def test_the_page_stands_alone(model: Checkpoint) -> None:
    """No address, no import, and no text of the file that a browser would run."""
    result = infill(model, PREFIX, SUFFIX, Options(max_tokens=8))
    text = page(result, model, PREFIX, SUFFIX)
    for word in ("http:", "https:", "src=", "@import", "url(", "alert('{{data}}')</script>"):
        assert word not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "{{" not in text.replace("'{{data}}'", "")


def test_parts_of_a_character_are_shown_together(tokenizer: Tokenizer) -> None:
    """A character of several tokens appears once all of them are there."""
    ids = tokenizer.encode("a😀b")
    assert pieces(ids, tokenizer)[0] == "a"
    assert "".join(t or "" for t in pieces(ids, tokenizer)) == "a😀b"
    holed = [ids[0], tokenizer.mask, *ids[2:]]
    assert pieces(holed, tokenizer)[1] is None
