"""Cursors in whole files, and what is counted of the offers there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import whole
from talaria.coder.errors import DataError

TEXT = '''"""Say.

This.
"""

class A:
    x = 1  # one

    def f(self):
        return """a

b"""
'''


def test_cursors_stand_outside_of_strings() -> None:
    """At the ends of lines with code or a comment, and at blank lines with and without blanks."""
    places = whole.places_of(TEXT)
    shown = {
        kind: [(TEXT[:offset].count("\n") + 1, typed) for offset, typed in found]
        for kind, found in places.items()
    }
    assert shown == {
        "blank": [(5, ""), (8, "")],
        "indented": [(8, "    ")],
        "line end": [(6, ""), (7, ""), (9, "")],
    }
    assert all(TEXT[offset] == "\n" for found in places.values() for offset, _ in found)


def test_files_are_drawn_that_parse(tmp_path: Path) -> None:
    """All kinds alike, nothing of the file removed, and the same ones for the same seed."""
    for number in range(9):
        (tmp_path / f"{number}.py").write_text(TEXT * 6, "utf-8")
    (tmp_path / "broken.py").write_text(TEXT * 6 + "x = = 1\n", "utf-8")
    (tmp_path / "small.py").write_text("x = 1\n", "utf-8")
    cursors = whole.drawn(tmp_path, 30, 0)
    assert cursors == whole.drawn(tmp_path, 30, 0)
    assert [each.kind for each in cursors[:4]] == ["blank", "indented", "line end", "blank"]
    assert {each.file for each in cursors} <= {f"{number}.py" for number in range(9)}
    assert all((each.prefix.rstrip(" ") + each.suffix) == TEXT * 6 for each in cursors)


def test_what_parses_is_counted() -> None:
    """Of the offers that are finished; an empty one is none."""
    offers = [
        whole.Offer("a.py", 1, "blank", text, "eom", unfinished, parses, 5.0)
        for text, unfinished, parses in [
            *[("x = 1", False, True)] * 3,
            ("x = (", False, False),
            ("if x:", True, False),
            ("", False, True),
        ]
    ]
    lines = whole.table(offers).splitlines()
    assert "75.00%" in lines[1]
    assert lines[1].split()[:4] == ["blank", "6", "5", "1"]
    assert lines[-1] == "p50 5 ms, p95 5 ms"


def test_too_many_cursors_are_refused(tmp_path: Path) -> None:
    """With how many there are."""
    (tmp_path / "a.py").write_text(TEXT * 6, "utf-8")
    with pytest.raises(DataError, match=r"--cursors is 99; .* has only 12"):
        whole.main(["--files", str(tmp_path), "--cursors", "99"])
