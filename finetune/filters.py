"""Filters for training text: pure functions that decide which Python files to keep."""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.syntax.lexical import lines_of
from talaria.finetune.contamination import GRAM
from talaria.finetune.ngrams import Hashes, code_tokens, hashed_grams, shared_grams

if TYPE_CHECKING:
    from datasketch import LeanMinHash

MIN_CHARACTERS = 200
MAX_BYTES = 200_000
MAX_LINE = 1000
MAX_MEAN_LINE = 100
SHINGLE = 5
PERMUTATIONS = 128
SCHEME = "affine32"
BANDS = (18, 7)
"""18 bands of 7 entries: two files of similarity 0.8 share a band with probability 98.5 %."""
SIMILARITY = 0.8
HEADER = 3000
"""Characters at the head of a file in which licences are looked for."""
HELD_OUT_RUN = 50
"""A file that shares a run of this many tokens with a held-out file is taken to copy from it."""

SETTINGS: dict[str, int | float | str] = {
    "min_characters": MIN_CHARACTERS,
    "max_bytes": MAX_BYTES,
    "max_line": MAX_LINE,
    "max_mean_line": MAX_MEAN_LINE,
    "shingle": SHINGLE,
    "permutations": PERMUTATIONS,
    "scheme": SCHEME,
    "similarity": SIMILARITY,
    "gram": GRAM,
    "held_out_run": HELD_OUT_RUN,
    "header": HEADER,
}

NEAR_HELD_OUT = "near a held-out file"
COPYLEFT_HEADER = "copyleft header"
VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "third_party", "thirdparty"}
VENDORED |= {"extern", "externals", "_externals"}
GENERATED = re.compile(
    r"auto-?\s?generated|automatically (?:generated|created)|@generated"
    r"|do not (?:edit|modify)|don't edit|\bgenerated (?:and used )?by\b"
    r"|\bfile (?:is|was|has been) generated\b",
    re.IGNORECASE,
)
# Abbreviations are case-sensitive: `mpl` is also the usual alias of matplotlib.
COPYLEFT = re.compile(
    r"\b(?:[AL]?GPL(?:v?\d)?|MPL|EPL|CDDL|EUPL|CC[- ]BY-(?:NC|ND|SA)|(?i:"
    r"GNU (?:Lesser |Library |Affero )?General Public|Mozilla Public|Eclipse Public|CeCILL"
    r"|Common Development and Distribution|Creative Commons[- ]Attribution[- ]"
    r"(?:Non[- ]?Commercial|Share[- ]?Alike|No[- ]?Deriv\w+)))\b"
)
CLOSED = re.compile(
    r"proprietary (?:and|&) confidential|confidential (?:and|&) proprietary"
    r"|licen[sc]ed?\W{1,4}proprietary|unauthori[sz]ed (?:copying|distribution)"
    r"|may not be (?:copied|distributed|redistributed|reproduced)"
    r"|non-?commercial (?:use|purposes) only",
    re.IGNORECASE,
)
LICENSING = re.compile(r"licen[sc]e|SPDX|terms|distributed|released|copyright|covered", re.I)
PERMISSIVE = re.compile(r"\b(?:BSD|MIT|Apache|PSF|Python Software Foundation|ISC|zlib)\b", re.I)
CHOICE = re.compile(r"\b(?:or|either|dual|choose|choice|alternatively)\b", re.IGNORECASE)
LATER = re.compile(
    r"either version|\bor[- ](?:\(?at your option\)?,? )?(?:any )?(?:later|newer)", re.I
)
PARSER_TABLE = re.compile(r"^_(?:lr_action|lr_goto|lr_productions|lextokens|tabversion)", re.M)


@dataclass(frozen=True)
class FilteredFile:
    """The result of filtering one file: a reason to drop it, or its text and fingerprints.

    `tokens` is the number of code tokens, `signature` the MinHash, and `benchmark` the
    10-grams shared with benchmark solutions.
    """

    path: str
    reason: str | None
    text: str = ""
    tokens: int = 0
    digest: bytes = b""
    signature: LeanMinHash | None = None
    benchmark: tuple[int, ...] = ()


def path_reason(path: str) -> str | None:
    """Why a file with this `/`-separated path is dropped unread; None if it is not."""
    folders = path.split("/")[:-1]
    if "__pycache__" in folders:
        return "bytecode cache"
    return "vendored" if VENDORED.intersection(folders) else None


def is_test(path: str) -> bool:
    """Whether the path belongs to a test."""
    *folders, name = path.split("/")
    return (
        not {"test", "tests"}.isdisjoint(folders)
        or name.startswith(("test_", "conftest."))
        or name.endswith("_test.py")
    )


