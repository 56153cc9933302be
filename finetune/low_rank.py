"""Low-rank updates of frozen matrices (LoRA, arXiv 2106.09685), trained on the merged matrix.

The product with the update is part of the one with the matrix: W + BA is computed once a step, not
B(Ax) at every position. On a CPU, the two narrow products that this saves in the forward pass cost
far more time than their operations suggest. Gradients of A and B need no gradient of W.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MergedProduct(torch.autograd.Function):
    """`x @ (W + BA)^T + bias`, given the sum; gradients reach x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, merged: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        """The product, [..., outputs], in the dtype of the merged matrix."""
        x = x.to(merged.dtype)
        ctx.save_for_backward(x, merged, a, b)
        return F.linear(x, merged, None if bias is None else bias.to(merged.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; those of the frozen matrix and bias are never computed."""
        x, merged, a, b = ctx.saved_tensors
        of_y = gradients[0].flatten(0, -2)
        flat = x.flatten(0, -2)
        of_x = gradients[0] @ merged if ctx.needs_input_grad[0] else None
        of_a = (of_y @ b.to(of_y.dtype)).T @ flat
        of_b = of_y.T @ (flat @ a.to(flat.dtype).T)
        return of_x, None, None, of_a.to(a.dtype), of_b.to(b.dtype)


class LowRank(nn.Module):
    """A frozen linear map with a trainable low-rank update, initially zero.

    lora_A  [rank, inputs]
    lora_B  [outputs, rank]
    merged  [outputs, inputs]; `merge` brings it up to date after the two have changed
    """

    def __init__(self, base: nn.Linear, rank: int, dtype: torch.dtype) -> None:
        """The update of `base`; products are computed in `dtype`."""
        super().__init__()
        self.base = base.requires_grad_(False)
        outputs, inputs = base.weight.shape
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as peft does
        self.register_buffer("merged", base.weight.detach().to(dtype, copy=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The map of x, [..., outputs], in the dtype of x."""
        product: Any = MergedProduct.apply
        y: Tensor = product(x, self.merged, self.base.bias, self.lora_A, self.lora_B)
        return y.to(x.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Recompute the merged matrix, in float32."""
        merged: Any = self.merged
        merged.copy_(torch.addmm(self.base.weight.to(self.lora_A), self.lora_B, self.lora_A))


def add_updates(module: nn.Module, names: tuple[str, ...], rank: int, dtype: torch.dtype) -> None:
    """Replace the linear maps of these names, wherever they are in the module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if name in names and isinstance(child, nn.Linear):
                setattr(parent, name, LowRank(child, rank, dtype))


def merge(module: nn.Module) -> None:
    """Bring every merged matrix up to date."""
    for each in module.modules():
        if isinstance(each, LowRank):
            each.merge()
