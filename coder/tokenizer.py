"""Text to token ids and back, for any byte-level BPE."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from talaria.coder.errors import CheckpointError

ALPHABET = ByteLevel(add_prefix_space=False, use_regex=False)
"""Writes each byte of a text as one character, as vocabularies do."""
TAIL = 200  # characters at the end of a prefix that are tokenised to find its last token


class Tokenizer:
    """Text to token ids and back; any text survives the round trip.

    Text never encodes to special tokens, so "<mask>" in a file is plain text. A lone surrogate,
    which UTF-8 cannot represent, is read as "?".

    special  the special tokens by name; their ids may lie anywhere
    """

    def __init__(self, bpe: tokenizers.Tokenizer, special: Mapping[str, int]) -> None:
        self._bpe = bpe
        self.special = dict(special)
        self._names = {token: name for name, token in self.special.items()}
        self._vocabulary: dict[str, int] = {}
        self._sorted: list[str] = []
        self._beginnings: dict[str, tuple[int, ...]] = {}
        self.vocab_size = max(bpe.get_vocab_size(), 1 + max(self.special.values(), default=-1))

    @staticmethod
    def read(path: Path) -> tokenizers.Tokenizer:
        """Read the BPE in a `tokenizer.json`; CheckpointError if it is damaged."""
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{path}: no readable tokenizer ({error}); "
                "fetch the model's folder again, or make one with `talaria tokenizer`"
            ) from error

    def save(self, path: Path) -> None:
        """Write the BPE as `tokenizer.json`."""
        self._bpe.save(str(path))

    def to_json(self) -> str:
        """The BPE and the special tokens as one text, for `from_json`."""
        return json.dumps({"special": self.special, "bpe": self._bpe.to_str()})

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote; ValueError if the text is damaged."""
        try:
            stored = json.loads(text)
            return Tokenizer(tokenizers.Tokenizer.from_str(stored["bpe"]), stored["special"])
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"no readable tokenizer ({error})") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, never a special one."""
        ids: list[int] = self._bpe.encode(_encodable(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        given = [_encodable(text) for text in texts]
        return [e.ids for e in self._bpe.encode_batch(given, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens have none, and broken UTF-8 becomes U+FFFD."""
        text: str = self._bpe.decode(
            [token for token in ids if token not in self._names], skip_special_tokens=False
        )
        return text

    def last_token(self, prefix: str) -> str:
        """The text of a prefix's last token, if healing may replace it by a longer one; else "".

        "ra" may become "range", and "(" may become "()". Line breaks and indentation are kept, but
        for the last space where the vocabulary has it in one token with the word that follows.
        """
        text = self.decode(self.encode(prefix[-TAIL:])[-1:])
        if "\ufffd" in text or not prefix.endswith(text):  # part of a character
            return ""
        if not text.isspace() or (text == " " and prefix[-2:-1].strip()):
            return text
        word = self.decode(self.encode(prefix[-TAIL:] + "x")[-1:])
        return " " if word == " x" else ""

    def prepare(self) -> None:
        """Sort the vocabulary for `beginning_with`, before a user waits for it."""
        if not self._sorted:
            every = self._bpe.get_vocab(with_added_tokens=False)
            self._vocabulary = {t: token for t, token in every.items() if token not in self._names}
            self._sorted = sorted(self._vocabulary)

    def beginning_with(self, text: str) -> tuple[int, ...]:
        """The tokens whose text begins with this one, which must not contain U+FFFD."""
        if text not in self._beginnings:
            self.prepare()
            start = "".join(piece for piece, _ in ALPHABET.pre_tokenize_str(text))
            found = takewhile(
                lambda token: token.startswith(start),
                islice(self._sorted, bisect_left(self._sorted, start), None),
            )
            self._beginnings[text] = tuple(self._vocabulary[token] for token in found)
        return self._beginnings[text]

    def name(self, token: int) -> str:
        """A token's text, or the name of a special token."""
        return self._names[token] if token in self._names else self.decode([token])


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which JSON from an editor may contain."""
    return text.encode("utf-8", "replace").decode()
