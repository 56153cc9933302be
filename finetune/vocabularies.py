"""Compare BPE vocabulary sizes by what a byte of held-out text costs in training.

A larger vocabulary needs fewer tokens for the same text, but each token costs the model more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from talaria.coder.families.talaria import TalariaTokenizer, TransformerConfig
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.batch import make_batch
from talaria.finetune.bpe import token_lengths
from talaria.finetune.corpus import CorpusDocument
from talaria.finetune.objective import Objective
from talaria.finetune.samples import Sample
from talaria.finetune.throughput import has_fast_bfloat16, step_flops

SHAPES = {"6 layers × 256": (6, 256, 4), "14 layers × 512": (14, 512, 8)}
LENGTH, ROWS, REPEATS = 512, 2, 5


def compare(
    sizes: Sequence[int],
    learn: Callable[[int], TalariaTokenizer],
    held_out: Sequence[CorpusDocument],
) -> list[dict[str, float]]:
    """Learn a tokenizer of each size; measure token lengths and the cost per token and per byte."""
    rows: list[dict[str, float]] = []
    tokenizers = []
    for size in sizes:
        began = time.monotonic()
        tokenizers.append(learn(size))
        seconds = round(time.monotonic() - began, 1)
        lengths = token_lengths(tokenizers[-1], held_out)
        rows.append({"vocabulary": size, **lengths, "learned in s": seconds})
    for name, shape in SHAPES.items():
        for row, cost in zip(rows, costs(tokenizers, shape), strict=True):
            for key, value in cost.items():
                row[f"{name}: {key} per token"] = value
                row[f"{name}: {key} per byte"] = round(value / row["bytes_per_token"], 2)
    return rows


def costs(
    tokenizers: Sequence[TalariaTokenizer], shape: tuple[int, int, int]
) -> list[dict[str, float]]:
    """Measure what a token costs with each vocabulary in next-token training of a model shape.

    `shape` is (layers, width, heads). Returns for each tokenizer the floating-point operations
    of the matrix products, and microseconds per token: the median of `REPEATS` forward and
    backward passes and the largest deviation from it. Passes are in bfloat16, uncompiled, and
    timed as processor time of one thread, which other programs hardly affect; vocabularies
    alternate, so that a busy period slows all of them.
    """
    layers, width, heads = shape
    passes: list[Callable[[], Tensor]] = []
    found: list[dict[str, float]] = []
    for tokenizer in tokenizers:
        config = TransformerConfig(
            tokenizer.vocab_size, layers, width, heads, LENGTH, block_length=1
        )
        found.append({"operations": step_flops(config, 1, 0) / LENGTH})
        objective = Objective(Transformer(config), tokenizer.mask)
        rng = np.random.default_rng(0)
        text = np.setdiff1d(np.arange(tokenizer.vocab_size), [*tokenizer.special.values()])
        rows = [Sample(rng.choice(text, LENGTH).tolist(), [], []) for _ in range(ROWS)]
        passes.append(partial(objective, make_batch(rows, tokenizer, LENGTH, 1, 0, rng)))
    seconds: list[list[float]] = [[] for _ in passes]
    threads, fast = torch.get_num_threads(), has_fast_bfloat16(torch.device("cpu"))
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS + 1):
            for forward, times in zip(passes, seconds, strict=True):
                began = time.process_time()
                with torch.autocast("cpu", torch.bfloat16, fast):
                    losses = forward()
                torch.autograd.backward(losses.sum())
                times.append((time.process_time() - began) / (ROWS * LENGTH))
    finally:
        torch.set_num_threads(threads)
    for cost, (_, *times) in zip(found, seconds, strict=True):  # the first pass warms up
        median = statistics.median(times)
        cost["µs"] = round(1e6 * median, 1)
        cost["± µs"] = round(1e6 * max(abs(s - median) for s in times), 1)
    return found


def as_text(table: Sequence[dict[str, float]]) -> str:
    """Format the comparison with one column per vocabulary."""
    return "\n".join(
        f"{key:40}" + "".join(f"{row[key]:>16,.{0 if row[key] >= 1000 else 2}f}" for row in table)
        for key in table[0]
    )
