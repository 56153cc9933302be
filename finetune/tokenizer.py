"""`talaria tokenizer`: learn a byte-level BPE on a corpus."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from coder.errors import UsageError
from coder.tokenizer import Tokenizer, training_texts
from finetune.corpus import read_corpus


def main(argv: list[str]) -> int:
    """Train a tokenizer, write it, and say how far a token reaches on held-out text."""
    parser = argparse.ArgumentParser(prog="talaria tokenizer", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--vocab-size", type=int, default=8192)
    args = parser.parse_args(argv)
    if not 512 <= args.vocab_size <= 65536:
        raise UsageError(f"--vocab-size is {args.vocab_size}; it must lie between 512 and 65536")

    documents = read_corpus(args.corpus, "train")
    print(f"learning {args.vocab_size} tokens on {len(documents)} files", file=sys.stderr)
    began = time.monotonic()
    tokenizer = Tokenizer.train(training_texts(d.text for d in documents), args.vocab_size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_suffix(".partial")
    tokenizer.save(partial)
    os.replace(partial, args.out)

    held_out = read_corpus(args.corpus, "valid")
    size = sum(len(d.text.encode()) for d in held_out)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch([d.text for d in held_out]))
    print(
        f"{args.out}: {tokenizer.vocab_size} tokens, {size / tokens:.3f} bytes per token "
        f"on held-out packages, {time.monotonic() - began:.0f} s"
    )
    return 0
