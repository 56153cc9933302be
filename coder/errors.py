"""What can go wrong, as one tree of exceptions.

TalariaError                 it could not be done; exit code 1
├── SourceError              the file or text to fill
├── CheckpointError          a model's folder
│   └── BaseMissingError     what it adapts has not been fetched
├── FetchError               a base that cannot be fetched
├── DataError                a corpus, a tokenizer or a data set
├── Interrupted              Ctrl-C ended it; exit code 130
└── UsageError               the request itself is wrong; exit code 2

Each message is one line for a person: the value found, the limit, the remedy.
"""

from __future__ import annotations


class TalariaError(Exception):
    """It could not be done, for the reason that the message gives."""

    exit_code = 1


class SourceError(TalariaError):
    """The file or text to fill cannot be used."""


class CheckpointError(TalariaError):
    """A model's folder is missing, damaged or of another format."""


class BaseMissingError(CheckpointError):
    """A model's base is not here, and nothing that was prepared from it can be used."""


class FetchError(TalariaError):
    """A base cannot be fetched: no source has it, or there is no place to put it."""


class DataError(TalariaError):
    """A corpus, a tokenizer or a data set is missing, damaged or does not fit."""


class Interrupted(TalariaError):
    """The user ended it; the message says what is kept."""

    exit_code = 130  # as shells have it: 128 and the number of the signal


class UsageError(TalariaError):
    """The request itself is wrong: an unknown option or a value out of range."""

    exit_code = 2
