"""Which Python files are worth learning from: pure functions from bytes to a verdict."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasketch import LeanMinHash

Hashes = npt.NDArray[np.uint64]

MIN_CHARACTERS = 200
MAX_BYTES = 200_000
MAX_LINE = 1000
MAX_MEAN_LINE = 100
SHINGLE = 5
PERMUTATIONS = 128
SCHEME = "affine32"
BANDS = (18, 7)
"""Files of similarity 0.8 share one of 18 bands of 7 entries in 98.5 % of the cases."""
SIMILARITY = 0.8
GRAM = 10
SHIPPED = Path(__file__).with_name("benchmark_grams.npz")
HEADER = 3000
"""Characters of a file in which it would state its licence."""
HELD_OUT_RUN = 50
"""A file that shares so long a run of tokens with a held-out file holds a copy from it."""

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
# Abbreviations as they are written, for `mpl` is also how matplotlib is imported.
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

# One alternative a token kind, no groups: `findall` is then some ten times
# faster than `tokenize`, which alone would take most of the build's time.
TOKEN = re.compile(
    r"#[^\n]*"
    r'|(?:[rRbBuUfF]{1,2})?(?:"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'
    r"|'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'(?:[^'\\\n]|\\.)*')"
    r"|[^\W\d]\w*"
    r"|\d[\w.]*|\.\d\w*"
    r"|\*\*=?|//=?|>>=?|<<=?|->|:=|\.\.\.|[-+*/%@&|^=!<>]=|[^\s\w]",
    re.DOTALL,
)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file: a reason to drop it, or its text and fingerprints.

    `tokens` counts its code tokens; `signature` is its MinHash; `benchmark` the 10-grams
    that it shares with benchmark solutions.
    """

    path: str
    reason: str | None
    text: str = ""
    tokens: int = 0
    digest: bytes = b""
    signature: LeanMinHash | None = None
    benchmark: tuple[int, ...] = ()


def path_reason(path: str) -> str | None:
    """Why a file with this path, `/` between its parts, is never looked into; None if it is."""
    folders = path.split("/")[:-1]
    if "__pycache__" in folders:
        return "bytecode cache"
    return "vendored" if VENDORED.intersection(folders) else None


def is_test(path: str) -> bool:
    """Whether the path is that of a test."""
    *folders, name = path.split("/")
    return (
        not {"test", "tests"}.isdisjoint(folders)
        or name.startswith(("test_", "conftest."))
        or name.endswith("_test.py")
    )


def decode(raw: bytes) -> str | None:
    """UTF-8 text with `\\n` line ends and no byte-order mark; None if it is no text."""
    if b"\0" in raw:
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def code_tokens(text: str) -> list[str]:
    """Names, numbers, operators and strings, without comments and layout."""
    # A lone backslash continues a line: layout as well.
    return [token for token in TOKEN.findall(text) if token[0] not in "#\\"]


def text_reason(text: str, tokens: Sequence[str]) -> str | None:
    """Why this text, whose code tokens are given, is not worth learning from; None if it is."""
    if len(text) < MIN_CHARACTERS:
        return "too short"
    if len(text.encode()) > MAX_BYTES:
        return "too long"
    lines = text.splitlines()
    if GENERATED.search("\n".join(lines[:10])) or PARSER_TABLE.search(text):
        return "generated"
    if max(map(len, lines)) > MAX_LINE or len(text) > MAX_MEAN_LINE * len(lines):
        return "long lines"
    literals = sum(1 for token in tokens if token[0].isdigit() or token[-1] in "\"'")
    names = sum(1 for token in tokens if token.isidentifier())
    # Ordinary code has five to ten names to a literal; tables have few names.
    if literals > names:
        return "data"
    return None if parses(text) else "does not parse"


def licence_reason(text: str) -> str | None:
    """Why the licence that a file states at its head keeps it out; None if none does.

    A choice that offers a permissive licence as well lets it in, and so does the name
    of a licence of which it is not said that anything is under it.
    """
    head = re.sub(r"[\s#*]+", " ", text[:HEADER])
    if CLOSED.search(head):
        return COPYLEFT_HEADER
    for name in COPYLEFT.finditer(head):
        near = head[max(0, name.start() - 80) : name.end() + 80]
        if LICENSING.search(near):
            # "Version 2, or any later one" is no choice.
            offer = LATER.sub(" ", head[max(0, name.start() - 160) : name.end() + 160])
            offered = PERMISSIVE.search(offer) and CHOICE.search(offer)
            return None if offered else COPYLEFT_HEADER
    return None


