"""`make demo`: fetch the large model, once, and let it refill a standard-library function.

Its function is `heapq.heapify`: three lines that call a private helper of the same file. It need
not know them by heart, though it has surely seen them: a sibling for maximum heaps stands below.
Where the large model cannot be fetched or loaded, the embedded one fills a function of one line.
"""

from __future__ import annotations

import heapq
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError

# The libraries of models are imported only after the fetch has been announced.
if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.results import Frame

LARGE, EMBEDDED = "qwen2.5-coder-0.5b", "talaria-7m"
RULE = "─" * 78


def fetch() -> bool:
    """Fetch the large model if it is not here; whether it is then. Says why it is not."""
    from talaria.coder import bases, models_command

    base = bases.named(LARGE)
    if bases.state(base) in bases.HERE:
        return True
    say(
        f"fetching {LARGE}, {base.bytes / 1e6:.0f} MB, once; "
        f"to fill with {EMBEDDED} instead, press Ctrl-C"
    )
    try:
        models_command.fetch(LARGE)
    except TalariaError as error:
        say(f"{error}; filling with {EMBEDDED}")
        return False
    return True


def load(large: bool) -> Checkpoint:
    """Load the large model or the embedded one; says why, if the large one cannot be loaded."""
    from talaria.coder import checkpoint, loading

    if large:
        try:
            return loading.load(LARGE)
        except TalariaError as error:
            say(f"{error}; filling with {EMBEDDED}")
        except KeyboardInterrupt:
            say(f"interrupted; {LARGE} is prepared at the next start; filling with {EMBEDDED}")
    return checkpoint.load(EMBEDDED)


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def heading(text: str) -> None:
    """Print the title line of a section."""
    print(f"\n── {text} {RULE[len(text) + 4 :]}\n")


def show_canvas(model: Checkpoint) -> Callable[[Frame], None]:
    """Print the canvas of each step on a line of its own."""
    heading("the middle, one line per step: ░ is a mask, ⏎ a line break")

    def show(frame: Frame) -> None:
        canvas = frame.step.canvas
        ids = canvas.ids[0, : int(canvas.ended[0])].tolist()
        text = "".join("░" if i == canvas.marks.mask else model.tokenizer.name(i) for i in ids)
        print(text.replace("\n", "⏎"))

    return show


def show_writing(model: Checkpoint) -> Callable[[Frame], None]:
    """Print what each step appends; from the beginning again where a repair has taken text back."""
    heading("the middle as it is written: │ ends a step")
    canvases: dict[int, str] = {}
    shown = ""

    def show(frame: Frame) -> None:
        nonlocal shown
        canvases[frame.canvas] = frame.text(0, model.tokenizer)
        text = "".join(canvases.values())
        print(
            text.removeprefix(shown) if text.startswith(shown) else f"\n{text}", end="│", flush=True
        )
        shown = text

    return show


def main() -> int:
    """Show the file before, every step of the middle, the file after, and the cost; exit code."""
    large = fetch()
    started = time.perf_counter()
    from talaria.coder import source
    from talaria.coder.answers import summary
    from talaria.coder.infill import fill
    from talaria.coder.request import Options, Request

    model = load(large)
    ready = time.perf_counter()
    if model.name == LARGE:
        path, function = Path(heapq.__file__), "heapify"
    else:
        path, function = Path(string.__file__), "Template.__init__"
    hole = source.parse_target(f"{path}::{function}", lambda: b"")
    options = Options(until="block", complete=True)  # as `talaria infill` fills a function
    request = Request(hole.prefix, hole.suffix, options)
    before = hole.prefix[hole.prefix.rindex("\n\n", 0, hole.prefix.rindex("def ")) + 2 :]

    heading(f"before: {path}, without the body of {function}")
    print(before + "█")
    show = show_canvas if options.settled(model.settings).mode == "diffuse" else show_writing
    result = fill(model, request, show(model))
    heading("after")
    print(before + result.best.text)
    heading("the library's own body")
    print(hole.middle)
    heading("cost")
    print(f"{model.name}: {summary(result, request, model.settings)}")
    print(f"model ready in {ready - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("demo", main))
