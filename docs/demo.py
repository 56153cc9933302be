"""`make demo`: take a function of the standard library, lose its body, and fill it again."""

from __future__ import annotations

import inspect
import sys
import textwrap
import time
from pathlib import Path

FUNCTION = "PurePath.is_relative_to"
RULE = "─" * 78


def main() -> int:
    """Show the file before, the canvas step by step, and the file after."""
    import pathlib

    from coder import source
    from coder.cli import summary
    from coder.errors import TalariaError

    path = Path(inspect.getsourcefile(pathlib) or "")
    try:
        hole = source.parse_target(f"{path}::{FUNCTION}", lambda: b"")
        shown = hole.prefix.rsplit("\n\n", 1)[-1]
        print(f"{path}, the body of {FUNCTION}\n{RULE}\nbefore\n{RULE}")
        print(f"{shown}…\n")
        began = time.perf_counter()
        from coder import checkpoint
        from coder.infill import Frame, Options, infill
        from coder.syntax import find_function

        model = checkpoint.load()
        loaded = time.perf_counter()

        def show(frame: Frame) -> None:
            canvas = frame.step.canvas.ids[0].tolist()
            end = int(frame.step.canvas.ended[0])
            text = "".join("░" if i == model.tokenizer.mask else model.tokenizer.name(i)
                           for i in canvas[: end + 1])  # fmt: skip
            print(f"{frame.canvas + 1:2}  {text.replace(chr(10), '⏎')}")

        print(f"{RULE}\nthe middle, a line for every step (░ is a mask, ⏎ a line break)\n{RULE}")
        options = Options()
        result = infill(model, hole.prefix, hole.suffix, options, show)
        print(f"\n{RULE}\nafter\n{RULE}\n{shown}{result.best.text}\n")
        print(f"{RULE}\nwhat the library has there\n{RULE}")
        print(textwrap.indent(hole.middle, "    ", lambda line: line is hole.middle) + "\n" + RULE)
        print(f"{model.name}: {summary(result, options)}")
        print(
            f"model ready after {loaded - began:.1f} s, all in {time.perf_counter() - began:.1f} s"
        )
        del find_function
    except TalariaError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
