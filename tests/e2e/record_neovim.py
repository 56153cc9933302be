"""Makes docs/neovim.svg: `python -m tests.e2e.record_neovim`.

A real Neovim with the shipped model is recorded in its terminal. The model is held up at each
step so that eyes can follow; nothing else is staged. The same module draws single screens, as
the tests keep them: `python -m tests.e2e.record_neovim SCREEN.ansi ...` writes SCREEN.svg.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
import time
from html import escape
from pathlib import Path
from typing import Any

from tests.e2e.neovim import PLUGIN, Neovim, neovim, quoted
from tests.e2e.terminal import ROOT

OUT = ROOT / "docs" / "neovim.svg"
COLUMNS, LINES = 76, 21
WIDE, HIGH = 8.4, 18  # pixels of a cell
PLAIN, GROUND = "#e0e2ea", "#14161b"
NAMED = ["#07080d", "#ffc0b9", "#b3f6c0", "#fce094", "#a6dbff", "#ffcaff", "#8cf8f7", "#eef1f8"]
CODE = r"\x1b\[([\d;:]*)m"
STEP = 0.45  # seconds that each step is held up
LONGEST = 1.6  # seconds that a picture stands still, however long it did

TEXT = '''\
class Stack:
    """Last in, first out."""

    def __init__(self):
        self.items = []

    def push(self, item):
        """Add an item."""

    def pop(self):
        """Remove and return the last item."""
        if not self.items:
            raise IndexError
        return self.items.pop()

    def __len__(self):
        """Return the number of items."""
        raise NotImplementedError
'''

Frame = tuple[str, tuple[int, int], float]  # a screen with colours, its cursor, when


class Camera:
    """Takes a picture of a terminal whenever it changes."""

    def __init__(self, here: Neovim) -> None:
        self.here, self.frames, self.running = here, list[Frame](), True
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Camera:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            shot = self.here.screen(colours=True), self.here.cursor()
            if not self.frames or shot != self.frames[-1][:2]:
                self.frames.append((*shot, time.monotonic()))
            time.sleep(0.03)


def record() -> list[Frame]:
    """Ghost text, taken; then a function, seen to come about."""
    server = ", ".join(map(quoted, [sys.executable, "-m", "tests.e2e.record_neovim", "--server"]))
    init = f"""
        vim.o.termguicolors = true; vim.o.cmdheight = 1; vim.o.shortmess = vim.o.shortmess .. "F"
        vim.opt.rtp:append({quoted(str(PLUGIN))})
        vim.o.statusline = " %t %=%{{v:lua.require'talaria'.status()}} "
        require("talaria").setup({{
          cmd = {{ {server} }},
          options = {{ steps = true, deadline_ms = 5000 }},
        }})
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stack.py"
        file.write_text(TEXT, "utf-8")
        with neovim(
            Path(folder) / "nvim", "record", init, file, columns=COLUMNS, lines=LINES
        ) as here:
            here.ready()
            here.until(lambda: "ready" in here.screen(), "the status line")
            here.keys("7jo")
            time.sleep(0.5)
            with Camera(here) as camera:
                here.keys("<Esc>cc        ")
                here.type("self.items.", 0.12)
                here.until(here.grey, "ghost text")
                time.sleep(1.4)
                here.keys("<Tab>")
                time.sleep(1)
                here.keys("<Esc>G")
                time.sleep(0.5)
                here.type(":Talaria fill", 0.05)
                time.sleep(0.4)
                here.keys("<CR>")
                here.until(lambda: "NotImplemented" not in here.text(), "the body")
                time.sleep(2)
            return camera.frames


Style = dict[str, str]


def cells(line: str, style: Style) -> tuple[list[tuple[str, str]], Style]:
    """A line of a terminal as runs of text with their style in SVG, and the next line's style."""
    runs = []
    for number, part in enumerate(re.split(CODE, line)):
        if number % 2 == 0:
            if part:
                said = "".join(f' {key}="{value}"' for key, value in style.items())
                runs.append((part, said))
            continue
        codes = [int(code or 0) for code in re.split("[;:]", part)]
        while codes:
            code = codes.pop(0)
            if code == 0:
                style = {"fill": PLAIN}
            elif code == 1:
                style["font-weight"] = "bold"
            elif code == 2:
                style["opacity"] = ".6"
            elif code == 3:
                style["font-style"] = "italic"
            elif code == 7:
                style = {**style, "fill": GROUND, "ground": style["fill"]}
            elif code in (38, 48) and codes[:1] == [2]:
                red, green, blue = codes[1:4]
                style["fill" if code == 38 else "ground"] = f"#{red:02x}{green:02x}{blue:02x}"
                codes = codes[4:]
            elif code in (38, 48):
                codes = codes[2:]
            elif 30 <= code <= 37 or 90 <= code <= 97:
                style["fill"] = NAMED[code % 10]
            elif code == 39:
                style["fill"] = PLAIN
            elif code == 49:
                style.pop("ground", None)
    return runs, style


