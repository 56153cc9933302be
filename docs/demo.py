"""`make demo`: take the body out of a standard-library function and let the model refill it."""

from __future__ import annotations

import string
import sys
import time
from pathlib import Path

FUNCTION = "Template.__init__"
RULE = "─" * 78


def heading(text: str) -> None:
    """Print the title line of a section."""
    print(f"\n── {text} {RULE[len(text) + 4 :]}\n")


def main() -> int:
    """Show the file before, every step of the middle, the file after, and the cost; exit code."""
    started = time.perf_counter()
    from talaria.coder import checkpoint, source
    from talaria.coder.errors import TalariaError
    from talaria.coder.infill import fill
    from talaria.coder.infill_command import summary
    from talaria.coder.request import Options, Request
    from talaria.coder.results import Frame

    path = Path(string.__file__)
    options = Options()
    try:
        hole = source.parse_target(f"{path}::{FUNCTION}", lambda: b"")
        model = checkpoint.load()
        ready = time.perf_counter()
        shown = hole.prefix[hole.prefix.rindex("\n\n", 0, hole.prefix.rindex("def ")) + 2 :]

        heading(f"before: {path}, without the body of {FUNCTION}")
        print(shown + "█")
        heading("the middle, one line per step: ░ is a mask, ⏎ a line break")

        def show(frame: Frame) -> None:
            canvas = frame.step.canvas
            ids = canvas.ids[0, : int(canvas.ended[0])].tolist()
            text = "".join("░" if i == canvas.marks.mask else model.tokenizer.name(i) for i in ids)
            print(text.replace("\n", "⏎"))

        result = fill(model, Request(hole.prefix, hole.suffix, options), show)
        heading("after")
        print(shown + result.best.text)
        heading("the library's own body")
        print(hole.middle)
    except TalariaError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    heading("cost")
    print(f"{model.name}: {summary(result, options.settled(model.settings))}")
    done = time.perf_counter()
    print(f"model ready after {ready - started:.1f} s, done after {done - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
