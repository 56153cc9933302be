"""Who may use the server: bearer keys, known by their hashes alone, and how often each may ask.

A file of keys is TOML, a table a key, which `talaria serve --new-key NAME` writes:

    [keys.alice]
    sha256 = "…"
    per_minute = 300    # optional
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talaria.coder.errors import UsageError
from talaria.coder.serve.exchange import Refusal

BURST = 10.0  # seconds' worth of requests that may come at once
PREFIX = "talaria-"  # by which people and scanners for secrets know such a key
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Key:
    """A key: whose it is, the SHA-256 of what is sent, and requests a minute (None: no limit).

    A key has 256 random bits, so one round of a fast hash protects it.
    """

    name: str
    digest: bytes
    per_minute: float | None = None


class Keys:
    """The keys of a file, and what is left of each rate; `clock` counts seconds."""

    def __init__(self, keys: Iterable[Key], clock: Callable[[], float] = time.monotonic) -> None:
        self.keys, self.clock = tuple(keys), clock
        self._buckets = {key.name: Bucket(key.per_minute, clock) for key in self.keys}

    def owner(self, authorization: str | None) -> str:
        """The name of the key in a header; Refusal if there is none, or no such key."""
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise Refusal(
                "no key was sent; send one as `Authorization: Bearer KEY`",
                401,
                "authentication_error",
            )
        digest, found = hashlib.sha256(sent.strip().encode()).digest(), None
        for key in self.keys:  # all of them, so that time does not tell which are near
            if hmac.compare_digest(digest, key.digest):
                found = key
        if found is None:
            raise Refusal(
                "this key is not known here; ask the server's operator for one",
                401,
                "authentication_error",
            )
        return found.name

    def spend(self, owner: str) -> None:
        """Count a request against a key's rate; Refusal if none is left."""
        if wait := self._buckets[owner].take():
            raise Refusal(
                f"this key may ask {self._buckets[owner].per_minute:g} times a minute; ask again "
                f"in {wait:.1f} s",
                429,
                "rate_limit_error",
                retry_after=wait,
            )


class Bucket:
    """A rate with bursts of up to BURST seconds (a token bucket)."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float]) -> None:
        self.per_minute, self.clock = per_minute, clock
        self.most = max(1.0, BURST * (per_minute or 0) / 60)
        self.left, self.since = self.most, clock()

    def take(self) -> float:
        """Take one request out; 0, or the seconds until there is one."""
        if self.per_minute is None:
            return 0.0
        now, rate = self.clock(), self.per_minute / 60
        self.left = min(self.most, self.left + rate * (now - self.since))
        self.since = now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


def read(path: Path) -> list[Key]:
    """The keys of a file; UsageError names what is wrong with it."""
    try:
        with path.open("rb") as file:
            tables: Any = tomllib.load(file).get("keys")
    except OSError as error:
        raise UsageError(f"--keys {path}: {error.strerror}; name a file that can be read") from None
    except ValueError as error:
        raise UsageError(f"--keys {path}: not TOML ({error}); correct it") from None
    if not isinstance(tables, dict) or not tables:
        raise UsageError(f"--keys {path}: no keys; `talaria serve --new-key NAME` makes one")
    return [key_of(path, name, table) for name, table in tables.items()]


def key_of(path: Path, name: str, table: Any) -> Key:
    """A key by its table."""
    fields = table if isinstance(table, dict) else {}
    digest, rate = fields.get("sha256"), fields.get("per_minute")
    if unknown := fields.keys() - {"sha256", "per_minute"}:
        raise UsageError(
            f"--keys {path}: {name} has {min(unknown)!r}; there are sha256 and per_minute"
        )
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UsageError(f"--keys {path}: sha256 of {name} must be 64 lowercase hexadecimal digits")
    numeric = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (numeric and 0 < rate < math.inf):
        raise UsageError(
            f"--keys {path}: per_minute of {name} is {rate!r}; it must be a positive number"
        )
    return Key(name, bytes.fromhex(digest), rate)


def new(name: str) -> tuple[str, str]:
    """A new key, which nobody can tell again, and the table for the file."""
    if not NAME.fullmatch(name):
        raise UsageError(f"--new-key is {name!r}; give letters, digits, - or _, at most 64")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f'[keys.{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
