"""The choice of optimisers."""

from __future__ import annotations

import torch

from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.recipe import Recipe


def make_optimizers(denoiser: Transformer, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices and AdamW for the embedding, without frozen weights.

    Each parameter group stores its peak learning rate as "peak".
    """
    trained = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
    embedding = [p for name, p in trained if name == "embed.weight"]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            [p for name, p in trained if name != "embed.weight"],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
    ]
    if embedding:
        optimizers.append(
            torch.optim.AdamW(
                embedding,
                lr=recipe.embedding_learning_rate,
                betas=(0.9, 0.95),
                weight_decay=0.0,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers
