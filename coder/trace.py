"""A page that replays a request step by step: one file, nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from coder.checkpoint import Checkpoint
from coder.infill import Infill
from coder.tokenizer import Tokenizer

TEMPLATE = Path(__file__).with_name("trace.html")
LINES_BEFORE, LINES_AFTER = 20, 12


def page(result: Infill, model: Checkpoint, prefix: str, suffix: str) -> str:
    """The page for a result, as HTML; any text of the file is shown, never interpreted."""
    before = "".join(prefix.splitlines(keepends=True)[-LINES_BEFORE:])
    after = "".join(suffix.splitlines(keepends=True)[:LINES_AFTER])
    data: dict[str, Any] = {
        "before": before,
        "after": after,
        "candidates": [
            {
                "score": candidate.score,
                "stopped": candidate.stopped,
                "tokens": len(candidate.tokens),
                "steps": list(changes(result, candidate.row, model.tokenizer)),
            }
            for candidate in result.candidates
        ],
    }
    facts = (
        f"{model.name}: {len(result.best.tokens)} tokens in {result.nfe} steps, "
        f"{result.tokens_per_forward:.1f} tokens a step, {result.elapsed_ms:.0f} ms, "
        f"stopped at {result.best.stopped}"
    )
    steps = data["candidates"][0]["steps"]
    fill = {
        "facts": html.escape(facts),
        # Nothing in a JSON text may look like the end of the script that holds it.
        "data": re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(data)),
        "listing": html.escape("\n".join(listing(steps))),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: fill[mark[1]], template)


def changes(result: Infill, row: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What each step changed for one candidate.

    Each entry names the canvas, its length, where its `<eom>` stands ("end") and
    what was "set": position, text (None where a mask came back) and confidence.
    """
    found = []
    shown: list[str | None] = []
    number = -1
    for frame in result.frames:
        if row not in frame.rows:
            continue
        place = frame.rows.index(row)
        ids = frame.step.canvas.ids[place].tolist()
        end = int(frame.step.canvas.ended[place])
        if frame.canvas != number:
            number, shown = frame.canvas, [None] * len(ids)
        texts = pieces(ids[:end], tokenizer) + [None] * (len(ids) - end)
        sure = frame.step.confidence[place].tolist()
        found.append(
            {
                "canvas": number,
                "length": len(ids),
                "end": end if end < len(ids) else None,
                "set": [
                    [i, text, round(sure[i], 3)]
                    for i, (text, old) in enumerate(zip(texts, shown, strict=True))
                    if text != old
                ],
            }
        )
        shown = texts
    return found


def pieces(ids: list[int], tokenizer: Tokenizer) -> list[str | None]:
    """The text of each token, None for a mask.

    Tokens that are parts of one character are read together; the first gets the text.
    """
    texts: list[str | None] = [None if i == tokenizer.mask else tokenizer.name(i) for i in ids]
    start = 0
    while start < len(ids):
        end = start
        while end < len(ids) and "�" in (texts[end] or ""):
            end += 1
        if end > start:
            texts[start:end] = [tokenizer.decode(ids[start:end]), *[""] * (end - start - 1)]
        start = end + 1
    return texts


def listing(steps: list[dict[str, Any]]) -> list[str]:
    """A line for each step, for browsers that run no scripts: ░ is a mask, ⏎ a line break."""
    lines = []
    row: list[str | None] = []
    number = -1
    for count, step in enumerate(steps, 1):
        if step["canvas"] != number:
            number, row = step["canvas"], [None] * step["length"]
        for place, text, _ in step["set"]:
            row[place] = text
        end = len(row) if step["end"] is None else step["end"]
        text = "".join("░" if piece is None else piece for piece in row[:end])
        if text.endswith("░░░░"):
            text = text.rstrip("░") + "░…"
        lines.append(f"{count:3}  {text}".replace("\n", "⏎"))
    return lines
