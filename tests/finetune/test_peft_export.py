"""An adapter that peft has loaded computes what Talaria's merged one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from benchmarks.base_exactness import theirs
from talaria.coder import checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.families.qwen2_files import open_base
from talaria.finetune.peft_export import export, main
from tests.finetune.test_adapt import folder, in_float32, run

__all__ = ["folder"]  # the fixture


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_peft_computes_the_same(folder: Path, tmp_path: Path) -> None:
    """Logits of a row, far from the base's own."""
    here = run(folder, tmp_path / "run")
    with torch.no_grad():
        for name, each in here.trained.items():
            if name.endswith("lora_B"):
                each.normal_(0, 0.1)
    here.save()
    assert main([str(tmp_path / "run" / "model"), str(tmp_path / "peft")]) == 0
    base = theirs(open_base(folder / "base.gguf"))
    ids = np.random.default_rng(0).integers(0, 300, 30)
    with torch.inference_mode():
        before = base(torch.from_numpy(ids)[None]).logits[0].numpy()
        adapted = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
        found = adapted(torch.from_numpy(ids)[None]).logits[0].numpy()
    ours = in_float32(folder, tmp_path / "run" / "model")
    states, _ = ours.encode([ids.tolist()])
    expected = ours.logits(states[0])
    assert np.abs(found - before).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=5e-3, rtol=5e-3)


def test_only_adapters_are_exported(tmp_path: Path) -> None:
    """The message names the model."""
    with pytest.raises(UsageError, match=f"{checkpoint.EMBEDDED} has no low-rank updates"):
        export(checkpoint.EMBEDDED, tmp_path / "out")
