"""The seam to a model's format: how a hole and the text around it become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from talaria.coder.source import Piece
from talaria.coder.tokenizer import Tokenizer

LONGEST_TOKEN = 12  # characters that a token has at most, on average over a text
FILES = 1 / 3  # the share of a context that excerpts of other files may take
SUFFIX = 2 / 5  # the share of the rest that the suffix may take


@dataclass(frozen=True)
class Layout:
    """A context with the suffix first: `[files] head suffix between prefix tail`, then the middle.

    The prefix stands last, so that typing appends and everything before it stays in the KV cache.
    Prefix, suffix and middle are tokenised apart.

    head, between, tail  the sentinels of the format
    file                 the sentinels before an excerpt of another file and its path; None: other
                         files are not supported yet, so they are left out
    stride               characters of a long prefix that are dropped at once, in multiples of the
                         room; tokens count from what is left, so a step moves all of them
    """

    tokenizer: Tokenizer
    head: tuple[int, ...]
    between: tuple[int, ...]
    tail: tuple[int, ...] = ()
    file: tuple[int, ...] | None = None
    stride: int = 1

    def arrange(
        self, prefix: Sequence[int], suffix: Sequence[int], files: Sequence[int] = ()
    ) -> list[int]:
        """The context of a hole whose parts are already tokens."""
        return [*files, *self.head, *suffix, *self.between, *prefix, *self.tail]

    def file_header(self, path: str) -> list[int]:
        """The tokens before an excerpt of another file."""
        assert self.file is not None
        return [*self.file, *self.tokenizer.encode(f"{path}\n")]

    def fit(self, prefix: str, suffix: str, room: int, files: Sequence[Piece] = ()) -> list[int]:
        """The context of a hole in at most `room` tokens; the sentinels are there in any case."""
        room = max(0, room - len(self.head) - len(self.between) - len(self.tail))
        beside = self.fit_files(files, int(FILES * room))
        room -= len(beside)
        most = int(SUFFIX * room)
        after = tokens_of(self.tokenizer, suffix[: LONGEST_TOKEN * most])[:most]
        before = self.fit_prefix(prefix, room - len(after))
        return self.arrange(before, after, beside)

    def fit_prefix(self, text: str, room: int) -> list[int]:
        """The last tokens of a prefix, at most `room`, cut at a place that typing seldom moves.

        Text and tokens are dropped in coarse steps: a few more characters at the end leave the
        beginning unchanged, and the KV cache with it.
        """
        if not room:
            return []
        reach, stride = 8 * room, self.stride * room
        excess = max(0, len(text) - reach)
        start = -(-excess // stride) * stride
        if start:
            start = text.find("\n", start, start + room) + 1 or start
        ids = tokens_of(self.tokenizer, text[start:])
        step = max(1, room // 4)
        return [*ids[-(-max(0, len(ids) - room) // step) * step :]]

    def fit_files(self, files: Sequence[Piece], room: int) -> list[int]:
        """The last of the excerpts that `room` tokens hold, each behind its header."""
        found: list[int] = []
        for piece in reversed(files if self.file is not None else ()):
            ids = [*self.file_header(piece.path), *self.tokenizer.encode(piece.text)]
            if len(found) + len(ids) > room:
                break
            found = ids + found
        return found


@lru_cache(maxsize=8)
def tokens_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text, which is often the same from one request to the next."""
    return tuple(tokenizer.encode(text))
