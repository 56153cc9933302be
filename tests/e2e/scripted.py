"""A language server whose texts are written down beforehand: `python -m tests.e2e.scripted`.

It takes the flags of `talaria lsp`, and all of it is real but the engines. What they answer
stands in the JSON file that TALARIA_SCRIPT names: a list of
`{"after": "return ", "texts": ["a + b"], "seconds": 0.2}`. The first whose `after` ends the
prefix answers, after so many seconds if it names any; where none does, there is silence.
The file is read anew for each question.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from talaria.lsp import command
from talaria.lsp.engines import Answer, Engines, Question

_asked: list[str] = []  # how the prefix of each question ends


async def ask(engines: Engines, question: Question, on_frame: Any = None) -> Answer:
    """What the file says for this prefix."""
    _asked.append(question.prefix[-40:])
    for each in json.loads(Path(os.environ["TALARIA_SCRIPT"]).read_text("utf-8")):
        if question.prefix.endswith(each["after"]):
            await asyncio.sleep(each.get("seconds", 0))
            return Answer(tuple(each["texts"])[: question.count], 1.0)
    return Answer((), 1.0)


async def model(engines: Engines) -> Any:
    """What the progress message names."""
    return SimpleNamespace(name="a script")


def statistics(engines: Engines) -> dict[str, Any]:
    """As of the real engine, and what it was asked."""
    return {"state": engines.state, "requests": len(_asked), "asked": _asked}


def load(engines: Engines) -> None:
    """There is nothing to load."""
    engines._told("ready", "a script")


if __name__ == "__main__":
    for name, function in (
        ("ask", ask),
        ("model", model),
        ("statistics", statistics),
        ("_load", load),
    ):
        setattr(Engines, name, function)
    sys.exit(command.main())
