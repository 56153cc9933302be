"""Code tokens of Python text, and hashes of their n-grams."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# One alternative per kind of token and no groups: `findall` is then about ten times faster
# than `tokenize`, which would take most of the build's time.
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


def code_tokens(text: str) -> list[str]:
    """Split text into names, numbers, operators and strings, without comments and layout."""
    # A lone backslash continues a line, so it is layout too.
    return [token for token in TOKEN.findall(text) if token[0] not in "#\\"]


def hashed_grams(tokens: Sequence[str], length: int) -> Hashes:
    """Sorted, distinct 64-bit hashes of all `length`-grams; the same on every machine."""
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
    """Sorted, distinct hashes of all `length`-grams of code tokens in these texts."""
    grams = [hashed_grams(code_tokens(text), length) for text in texts]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *grams]))


def shared_grams(grams: Hashes, known: Hashes) -> Hashes:
    """The members of `grams` that also occur in `known`, which must be sorted."""
    if not len(known):
        return known
    places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    found: Hashes = grams[known[places] == grams]
    return found
