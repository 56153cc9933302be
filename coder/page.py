"""Reports as one HTML file each, with headings, tables and plots, and without scripts."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#7a7a7a"  # axes and their labels: legible on white and on black
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "talaria",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), INK),
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
svg { width: 100%; height: auto; max-width: 46rem; display: block; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
"""


@dataclass(frozen=True)
class Section:
    """A heading with a sentence, figures and a table below it.

    Each figure comes with its text alternative; the table's first row is its head.
    """

    heading: str
    text: str = ""
    figures: Sequence[tuple[Figure, str]] = ()
    table: Sequence[Sequence[object]] = ()


def new_figure(rows: int = 1, height: float = 2.6) -> tuple[Figure, list[Any]]:
    """A figure as wide as the page with `rows` axes below each other, each `height` inches high."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.5, height * rows), layout="constrained")
        axes = figure.subplots(rows, 1, squeeze=False)
    return figure, list(axes[:, 0])


def write_page(
    path: Path, title: str, sections: Sequence[Section], refresh: int | None = None
) -> None:
    """Write a self-contained page atomically; the same input gives the same bytes.

    With `refresh`, a browser loads it again after so many seconds.
    """
    head = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    body = "\n".join(map(as_html, sections))
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"{head}<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )
    files.write(path, page)


def as_html(section: Section) -> str:
    """A section as HTML."""
    pieces = [f"<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        pieces.append(f"<p>{html.escape(section.text)}</p>")
    pieces += [as_svg(figure, text) for figure, text in section.figures]
    if section.table:
        head, *rows = section.table
        lines = [f"<tr>{cells('th', head)}</tr>", *(f"<tr>{cells('td', row)}</tr>" for row in rows)]
        pieces.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")
    return "\n".join(pieces)


def cells(tag: str, values: Sequence[object]) -> str:
    """The cells of a table row as HTML."""
    return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)


def as_svg(figure: Figure, text: str) -> str:
    """A figure as inline SVG with its text alternative."""
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    label = html.escape(text, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
