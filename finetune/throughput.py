"""The operations of a training step, and the peak speed of a device."""

from __future__ import annotations

import time
from functools import cache

import torch

from talaria.coder.families.talaria import TransformerConfig


def step_flops(
    config: TransformerConfig, rows: int, canvas_tokens: int, chain_alone: bool = False
) -> float:
    """Floating-point operations of the matrix products of a step, forward and backward.

    Each of the `rows` has a full context and `canvas_tokens` noised positions, all of which the
    chain processes too. Attention counts only pairs that attend to each other, and not the few
    of the chain; recomputation is not counted. With `chain_alone`, everything but the chain is
    computed forward only, without its output head.
    """
    length = config.context_length
    block = 4 * config.width**2 + 3 * config.width * config.mlp_width
    head = config.vocab_size * config.width
    matrices = config.layers * block + head
    chain = canvas_tokens * (config.width**2 + config.chain_layers * block + head)
    pairs = length * (length + 1) / 2 + canvas_tokens * (length / 2 + config.block_length)
    attention = 2 * config.layers * config.width * pairs
    # A multiply-add is two operations; the backward pass costs twice as much as the forward.
    if chain_alone:
        below = (length + canvas_tokens) * (matrices - head) + attention
        return rows * (2 * below + 6 * chain)
    products = (length + canvas_tokens) * matrices + chain * (config.chain_layers > 0)
    return 6 * rows * (products + attention)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; a CPU does with AMX or AVX512-BF16.

    On a CPU without, products of a step took 78 times as long as in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def clock(device: torch.device) -> float:
    """Seconds that the device has computed for this process, from an arbitrary point on.

    On a CPU, processor time per thread: what others compute meanwhile, and pauses, do not count.
    """
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    wait(device)
    return time.perf_counter()


@cache
def matrix_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Measure the operations per second of a large product: the best of six."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = clock(device)
        a @ b
        best = min(best, clock(device) - began)
    return 2 * size**3 / best


def wait(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
