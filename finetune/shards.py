"""Weights sharded over processes (FSDP2, arXiv 2304.11277).

A sharded weight is a `DTensor`, of which each process holds its rows. Optimisers and weight
averages handle it like any other tensor.
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


def shard(objective: Objective, device: torch.device, processes: int) -> None:
    """Shard the weights over the processes; each block is gathered while it computes."""
    mesh = init_device_mesh(device.type, (processes,))
    for part in (*objective.denoiser.blocks, objective):
        fully_shard(part, mesh=mesh)


def gathered(tree: Any) -> Any:
    """A tree of mappings and lists with all tensors whole; every process must call it."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, Mapping):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded like `like` if that is sharded and has the same shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