def drawn(screen: str) -> list[str]:
    """The lines of a screen as SVG, each at the origin."""
    lines, style = [], {"fill": PLAIN}
    for line in screen.rstrip("\n").split("\n"):
        runs, style = cells(line, dict(style))
        lines.append(placed(runs))
    return lines


def placed(runs: list[tuple[str, str]]) -> str:
    """Runs of text as SVG, behind each other."""
    out, column = [], 0
    for text, style in runs:
        x, wide = column * WIDE, len(text) * WIDE
        ground = re.search(r' ground="(#\w+)"', style)
        if ground:
            out.append(f'<rect x="{x:g}" width="{wide:g}" height="{HIGH}" fill="{ground[1]}"/>')
            style = style.replace(ground[0], "")
        if text.strip():
            out.append(
                f'<text x="{x:g}" y="13.5" textLength="{wide:g}"{style}>{escape(text)}</text>'
            )
        column += len(text)
    return "".join(out)


def svg(frames: list[Frame]) -> str:
    """An endless film of screens; each line that occurs is written once."""
    names: dict[str, str] = {}
    ends = [after[2] for after in frames[1:]]
    lengths = [min(LONGEST, end - frame[2]) for frame, end in zip(frames, ends, strict=False)]
    lengths.append(2 * LONGEST)
    whole, begin, films = sum(lengths), 0.0, []
    high = max(len(screen.rstrip("\n").split("\n")) for screen, _, _ in frames)
    for (screen, (x, y), _), length in zip(frames, lengths, strict=True):
        rows = []
        for row, shown in enumerate(drawn(screen)):
            if shown:
                name = names.setdefault(shown, f"l{len(names)}")
                rows.append(f'<use href="#{name}" y="{row * HIGH}"/>')
        cursor = f'<rect class="c" x="{x * WIDE:g}" y="{y * HIGH}"/>'
        times = f"0;{begin / whole:.4f};{min(1.0, (begin + length) / whole):.4f}"
        turn = (
            f'<animate attributeName="visibility" dur="{whole:.2f}s" repeatCount="indefinite" '
            f'calcMode="discrete" values="hidden;visible;hidden" keyTimes="{times}"/>'
        )
        films.append(
            f'<g visibility="hidden">{turn}{"".join(rows)}{cursor}</g>'
            if len(frames) > 1
            else f"<g>{''.join(rows)}{cursor}</g>"
        )
        begin += length
    lines = "".join(f'<g id="{name}">{shown}</g>' for shown, name in names.items())
    columns = max(COLUMNS, *(len(line) for line in re.sub(CODE, "", frames[0][0]).split("\n")))
    wide, tall = columns * WIDE + 16, high * HIGH + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {wide:g} {tall}" width="{wide:g}">'
        "<style>text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "white-space:pre}.c{width:8.4px;height:18px;fill:#e0e2ea;opacity:.45}</style>"
        f'<rect x="-8" y="-8" width="{wide:g}" height="{tall}" rx="6" fill="{GROUND}"/>'
        f"<defs>{lines}</defs>{''.join(films)}</svg>\n"
    )


def slow_server() -> int:
    """`talaria lsp`, held up at each step that it sends."""
    from talaria.lsp import command
    from talaria.lsp.engines import Engines

    asking = Engines.ask

    async def held_up(engines: Any, question: Any, on_frame: Any = None, **given: Any) -> Any:
        def step(*frame: Any) -> None:
            on_frame(*frame)
            time.sleep(STEP)

        return await asking(engines, question, step if on_frame else None, **given)

    setattr(Engines, "ask", held_up)  # noqa: B010
    return command.main([])


def main(arguments: list[str]) -> int:
    """Record, or draw screens that were kept."""
    if arguments == ["--server"]:
        return slow_server()
    for name in arguments:
        kept = Path(name)
        kept.with_suffix(".svg").write_text(svg([(kept.read_text("utf-8"), (0, -2), 0.0)]), "utf-8")
    if not arguments:
        OUT.write_text(svg(record()), "utf-8")
        print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
