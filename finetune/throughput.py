"""What a training step computes, and how fast this device could do it at best."""

from __future__ import annotations

import time
from functools import cache

import torch

from talaria.coder.denoiser import DenoiserConfig


def step_flops(
    config: DenoiserConfig, rows: int, canvas_tokens: int, chain_alone: bool = False
) -> float:
    """Floating-point operations of the matrix products of a step, forward and backward.

    Rows of the whole context, each with `canvas_tokens` noised positions beside
    it; all of these are the chain's too. Attention counts the pairs that see each other, but
    for the chain's, which are few; recomputation counts nothing. Of a chain that is trained
    alone, everything else is computed forward only, and no head but its own.
    """
    length = config.context_length
    block = 4 * config.width**2 + 3 * config.width * config.mlp_width
    head = config.vocab_size * config.width
    matrices = config.layers * block + head
    chain = canvas_tokens * (config.width**2 + config.chain_layers * block + head)
    pairs = length * (length + 1) / 2 + canvas_tokens * (length / 2 + config.block_length)
    attention = 2 * config.layers * config.width * pairs
    # A multiply-add is two operations; backward costs twice as much as forward.
    if chain_alone:
        below = (length + canvas_tokens) * (matrices - head) + attention
        return rows * (2 * below + 6 * chain)
    products = (length + canvas_tokens) * matrices + chain * (config.chain_layers > 0)
    return 6 * rows * (products + attention)


@cache
def matrix_peak(device: torch.device) -> float:
    """Operations per second of a large bfloat16 product on this device: the best of several."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(6):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
