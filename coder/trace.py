"""A self-contained page that replays a request step by step."""

from __future__ import annotations

import html
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.results import Candidate, Infill
from talaria.coder.syntax.lexical import lines_of

TEMPLATE = Path(__file__).with_name("trace.html")
LINES_BEFORE, LINES_AFTER = 20, 12
STALE = "<p>~ marks approximate steps: they took states that were kept from earlier ones.</p>\n"
WIDEST = 8000  # characters on either side, as a file may be one very long line


def page(result: Infill, model: Checkpoint, prefix: str, suffix: str) -> str:
    """The page for a result, as HTML, in which the file's text is escaped."""
    before = "".join(lines_of(prefix)[-LINES_BEFORE:])[-WIDEST:]
    after = "".join(lines_of(suffix)[:LINES_AFTER])[:WIDEST]
    data: dict[str, Any] = {
        "before": before,
        "after": after,
        "above": prefix[: len(prefix) - len(before)].count("\n"),
        "below": suffix[len(after) :].count("\n"),
        "block": model.settings.block_length,
        "nfe": result.nfe,
        "candidates": [
            {
                "score": candidate.score,
                "stopped": candidate.stopped,
                "tokens": candidate.length,
                "each": f"{candidate.committed / max(1, result.nfe):.1f}",
                "kept": kept(candidate),
                "steps": changes(result, candidate, model),
            }
            for candidate in result.candidates
        ],
    }
    facts = {
        "model": model.name,
        "tokens": result.best.length,
        "nfe": result.nfe,
        "each": f"{result.tokens_per_forward:.1f}",
        "elapsed": f"{result.elapsed_ms:.0f} ms",
        "stopped": result.best.stopped,
    }
    fill = {name: escape(fact) for name, fact in facts.items()}
    fill["static"] = "".join(
        f"<h2>Candidate {number} of {len(result.candidates)}</h2>\n"
        f"<pre>\n{escape(before)}<b>{escape(candidate.text)}</b>{escape(after)}</pre>\n"
        + (STALE if any("stale" in step for step in shown["steps"]) else "")
        + "<ol>"
        + "".join(f"<li>{escape(line)}</li>\n" for line in listing(shown["steps"]))
        + "</ol>\n"
        for number, (candidate, shown) in enumerate(
            zip(result.candidates, data["candidates"], strict=True), 1
        )
    )
    # The JSON text, which is ASCII, must not contain what ends the surrounding script element.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    fill["data"] = re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", text)
    # In one pass, so that placeholders in the inserted text stay as they are.
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: fill[mark[1]], template)


def escape(text: object) -> str:
    """Escape a text as HTML in ASCII, which can express lone surrogates too."""
    return html.escape(str(text)).encode("ascii", "xmlcharrefreplace").decode("ascii")


def kept(candidate: Candidate) -> int | None:
    """The number of tokens left of a middle that was cut; None if it was not."""
    return len(candidate.tokens) if candidate.stopped in ("max_tokens", "syntax") else None


def changes(result: Infill, candidate: Candidate, model: Checkpoint) -> list[dict[str, Any]]:
    """What each step changed for one candidate, without text that a healed token repeats.

    Each step is a dictionary, with positions counted from the beginning of the middle:
    start   where its canvas begins
    length  of its canvas
    end     position of its `<eom>`, or None
    stale   whether an approximate cache had a part in it; absent if not
    set     positions that changed:
            [position, text, token, confidence]  a token was committed
            [position, text]                     its text changed, as a neighbour completed it
            [position]                           it was masked again
    """
    steps = []
    ids: list[int] = []
    shown: list[str | None] = []
    number, start, healed = -1, 0, ""
    for frame in result.frames:
        if candidate.row not in frame.rows:
            continue
        place = frame.rows.index(candidate.row)
        now = frame.step.canvas.ids[place].tolist()
        end = int(frame.step.canvas.ended[place])
        committed = frame.step.committed[place].tolist()
        sure = np.nan_to_num(frame.step.confidence[place]).tolist()
        if frame.canvas != number:
            number, start = frame.canvas, len(ids)
            ids += [model.marks.mask] * len(now)
            shown += [None] * len(now)
        ids = ids[:start] + now
        left = kept(candidate)
        limit = len(ids) if left is None else left
        # Tokens that were cut off must not complete a character of those that were kept.
        healed = frame.healed or healed
        texts = pieces(ids[:limit], model, healed)
        texts += pieces(ids[limit:], model, "" if limit else healed)
        changed: list[list[Any]] = []
        for i, text in enumerate(texts):
            if i >= start and committed[i - start] and text is not None:
                changed.append([i, text, ids[i], round(sure[i - start], 3)])
            elif text != shown[i]:
                changed.append([i] if text is None else [i, text])
        stop = start + end if end < len(now) else None
        found: dict[str, Any] = {"start": start, "length": len(now), "end": stop, "set": changed}
        if frame.step.stale is not None and frame.step.stale[place]:
            found["stale"] = True
        steps.append(found)
        shown = texts
    return steps


def pieces(ids: list[int], model: Checkpoint, healed: str = "") -> list[str | None]:
    """The text of each token, None for a mask; joined, they are the text of all tokens.

    The first lacks `healed`, which it repeats from the text before. Of tokens that are bytes of
    one character, the first has the character and the others are empty; an incomplete character
    is U+FFFD.
    """
    mask, tokenizer = model.marks.mask, model.tokenizer
    texts = [None if i == mask else tokenizer.name(i) for i in ids]
    for part, run in groupby(range(len(ids)), lambda i: "\ufffd" in (texts[i] or "")):
        if not part:
            continue
        places = list(run)
        first, stop = places[0], places[-1] + 1
        valid = "\ufffd" not in tokenizer.decode(ids[first:stop])
        # A valid run is split into characters; one with stray bytes stays in one piece.
        for end in range(first + 1 if valid else stop, stop + 1):
            text = tokenizer.decode(ids[first:end])
            if end == stop or "\ufffd" not in text:
                texts[first:end] = [text, *[""] * (end - first - 1)]
                first = end
    texts[:1] = [text and text.removeprefix(healed) for text in texts[:1]]
    return texts


def listing(steps: list[dict[str, Any]]) -> list[str]:
    """One line per step for browsers without scripts: ░ is a mask, ⏎ a line break.

    One in which an approximate cache had a part begins with ~.
    """
    lines = []
    cells: list[str | None] = []
    for step in steps:
        cells += [None] * (step["start"] + step["length"] - len(cells))
        for place, *rest in step["set"]:
            cells[place] = rest[0] if rest else None
        text = "".join("░" if cell is None else cell for cell in cells[: step["end"]])
        if text.endswith("░░░░"):
            text = text.rstrip("░") + "░…"
        lines.append("~ " * step.get("stale", False) + text.replace("\n", "⏎"))
    return lines
