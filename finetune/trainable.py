"""A talaria checkpoint as a torch module: loaded to train it further, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump_weights

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.families.talaria import TalariaTokenizer, read_weights, shape_of
from talaria.coder.families.talaria_torch import TorchBackbone, Transformer, module


@dataclass(frozen=True)
class Trainable:
    """A checkpoint's torch module in float32, its tokenizer and its configuration."""

    transformer: Transformer
    tokenizer: TalariaTokenizer
    name: str
    config: Mapping[str, Any]

    @property
    def weights_hash(self) -> str:
        """SHA-256 that names the weights."""
        return checkpoint.weights_hash(self.config)

    def decoder(self) -> Checkpoint:
        """The model for decoding; it shares the weights, so it sees later changes of them."""
        described = {"denoiser": asdict(self.transformer.config), **self.config}
        return Checkpoint(
            TorchBackbone(self.transformer, self.tokenizer.marks),
            self.tokenizer,
            self.tokenizer.layout,
            checkpoint.settings(described, Path(self.name)),
            self.name,
            described,
        )


def load_trainable(model: str | Path | None = None, device: str = "cpu") -> Trainable:
    """Load a model of this family as a torch module, with the same checks as for decoding.

    Raises CheckpointError, with the remedy, when the folder is missing, damaged or of another
    format or family, or the device is not available.
    """
    folder, config, weights = checkpoint.read(model or checkpoint.EMBEDDED, device)
    if (family := checkpoint.family(config)) != "talaria":
        raise CheckpointError(
            f"{folder}: family is {family!r}; only 'talaria' models can be trained this way"
        )
    tokenizer = TalariaTokenizer.load(folder / checkpoint.TOKENIZER)
    shape = shape_of(config, folder / checkpoint.CONFIG)
    arrays = read_weights(weights, shape, folder / checkpoint.WEIGHTS)
    return Trainable(module(shape, arrays, device), tokenizer, folder.name, config)


def save(
    folder: Path,
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    *,
    licence: str = "Apache-2.0",
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint; the folder appears whole or, after an interruption, not at all.

    Weights are stored in half precision. An existing folder is replaced.
    """
    weights = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in transformer.state_dict().items()
    }
    config = {
        "licence": licence,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "denoiser": asdict(transformer.config),
        "training": dict(training or {}),
    }
    checkpoint.write(folder, dump_weights(weights), config, save_tokenizer=tokenizer.save)
