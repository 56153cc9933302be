"""Adapters as they are stored: what `talaria adapt` trained, by the names that decoding knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as dump_weights

from talaria.coder import bases, checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.families import qwen2
from talaria.finetune.state import writing

if TYPE_CHECKING:
    from talaria.finetune.adapt import AdaptationRun

BLOCK_LENGTH = 32  # positions of a canvas in decoding: any length will do, known ones are read once
THRESHOLD = 0.3  # of `diffuse`, which replaces wrong guesses; docs/log.md, 2026-12-01, has figures
LICENCE = "Apache-2.0"


def read(adapter: str | Path) -> tuple[Path, bytes]:
    """The folder of an adapter, and its weights.

    Raises CheckpointError where the model cannot be read, and UsageError where it is no adapter.
    """
    folder, config, weights = checkpoint.read(adapter, "cpu")
    if "base" not in config or not weights:
        raise UsageError(f"{folder.name} has no low-rank updates; give an adapter's folder")
    return folder, weights


def tensors_of(run: AdaptationRun) -> dict[str, torch.Tensor]:
    """The adapter as it is stored, in half precision."""
    found: dict[str, torch.Tensor] = {exported(name): each for name, each in run.trained.items()}
    if run.adaptation.end_bias.any():
        found[qwen2.END_BIAS] = run.adaptation.end_bias
    return {name: each.detach().to(torch.float16).contiguous() for name, each in found.items()}


def exported(name: str) -> str:
    """What a trained parameter is called in an adapter: as peft names it, with GGUF's modules."""
    short = name.removeprefix("decoder.")
    return f"{short}.weight" if short.endswith(("lora_A", "lora_B")) else short


def base_name(run: AdaptationRun) -> str:
    """What `talaria models` calls the base; the name of its file if it knows no such hash."""
    names = {base.sha256: name for name, base in bases.known().items()}
    own: str = run.args.base.name
    return names.get(str(run.identity["base"]), own)


def write_adapter(folder: Path, run: AdaptationRun) -> None:
    """Write the trained weights as a checkpoint that names its base by hash."""
    tensors = tensors_of(run)
    # Decoding looks ahead as far as pays, once it is known how often masks are right.
    ahead = {"lookahead": 1 + run.recipe.masks} if run.accepted is None else {}
    known = {} if run.accepted is None else {"accepted": run.accepted}
    config: dict[str, Any] = {
        "family": "qwen2",
        "licence": LICENCE,
        "parameters": sum(each.numel() for each in tensors.values()),
        "base": {"name": base_name(run), "sha256": run.identity["base"]},
        # `verify` writes the text of `ar`.
        "decoding": {
            "mode": "verify",
            "bounded": True,
            "ends": run.ends,
            "block_length": BLOCK_LENGTH,
            "confidence_threshold": THRESHOLD,
            **ahead,
        },
        **known,
        "training": {**run.identity, "steps": run.step, "minutes": round(run.elapsed / 60, 1)},
    }
    with writing(folder):
        checkpoint.write(folder, dump_weights(tensors), config, name=checkpoint.ADAPTER)