def parses(text: str) -> bool:
    """Whether this Python accepts the text as a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def hashed_grams(tokens: Sequence[str], length: int) -> Hashes:
    """Sorted, distinct 64-bit hashes of all runs of `length` tokens; the same on any machine."""
    if len(tokens) < length:
        return np.empty(0, np.uint64)
    table = {token: zlib.crc32(token.encode()) for token in set(tokens)}
    ids = np.array([table[token] for token in tokens], np.uint64)
    count = len(ids) - length + 1
    grams = np.zeros(count, np.uint64)
    for start in range(length):
        grams = grams * _MULTIPLIER + ids[start : start + count]
    # The low bits of a product depend on low bits alone: fold the high ones in.
    grams ^= grams >> np.uint64(29)
    grams *= _MULTIPLIER
    grams ^= grams >> np.uint64(32)
    return np.unique(grams)


def all_grams(texts: Iterable[str], length: int) -> Hashes:
    """Sorted, distinct hashes of all runs of `length` code tokens in these texts."""
    grams = [hashed_grams(code_tokens(text), length) for text in texts]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *grams]))


def benchmark_grams(programs: Iterable[str]) -> Hashes:
    """The sorted, hashed 10-grams of code tokens of these programs."""
    return all_grams(programs, GRAM)


@dataclass(frozen=True, order=True)
class BenchmarkFile:
    """A file of solved programs which training text must not hold: its name, SHA-256, size."""

    file: str
    sha256: str
    programs: int


def shipped_grams() -> Hashes:
    """The sorted, hashed 10-grams of the benchmarks that no training text may share.

    They come with the package: HumanEval and its infilling sets, as hashes alone.
    `shipped_files` names them; `gather.ship_grams` made them.
    """
    with np.load(SHIPPED) as shipped:
        grams: Hashes = shipped["grams"]
    return grams


def shipped_files() -> list[BenchmarkFile]:
    """The files that `shipped_grams` was made of."""
    with np.load(SHIPPED) as shipped:
        return [BenchmarkFile(**entry) for entry in json.loads(str(shipped["files"]))]


def write_grams(path: Path, files: Iterable[BenchmarkFile], grams: Hashes) -> None:
    """Write what `shipped_grams` and `shipped_files` read; the same gives the same bytes."""
    np.savez(path, grams=grams, files=json.dumps([asdict(file) for file in sorted(files)]))


def common(grams: Hashes, known: Hashes) -> Hashes:
    """Those of the grams that are in `known`, which is sorted."""
    if not len(known):
        return known
    places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    found: Hashes = grams[known[places] == grams]
    return found


def signature(tokens: Sequence[str]) -> LeanMinHash:
    """MinHash of the token 5-grams: equal entries of two, as a share, estimate their Jaccard."""
    from datasketch import LeanMinHash, MinHash  # takes a while, and most users of grams need none

    shingles = hashed_grams(tokens, min(SHINGLE, max(1, len(tokens))))
    minhash = MinHash(PERMUTATIONS, hashfunc=int, scheme=SCHEME)
    minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
    return LeanMinHash(minhash)


def repeats(files: Iterable[tuple[str, Verdict]]) -> Iterator[str | None]:
    """For each file, with its split, why it says nothing new after those before it, or None.

    Compared with a file of another split, the reason is that it is near a held-out file.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    equal: dict[bytes, str] = {}
    kept: list[tuple[str, LeanMinHash]] = []
    for split, verdict in files:
        near = (kept[number] for number in index.query(verdict.signature))
        splits = {of for of, other in near if other.jaccard(verdict.signature) >= SIMILARITY}
        if verdict.digest in equal:
            splits.add(equal[verdict.digest])
        if splits:
            same = "duplicate" if verdict.digest in equal else "near duplicate"
            yield NEAR_HELD_OUT if splits - {split} else same
            continue
        index.insert(len(kept), verdict.signature, check_duplication=False)
        kept.append((split, verdict.signature))
        equal[verdict.digest] = split
        yield None


def judge(file: tuple[str, bytes], benchmark: Hashes, held_out: Hashes) -> Verdict:
    """Everything that can be said of a file, a path and its bytes, without looking at any other.

    `benchmark` holds the sorted, hashed 10-grams of benchmark solutions, `held_out` the runs
    of `HELD_OUT_RUN` tokens of held-out files.
    """
    path, raw = file
    reason = path_reason(path)
    if reason:
        return Verdict(path, reason)
    text = decode(raw)
    if text is None:
        return Verdict(path, "not UTF-8")
    # A file far too long is not worth cutting into tokens.
    tokens = code_tokens(text) if len(text) <= MAX_BYTES else []
    reason = text_reason(text, tokens) or licence_reason(text)
    if reason:
        return Verdict(path, reason)
    if len(common(hashed_grams(tokens, HELD_OUT_RUN), held_out)):
        return Verdict(path, NEAR_HELD_OUT)
    shared = common(hashed_grams(tokens, GRAM), benchmark)
    return Verdict(
        path,
        None,
        text,
        tokens=len(tokens),
        digest=hashlib.sha256("".join(text.split()).encode()).digest(),
        signature=signature(tokens),
        benchmark=tuple(int(gram) for gram in shared),
    )