def decode(raw: bytes) -> str | None:
    """Decode UTF-8 to text with `\\n` line endings and no byte-order mark; None if it is binary."""
    if b"\0" in raw:
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_reason(text: str, tokens: Sequence[str]) -> str | None:
    """Why this text with these code tokens is dropped; None if it is kept."""
    if len(text) < MIN_CHARACTERS:
        return "too short"
    if len(text.encode()) > MAX_BYTES:
        return "too long"
    lines = [line.rstrip("\r\n") for line in lines_of(text)]
    if GENERATED.search("\n".join(lines[:10])) or PARSER_TABLE.search(text):
        return "generated"
    if max(map(len, lines)) > MAX_LINE or len(text) > MAX_MEAN_LINE * len(lines):
        return "long lines"
    literals = sum(1 for token in tokens if token[0].isdigit() or token[-1] in "\"'")
    names = sum(1 for token in tokens if token.isidentifier())
    # Ordinary code has five to ten names per literal; data tables have few names.
    if literals > names:
        return "data"
    return None if parses(text) else "does not parse"


def licence_reason(text: str) -> str | None:
    """Why the licence stated at the head of a file excludes it; None if none does.

    A dual licence with a permissive option is accepted, and so is a licence name that is
    only mentioned.
    """
    head = re.sub(r"[\s#*]+", " ", text[:HEADER])
    if CLOSED.search(head):
        return COPYLEFT_HEADER
    for name in COPYLEFT.finditer(head):
        near = head[max(0, name.start() - 80) : name.end() + 80]
        if LICENSING.search(near):
            # "Version 2 or any later version" is not a dual licence.
            offer = LATER.sub(" ", head[max(0, name.start() - 160) : name.end() + 160])
            offered = PERMISSIVE.search(offer) and CHOICE.search(offer)
            return None if offered else COPYLEFT_HEADER
    return None


def parses(text: str) -> bool:
    """Whether the running Python can parse the text as a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def signature(tokens: Sequence[str]) -> LeanMinHash:
    """MinHash of the token 5-grams; two signatures estimate the files' Jaccard similarity."""
    from datasketch import LeanMinHash, MinHash  # slow to import

    shingles = hashed_grams(tokens, min(SHINGLE, max(1, len(tokens))))
    minhash = MinHash(PERMUTATIONS, hashfunc=int, scheme=SCHEME)
    minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
    return LeanMinHash(minhash)


def duplicate_reasons(files: Iterable[tuple[str, FilteredFile]]) -> Iterator[str | None]:
    """For each (split, file): why it is a duplicate of one before it, or None.

    Where the two are in different splits, the reason is `NEAR_HELD_OUT`.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    equal: dict[bytes, str] = {}
    kept: list[tuple[str, LeanMinHash]] = []
    for split, file in files:
        candidates = (kept[number] for number in index.query(file.signature))
        splits = {
            other_split
            for other_split, other in candidates
            if other.jaccard(file.signature) >= SIMILARITY
        }
        if file.digest in equal:
            splits.add(equal[file.digest])
        if splits:
            same = "duplicate" if file.digest in equal else "near duplicate"
            yield NEAR_HELD_OUT if splits - {split} else same
            continue
        index.insert(len(kept), file.signature, check_duplication=False)
        kept.append((split, file.signature))
        equal[file.digest] = split
        yield None


def judge(file: tuple[str, bytes], benchmark: Hashes, held_out: Hashes) -> FilteredFile:
    """Apply all filters that need only this file, given as its path and bytes.

    `benchmark` holds the sorted, hashed 10-grams of benchmark solutions, `held_out` the sorted,
    hashed `HELD_OUT_RUN`-grams of held-out files.
    """
    path, raw = file
    reason = path_reason(path)
    if reason:
        return FilteredFile(path, reason)
    text = decode(raw)
    if text is None:
        return FilteredFile(path, "not UTF-8")
    # Do not tokenise files that are far too long.
    tokens = code_tokens(text) if len(text) <= MAX_BYTES else []
    reason = text_reason(text, tokens) or licence_reason(text)
    if reason:
        return FilteredFile(path, reason)
    if len(shared_grams(hashed_grams(tokens, HELD_OUT_RUN), held_out)):
        return FilteredFile(path, NEAR_HELD_OUT)
    shared = shared_grams(hashed_grams(tokens, GRAM), benchmark)
    return FilteredFile(
        path,
        None,
        text,
        tokens=len(tokens),
        digest=hashlib.sha256("".join(text.split()).encode()).digest(),
        signature=signature(tokens),
        benchmark=tuple(int(gram) for gram in shared),
    )
