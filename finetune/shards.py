"""Weights shared out over processes (FSDP2, arXiv 2304.11277), and whole again where they are read.

A tensor is then a `DTensor`, of which each process holds its rows. Optimisers and
averages compute with such tensors as with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from talaria.finetune.objective import Objective


def share_out(objective: Objective, device: torch.device, processes: int) -> None:
    """Leave each process its part of the weights; each block is gathered while it computes."""
    mesh = init_device_mesh(device.type, (processes,))
    for part in (*objective.denoiser.blocks, objective):
        fully_shard(part, mesh=mesh)


def whole(tree: Any) -> Any:
    """A tree of mappings and lists with every tensor whole; all processes must ask for it."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    return tree


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of another and shared out as that one, if it has its shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
