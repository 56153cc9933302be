"""How much text a BPE token stands for, and the number of tokens in a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.finetune.corpus import CorpusDocument, shuffle_key

if TYPE_CHECKING:
    from talaria.coder.tokenizer import Tokenizer

SAMPLE_FILES = 2000
"""Files per split that are tokenised to estimate the number of tokens in all of them."""


def token_lengths(tokenizer: Tokenizer, documents: Sequence[CorpusDocument]) -> dict[str, float]:
    """Measure bytes per token and tokens per line on these documents."""
    tokens = sum(len(ids) for ids in tokenizer.encode_batch([d.text for d in documents]))
    size = sum(len(d.text.encode()) for d in documents)
    lines = sum(d.text.count("\n") for d in documents)
    return {
        "bytes_per_token": round(size / tokens, 3),
        "tokens_per_line": round(tokens / max(1, lines), 2),
    }


def measure_bpe(
    splits: Mapping[str, Sequence[CorpusDocument]], tokenizer: Path | None = None
) -> dict[str, Any]:
    """Measure bytes per token on `SAMPLE_FILES` files of each split, chosen by hash.

    `tokenizer` is a tokenizer file; None means the shipped model's. Returns its name and
    SHA-256, the sample size and the bytes per token of each split that has files.
    """
    # These import torch, which nothing else in a corpus build needs.
    from talaria.coder.checkpoint import EMBEDDED, find
    from talaria.coder.families.talaria import TalariaTokenizer
    from talaria.coder.files import digest

    path = tokenizer or find(EMBEDDED) / "tokenizer.json"
    bpe = TalariaTokenizer.load(path)
    bytes_per_token = {}
    for split, documents in splits.items():
        sample = sorted(documents, key=lambda d: shuffle_key(d.package, d.path))[:SAMPLE_FILES]
        if sample:
            bytes_per_token[split] = token_lengths(bpe, sample)["bytes_per_token"]
    return {
        "tokenizer": path.name if tokenizer else path.parent.name,
        "sha256": digest(path),
        "files": SAMPLE_FILES,
        "bytes_per_token": bytes_per_token,
    }


def estimated_tokens(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Estimate the BPE tokens of each split from a manifest, to three significant figures."""
    sizes: Counter[str] = Counter()
    for package in manifest["packages"]:
        sizes[package["split"]] += package["bytes"]
    lengths = manifest.get("bpe", {}).get("bytes_per_token", {})
    return {split: int(float(f"{sizes[split] / lengths[split]:.3g}")) for split in lengths}
