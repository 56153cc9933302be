"""`talaria tokenizer`: learn a byte-level BPE on a corpus, or compare several sizes of it.

A larger vocabulary takes fewer tokens for a text, but every token costs the model
more. So sizes are compared by what a byte of held-out text costs in training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talaria.coder.denoiser import DenoiserConfig
from talaria.coder.errors import DataError, UsageError
from talaria.coder.tokenizer import Tokenizer, training_texts
from talaria.coder.transformer import Transformer
from talaria.finetune.corpus import Document, read_some
from talaria.finetune.objective import Objective, make_batch
from talaria.finetune.samples import Sample
from talaria.finetune.throughput import step_flops

# What is learned from: the first files of the corpus, which is shuffled. All of it
# would take minutes and memory for every kind of word in it.
LEARN_BYTES = 200_000_000
SHAPES = {"6 layers × 256": (6, 256, 4), "14 layers × 512": (14, 512, 8)}
LENGTH, ROWS, REPEATS = 512, 2, 5


def main(argv: list[str]) -> int:
    """Train a tokenizer, write it, and say how far a token reaches on held-out text."""
    parser = argparse.ArgumentParser(prog="talaria tokenizer", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument(
        "--compare",
        metavar="SIZES",
        help="vocabulary sizes, as 8192,16384,32768: say what each costs, as JSON and, on "
        "standard error, as a table; write no tokenizer",
    )
    args = parser.parse_args(argv)
    try:
        sizes = [int(size) for size in (args.compare or str(args.vocab_size)).split(",")]
    except ValueError as error:
        raise UsageError(f"--compare is {args.compare!r}; give sizes as 8192,16384") from error
    for size in sizes:
        if not 512 <= size <= 65536:
            flag = "--compare" if args.compare else "--vocab-size"
            raise UsageError(f"{flag} is {size}; it must lie between 512 and 65536")

    unfinished = args.out.with_suffix(".partial")
    if not args.compare:
        with writing(args.out):
            if args.out.is_dir():
                raise IsADirectoryError(f"{args.out} is a folder")
            args.out.parent.mkdir(parents=True, exist_ok=True)
            unfinished.touch()
            unfinished.unlink()
    documents = first_bytes(read_some(args.corpus, "train"), LEARN_BYTES)
    held_out = read_some(args.corpus, "valid")
    if args.compare:
        table = compare(documents, held_out, sizes)
        print(json.dumps(table, indent=1, ensure_ascii=False))
        print(as_text(table), file=sys.stderr)
        return 0
    began = time.monotonic()
    tokenizer = learn(documents, sizes[0])
    with writing(args.out):
        try:
            tokenizer.save(unfinished)
            os.replace(unfinished, args.out)
        finally:
            unfinished.unlink(missing_ok=True)
    print(
        f"{args.out}: {tokenizer.vocab_size} tokens, "
        f"{reach(tokenizer, held_out)['bytes_per_token']:.3f} bytes per token "
        f"on held-out packages, {time.monotonic() - began:.0f} s"
    )
    return 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes whatever keeps the tokenizer from being written a DataError with the remedy."""
    try:
        yield
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"{path}: cannot be written ({error}); make room or name another --out"
        ) from error


def first_bytes(documents: Sequence[Document], limit: int) -> list[Document]:
    """The documents from the first on, as many as hold `limit` bytes together."""
    total = 0
    for number, document in enumerate(documents):
        total += len(document.text.encode())
        if total > limit:
            return list(documents[: number + 1])
    return list(documents)


def learn(documents: Sequence[Document], size: int) -> Tokenizer:
    """A BPE of so many tokens, learned on the documents."""
    print(f"learning {size} tokens on {len(documents)} files", file=sys.stderr)
    return Tokenizer.train(training_texts(d.text for d in documents), size)


def reach(tokenizer: Tokenizer, documents: Sequence[Document]) -> dict[str, float]:
    """How much text a token stands for: bytes per token and tokens per line."""
    tokens = sum(len(ids) for ids in tokenizer.encode_batch([d.text for d in documents]))
    size = sum(len(d.text.encode()) for d in documents)
    lines = sum(d.text.count("\n") for d in documents)
    return {
        "bytes_per_token": round(size / tokens, 3),
        "tokens_per_line": round(tokens / max(1, lines), 2),
    }


def compare(
    documents: Sequence[Document], held_out: Sequence[Document], sizes: Sequence[int]
) -> list[dict[str, float]]:
    """What is to be known of each size: how far a token reaches, what tokens and bytes cost."""
    rows: list[dict[str, float]] = []
    tokenizers = []
    for size in sizes:
        began = time.monotonic()
        tokenizers.append(learn(documents, size))
        spent = round(time.monotonic() - began, 1)
        rows.append({"vocabulary": size, **reach(tokenizers[-1], held_out), "learned in s": spent})
    for name, shape in SHAPES.items():
        for row, cost in zip(rows, costs(tokenizers, shape), strict=True):
            for key, value in cost.items():
                row[f"{name}: {key} per token"] = value
                row[f"{name}: {key} per byte"] = round(value / row["bytes_per_token"], 2)
    return rows


def costs(tokenizers: Sequence[Tokenizer], shape: tuple[int, int, int]) -> list[dict[str, float]]:
    """What a token costs a shape with each vocabulary, in next-token training.

    Operations of the matrix products, and microseconds: the median of REPEATS
    passes, forward and backward, bfloat16, not compiled, in processor time of one
    thread, which other programs on the machine lengthen little; and the largest
    deviation from it. Vocabularies take turns, so that a busy time hits all of them.
    """
    layers, width, heads = shape
    passes: list[Callable[[], Tensor]] = []
    found: list[dict[str, float]] = []
    for tokenizer in tokenizers:
        config = DenoiserConfig(tokenizer.vocab_size, layers, width, heads, LENGTH, block_length=1)
        found.append({"operations": step_flops(config, 1, 0) / LENGTH})
        objective = Objective(Transformer(config), tokenizer.mask)
        rng = np.random.default_rng(0)
        rows = [
            Sample(rng.integers(0, tokenizer.mask, LENGTH).tolist(), [], []) for _ in range(ROWS)
        ]
        passes.append(partial(objective, make_batch(rows, tokenizer, LENGTH, 1, 0, rng)))
    seconds: list[list[float]] = [[] for _ in passes]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS + 1):
            for run, spent in zip(passes, seconds, strict=True):
                began = time.process_time()
                with torch.autocast("cpu", torch.bfloat16):
                    losses = run()
                torch.autograd.backward(losses.sum())
                spent.append((time.process_time() - began) / (ROWS * LENGTH))
    finally:
        torch.set_num_threads(threads)
    for cost, (_, *spent) in zip(found, seconds, strict=True):  # the first pass warms up
        middle = statistics.median(spent)
        cost["µs"] = round(1e6 * middle, 1)
        cost["± µs"] = round(1e6 * max(abs(s - middle) for s in spent), 1)
    return found


def as_text(table: Sequence[dict[str, float]]) -> str:
    """The table for people: a column for each vocabulary."""
    return "\n".join(
        f"{key:40}" + "".join(f"{row[key]:>16,.{0 if row[key] >= 1000 else 2}f}" for row in table)
        for key in table[0]
    )
