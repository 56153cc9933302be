"""A base in another quantisation is the same model, up to what that loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import requantised
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder.test_qwen2_gguf import write_gguf


@pytest.mark.parametrize(("kind", "lost"), [("Q8_0", 0.01), ("Q4_0", 0.15)])
def test_weights_and_vocabulary_stay(
    tmp_path: Path, tokenizer: TalariaTokenizer, kind: str, lost: float
) -> None:
    """Vectors to the bit, matrices nearly; the shape, the tokens and their merges."""
    config = write_gguf(tmp_path / "base.gguf", tokenizer)
    out = tmp_path / "out.gguf"
    assert requantised.main([str(tmp_path / "base.gguf"), kind, str(out)]) == 0
    before, after = open_base(tmp_path / "base.gguf"), open_base(out)
    assert (after.shape, after.sizes) == (before.shape, before.sizes)
    assert after.shape.width == config.width
    one, other = before.vocabulary, after.vocabulary
    assert (other.tokens, list(other.merges)) == (one.tokens, list(one.merges))
    for name in qwen2.shapes(config):
        was, is_now = before.read(name, None), after.read(name, None)
        if was.ndim == 1:
            assert np.array_equal(was, is_now)
        else:
            assert np.linalg.norm(was - is_now) < lost * np.linalg.norm(was)
            same = kind == "Q8_0" or name in requantised.WIDE
            assert np.array_equal(was, is_now) <= same
