"""A language server with scripted answers: `python -m tests.e2e.scripted`.

It takes the flags of `talaria lsp`, and everything but the engines is real. The JSON file named by
TALARIA_SCRIPT has the answers: a list of `{"after": "return ", "texts": ["a + b"], "seconds":
0.2}`. The first entry whose `after` ends the prefix answers, after so many seconds if given; if
there is none, the answer is empty. The file is read again for each request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from talaria.coder.request import Request
from talaria.lsp import command
from talaria.lsp.engines import Engines, Middles

_asked: list[str] = []  # the end of each request's prefix


async def ask(engines: Engines, request: Request, *_: Any, **__: Any) -> Middles:
    """What the file says for this prefix."""
    _asked.append(request.prefix[-40:])
    for each in json.loads(Path(os.environ["TALARIA_SCRIPT"]).read_text("utf-8")):
        if request.prefix.endswith(each["after"]):
            await asyncio.sleep(each.get("seconds", 0))
            return Middles(tuple(each["texts"])[: request.options.candidates], 1.0)
    return Middles((), 1.0)


async def settled(engines: Engines) -> str:
    """What the progress message names."""
    return "a script"


def statistics(engines: Engines) -> dict[str, Any]:
    """As of the real engine, and what it was asked."""
    return {"state": engines.state, "requests": len(_asked), "asked": _asked}


def load(engines: Engines) -> None:
    """There is nothing to load."""
    engines._set_state("ready", "a script")


if __name__ == "__main__":
    for name, function in (
        ("ask", ask),
        ("settled", settled),
        ("statistics", statistics),
        ("_load", load),
    ):
        setattr(Engines, name, function)
    sys.exit(command.main())
