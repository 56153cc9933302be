"""Byte-level BPE for Python, and the layout in which a model reads a file with a hole."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from talaria.coder.errors import CheckpointError

# A line break takes the indentation after it along; a run of blanks at the
# beginning of a span is a piece of its own. Words carry one blank before them
# and the underscores on their left, so `max_length` is `max` + `_length`.
PIECES = (
    r"\r?\n[\r\n\t ]*"
    r"| {2,}|\t+"
    r"| ?_*\p{L}[\p{L}\p{M}]*(?:__)?"
    r"| ?\p{N}{1,3}"
    r"| ?_+"
    r"| ?[^\s\p{L}\p{N}_]+"
    r"|\s"
)

TAIL = 200  # characters at the end of a prefix that its last token is looked for in
SPECIAL = ("<mask>", "<eom>", "<suf>", "<pre>", "<mid>", "<file>")


class Tokenizer:
    """Text to token ids and back; any text survives the round trip.

    Special tokens lie above the ids of the BPE and are never read out of text,
    so a file that contains "<mask>" is only text. A lone surrogate, which has no
    bytes, is read as "?".
    """

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self._bpe = bpe
        first = bpe.get_vocab_size()
        self.mask, self.eom, self.suf, self.pre, self.mid, self.file = range(
            first, first + len(SPECIAL)
        )
        self.vocab_size = first + len(SPECIAL)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a BPE of `vocab_size` tokens, special ones included."""
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read `tokenizer.json`; a CheckpointError says what is wrong with it."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{path}: no readable tokenizer ({error}); "
                "fetch the model's folder again, or make one with `talaria tokenizer`"
            ) from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        self._bpe.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, never a special one."""
        ids: list[int] = self._bpe.encode(_with_bytes(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        given = [_with_bytes(text) for text in texts]
        return [e.ids for e in self._bpe.encode_batch(given, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special tokens have none, broken UTF-8 becomes U+FFFD."""
        text: str = self._bpe.decode([i for i in ids if i < self.mask], skip_special_tokens=False)
        return text

    def last_token(self, prefix: str) -> str:
        """The text of a prefix's last token, if it may turn out to be the beginning of another.

        "ra" may become "range", and "(" become "()". Line breaks and indentation stay as they are.
        """
        text = self.decode(self.encode(prefix[-TAIL:])[-1:])
        if "\ufffd" in text or not prefix.endswith(text):  # a part of a character
            return ""
        between = text == " " and bool(prefix[-2:-1].strip())
        return text if between or not text.isspace() else ""

    @cached_property
    def _by_text(self) -> list[tuple[str, int]]:
        return sorted((self.decode([token]), token) for token in range(self.mask))

    def beginning_with(self, text: str) -> list[int]:
        """The tokens whose text begins with this one, which has no U+FFFD in it."""
        known = self._by_text
        found = takewhile(
            lambda entry: entry[0].startswith(text), islice(known, bisect(known, (text,)), None)
        )
        return [token for _, token in found]

    def name(self, token: int) -> str:
        """What a person calls the token: its text, or the name of a special one."""
        return SPECIAL[token - self.mask] if token >= self.mask else self.decode([token])

    def layout(
        self, prefix: Sequence[int], suffix: Sequence[int], files: Sequence[int] = ()
    ) -> list[int]:
        """The context of a hole: other files, `<suf> suffix <pre> prefix <mid>`.

        The prefix stands last, so that typing appends and all before it stays cached.
        """
        return [*files, self.suf, *suffix, self.pre, *prefix, self.mid]

    def file_header(self, path: str) -> list[int]:
        """What stands before a piece of another file: `<file>` and its path."""
        return [self.file, *self.encode(f"{path}\n")]


def _with_bytes(text: str) -> str:
    """The text as UTF-8 can say it: editors' JSON may bring half of a character."""
    return text.encode("utf-8", "replace").decode()


def training_texts(texts: Iterable[str]) -> Iterator[str]:
    """Texts as the BPE should see them: whole, and the indentation of every line alone.

    A span that begins at a line's start begins with its indentation without the
    line break; alone, these runs become single tokens too.
    """
    for text in texts:
        yield text
        for line in text.splitlines():
            blank = len(line) - len(line.lstrip(" "))
            if blank > 1:
                yield line[:blank]
