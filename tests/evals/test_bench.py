"""What requests cost: wrong options are named before anything is measured."""

from __future__ import annotations

import pytest

from talaria.coder import cli


def test_wrong_options_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    """Are refused with the value and the limit, before a model is loaded."""
    assert cli.main(["bench", "--context", "0", "--model", "nowhere"]) == 2
    assert "context is 0 tokens; the least is 8" in capsys.readouterr().err
