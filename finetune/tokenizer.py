"""`talaria tokenizer`: learn a byte-level BPE from a corpus, or compare vocabulary sizes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from talaria.coder.arguments import Parser
from talaria.coder.errors import DataError, UsageError
from talaria.coder.families.talaria import TalariaTokenizer, training_texts
from talaria.coder.files import replacing
from talaria.finetune.bpe import token_lengths
from talaria.finetune.corpus import CorpusDocument, read_nonempty

LEARN_BYTES = 200_000_000
"""Learn from this much of the shuffled corpus; all of it would take minutes and much memory."""


def main(argv: list[str]) -> int:
    """Learn a tokenizer, write it, and print its bytes per token on held-out text."""
    if argv[:1] == ["trim"]:
        from talaria.finetune import trimming  # reads GGUF, which learning does not need

        return trimming.main(argv[1:])
    parser = Parser(prog="talaria tokenizer", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument(
        "--compare",
        metavar="SIZES",
        help="compare the cost of these vocabulary sizes, such as 8192,16384,32768: print JSON to "
        "standard output and a table to standard error; write no tokenizer",
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

    if not args.compare:
        with writing(args.out):  # fail before learning, which takes minutes
            if args.out.is_dir():
                raise IsADirectoryError(f"{args.out} is a folder")
            args.out.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=args.out.parent).close()
    documents = first_bytes(read_nonempty(args.corpus, "train"), LEARN_BYTES)
    held_out = read_nonempty(args.corpus, "valid")
    if args.compare:
        from talaria.finetune.vocabularies import as_text, compare

        table = compare(sizes, partial(learn, documents), held_out)
        print(json.dumps(table, indent=1, ensure_ascii=False))
        print(as_text(table), file=sys.stderr)
        return 0
    began = time.monotonic()
    tokenizer = learn(documents, sizes[0])
    with writing(args.out), replacing(args.out) as partial_file:
        tokenizer.save(partial_file)
    print(
        f"{args.out}: {tokenizer.vocab_size} tokens, "
        f"{token_lengths(tokenizer, held_out)['bytes_per_token']:.3f} bytes per token "
        f"on held-out packages, {time.monotonic() - began:.0f} s"
    )
    return 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any failure to write the tokenizer into a DataError with the remedy."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataError(
            f"{path}: cannot be written ({error}); free some space or name another --out"
        ) from error


def first_bytes(documents: Sequence[CorpusDocument], limit: int) -> list[CorpusDocument]:
    """The shortest prefix of the documents that exceeds `limit` bytes; all if none does."""
    total = 0
    for number, document in enumerate(documents):
        total += len(document.text.encode())
        if total > limit:
            return list(documents[: number + 1])
    return list(documents)


def learn(documents: Sequence[CorpusDocument], size: int) -> TalariaTokenizer:
    """Learn a BPE of `size` tokens from the documents."""
    print(f"learning {size} tokens from {len(documents)} files", file=sys.stderr)
    return TalariaTokenizer.train(training_texts(d.text for d in documents), size)
