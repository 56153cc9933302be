"""What a training step computes, and how fast this device could do it at best."""

from __future__ import annotations

import time
from functools import cache

import torch

from coder.denoiser import DenoiserConfig


def step_flops(config: DenoiserConfig, rows: int, canvas_tokens: int) -> float:
    """Floating-point operations of the matrix products of a step, forward and backward.

    Rows of the whole context, each with `canvas_tokens` noised positions beside
    it. Attention counts the pairs that see each other, recomputation nothing.
    """
    length = config.context_length
    matrices = config.layers * (4 * config.width**2 + 3 * config.width * config.mlp_width)
    matrices += config.vocab_size * config.width
    pairs = length * (length + 1) / 2 + canvas_tokens * (length / 2 + config.block_length)
    attention = 2 * config.layers * config.width * pairs
    # A multiply-add is two operations; backward costs twice as much as forward.
    return 6 * rows * ((length + canvas_tokens) * matrices + attention)


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
