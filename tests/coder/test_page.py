"""Pages are self-contained and reproducible."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from talaria.coder.page import Section, new_figure, write_page


def test_a_page_is_self_contained(tmp_path: Path) -> None:
    """Text is escaped, figures are inline and described, nothing is fetched."""
    figure, (axis,) = new_figure()
    axis.plot([1, 2], [3, 4])
    section = Section("A < B", "x & y", [(figure, 'says "so"')], [("name", "n"), ("<i>", 3)])
    write_page(tmp_path / "a.html", "T", [section], refresh=30)
    text = (tmp_path / "a.html").read_text()
    HTMLParser().feed(text)
    assert "<h2>A &lt; B</h2>" in text
    assert "x &amp; y" in text
    assert "<td>&lt;i&gt;</td><td>3</td>" in text
    assert 'aria-label="says &quot;so&quot;"' in text
    assert 'http-equiv="refresh" content="30"' in text
    assert "src=" not in text
    assert "<script" not in text
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """No dates, no random names."""
    for name in ("a.html", "b.html"):
        figure, (axis,) = new_figure()
        axis.plot([1, 2], [3, 4])
        write_page(tmp_path / name, "T", [Section("S", figures=[(figure, "f")])])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
