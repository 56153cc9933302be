"""The comparison with transformers finds equal texts where there are some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.base_exactness import main
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder.test_qwen2_gguf import write_gguf


def test_a_tiny_base_is_what_transformers_reads(
    tmp_path: Path, tokenizer: TalariaTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits to the accuracy of float32, and all texts."""
    write_gguf(tmp_path / "tiny.gguf", tokenizer)
    words = ["--prompts", "3", "--context", "30", "--tokens", "5"]
    assert main([str(tmp_path / "tiny.gguf"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal_texts"] == found["prompts"] == 3
    assert 0 < found["largest_difference"] < 1e-2 < found["largest_logit"]
    with pytest.raises(UsageError, match="--tokens is 0"):
        main([str(tmp_path / "tiny.gguf"), "--tokens", "0"])
