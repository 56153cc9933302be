"""`talaria tokenizer trim`: choose the tokens of a base's vocabulary that Python uses."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm

from talaria.coder.arguments import Parser
from talaria.coder.errors import UsageError
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_tokenizer import KEPT, Vocabulary
from talaria.coder.files import replacing
from talaria.coder.tokenizer import Tokenizer
from talaria.finetune.corpus import CorpusDocument, read_nonempty

UNUSED = 5  # GGUF's type of a row without a token, which pads the table
BATCH = 500  # documents that are tokenised at a time


def main(argv: list[str]) -> int:
    """Count a base's tokens on a corpus, write those to keep, and print what that costs."""
    parser = Parser(prog="talaria tokenizer trim", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--rows", type=int, default=45_056, help="tokens kept, special ones too")
    parser.add_argument("--out", type=Path, default=KEPT)
    parser.add_argument(
        "--compare",
        metavar="ROWS",
        help="say what these numbers of rows cost, such as 32768,40960; write nothing",
    )
    args = parser.parse_args(argv)
    try:
        sizes = [int(size) for size in (args.compare or str(args.rows)).split(",")]
    except ValueError as error:
        raise UsageError(f"--compare is {args.compare!r}; give rows as 32768,40960") from error
    vocabulary = open_base(args.base).vocabulary
    least, most = needed(vocabulary).sum(), len(vocabulary.tokens)
    for size in sizes:
        if not least <= size <= most:
            raise UsageError(f"{size} rows; give {least} to {most}, which the base has")
    held_out = read_nonempty(args.corpus, "valid")
    counts = count(vocabulary, read_nonempty(args.corpus, "train"))
    choices = {size: choose(vocabulary, counts, size) for size in sizes}
    print(json.dumps(costs(vocabulary, choices, [d.text for d in held_out]), indent=1))
    if not args.compare:
        with replacing(args.out) as partial, partial.open("wb") as file:
            kept = np.packbits(choices[args.rows])
            np.savez_compressed(file, vocabulary=vocabulary.digest, kept=kept)
    return 0


def count(
    vocabulary: Vocabulary, documents: Sequence[CorpusDocument]
) -> Int[np.ndarray, "vocab packages"]:
    """How often each token is made in the text of each package, also on the way to a longer one."""
    texts: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        texts[document.package].append(document.text)
    tokenizer = vocabulary.tokenizer(np.arange(len(vocabulary.tokens)))
    counts = np.zeros((len(vocabulary.tokens), len(texts)), np.int64)
    for column, package in enumerate(tqdm(texts.values(), "counting", unit=" packages")):
        for start in range(0, len(package), BATCH):
            encoded = tokenizer.encode_batch(package[start : start + BATCH])
            ids = np.concatenate([np.array(ids, np.int64) for ids in encoded])
            counts[:, column] += np.bincount(ids, minlength=len(counts))
    rows = {token: row for row, token in enumerate(vocabulary.tokens)}
    for merge in reversed(vocabulary.merges):
        parts = merge.split(" ")
        made = counts[rows["".join(parts)]]
        for part in parts:
            counts[rows[part]] += made
    return counts


def needed(vocabulary: Vocabulary) -> Bool[np.ndarray, " vocab"]:
    """The bytes, which no merge makes, and the special tokens."""
    merged = {merge.replace(" ", "") for merge in vocabulary.merges}
    return np.array(
        [
            kind != UNUSED and token not in merged
            for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        ]
    )


def choose(
    vocabulary: Vocabulary, counts: Int[np.ndarray, "vocab packages"], size: int
) -> Bool[np.ndarray, " vocab"]:
    """The tokens to keep: those that are needed, then those that most packages make often.

    The root of a count keeps one package from filling the vocabulary with its own words. A token
    is made at least as often as any that it is merged into, and stands before it in the
    vocabulary, so the choice holds what its tokens are merged from.
    """
    kept = needed(vocabulary)
    score = np.sqrt(counts).sum(axis=1)
    score[list(vocabulary.special.values())] = -1
    best = np.argsort(-score, kind="stable")
    kept[best[~kept[best]][: size - kept.sum()]] = True
    return kept


def costs(
    vocabulary: Vocabulary,
    choices: Mapping[int, Bool[np.ndarray, " vocab"]],
    texts: Sequence[str],
) -> list[dict[str, float]]:
    """How many more tokens these texts take for each choice, and which share of them is the same.

    Percentages; a text is the same if its tokens are.
    """

    def encode(tokenizer: Tokenizer) -> list[list[int]]:
        return tokenizer.encode_batch(texts)

    whole = encode(vocabulary.tokenizer(np.arange(len(vocabulary.tokens))))
    table = []
    for size, kept in choices.items():
        rows = np.flatnonzero(kept)
        trimmed = encode(vocabulary.tokenizer(rows))
        same = sum(
            len(one) == len(other) and bool((rows[one] == other).all())
            for one, other in zip(trimmed, whole, strict=True)
        )
        more = sum(map(len, trimmed)) / sum(map(len, whole)) - 1
        table.append(
            {
                "rows": size,
                "more tokens, %": round(100 * more, 3),
                "same texts, %": round(100 * same / len(texts), 1),
            }
        )
    return table
