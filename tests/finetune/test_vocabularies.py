"""What a comparison of vocabularies looks like."""

from __future__ import annotations

from talaria.finetune.vocabularies import as_text


def test_a_comparison_has_a_column_for_each_vocabulary() -> None:
    """Small figures with their decimals, large ones with their thousands."""
    table = [{"vocabulary": 8192, "x per byte": 3.847}, {"vocabulary": 16384, "x per byte": 4.0}]
    lines = [line.split() for line in as_text(table).splitlines()]
    assert lines == [["vocabulary", "8,192", "16,384"], ["x", "per", "byte", "3.85", "4.00"]]
