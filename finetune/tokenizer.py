"""`talaria tokenizer`: learn a byte-level BPE on a corpus, or compare several sizes of it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from coder.denoiser import Denoiser, DenoiserConfig
from coder.errors import UsageError
from coder.tokenizer import Tokenizer, training_texts
from finetune.corpus import Document, read_corpus
from finetune.objective import Objective, make_batch
from finetune.samples import Sample
from finetune.throughput import step_flops

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
        help="vocabulary sizes, as 8192,16384,32768: print what each costs, write no tokenizer",
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

    documents = first_bytes(read_corpus(args.corpus, "train"), LEARN_BYTES)
    held_out = read_corpus(args.corpus, "valid")
    if args.compare:
        table = []
        for size in sizes:
            tokenizer = learn(documents, size)
            table.append({"vocabulary": size, **reach(tokenizer, held_out), **costs(tokenizer)})
            table[-1].update(per_byte(table[-1]))
            print(f"{size} done", file=sys.stderr)
        print(json.dumps(table, indent=1, ensure_ascii=False))
        return 0
    began = time.monotonic()
    tokenizer = learn(documents, sizes[0])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_suffix(".partial")
    tokenizer.save(partial)
    os.replace(partial, args.out)
    print(
        f"{args.out}: {tokenizer.vocab_size} tokens, "
        f"{reach(tokenizer, held_out)['bytes_per_token']:.3f} bytes per token "
        f"on held-out packages, {time.monotonic() - began:.0f} s"
    )
    return 0


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


def costs(tokenizer: Tokenizer) -> dict[str, float]:
    """What a token costs each shape in next-token training: operations and seconds.

    Seconds are medians of REPEATS passes, forward and backward, not compiled, in
    bfloat16; the largest deviation from the median is given too.
    """
    found = {}
    for name, (layers, width, heads) in SHAPES.items():
        config = DenoiserConfig(tokenizer.vocab_size, layers, width, heads, LENGTH, block_length=1)
        objective = Objective(Denoiser(config))
        rng = np.random.default_rng(0)
        rows = [
            Sample(rng.integers(0, tokenizer.mask, LENGTH).tolist(), [], []) for _ in range(ROWS)
        ]
        batch = make_batch(rows, tokenizer, LENGTH, 1, 0, rng)
        seconds = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                losses = objective(batch)
            losses.sum().backward()
            seconds.append((time.perf_counter() - began) / (ROWS * LENGTH))
        middle = statistics.median(seconds[1:])
        found[f"{name}: operations per token"] = step_flops(config, 1, 0) / LENGTH
        found[f"{name}: µs per token"] = round(1e6 * middle, 1)
        found[f"{name}: ± µs"] = round(1e6 * max(abs(s - middle) for s in seconds[1:]), 1)
    return found


def per_byte(row: dict[str, float]) -> dict[str, float]:
    """The costs of a row by bytes of text, which is what vocabularies are compared by."""
    return {
        key.replace("per token", "per byte"): round(value / row["bytes_per_token"], 2)
        for key, value in row.items()
        if "per token" in key
    }
