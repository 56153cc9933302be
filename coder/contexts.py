"""Encoded contexts, kept from request to request, so that typing costs what changed.

The layout of a hole has the suffix before the prefix, and the prefix is cut at places
that typing seldom moves: from one keystroke to the next, all but the end stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from talaria.coder.denoiser import Denoiser, KVCache
from talaria.coder.errors import UsageError


@dataclass(frozen=True)
class Context:
    """Tokens that were read, and what is remembered of them, in one row."""

    ids: list[int]
    cache: KVCache


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share from their beginning on."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


class Contexts:
    """Contexts of several documents, together at most `capacity` tokens, latest use last.

    What is remembered of a token depends on those before it alone, so a reused context
    is the one that reading anew would give, to the accuracy of float32. A token takes
    8 × layers × width bytes in float32. Not for several threads.
    """

    def __init__(self, denoiser: Denoiser, capacity: int = 4096) -> None:
        if capacity < 1:
            raise UsageError(f"capacity is {capacity}; it must be at least 1 token")
        self.denoiser = denoiser
        self.capacity = capacity
        self.kept: deque[Context] = deque()

    @property
    def tokens(self) -> int:
        """How many tokens are remembered now."""
        return sum(len(context.ids) for context in self.kept)

    @torch.inference_mode()
    def encode(self, ids: Sequence[int]) -> tuple[KVCache, int]:
        """The encoded context `ids`, and how many of its tokens did not have to be read.

        It takes the place of the context that it shares most with, if that is half of
        that one or more: a document moves on. Otherwise it is another document.
        """
        ids = list(ids)
        shared, cache = 0, None
        if self.kept:
            lengths = [common_prefix(ids, context.ids) for context in self.kept]
            shared = max(lengths)
            nearest = self.kept[lengths.index(shared)]
            if shared:
                cache = nearest.cache.first(shared)
            if 2 * shared >= len(nearest.ids):
                self.kept.remove(nearest)
        if cache is None or shared < len(ids):
            _, cache = self.denoiser.encode([ids[shared:]], cache)
        self.kept.append(Context(ids, cache))
        # The newest stays, however long it is: it is being asked about.
        while self.tokens > self.capacity and len(self.kept) > 1:
            self.kept.popleft()
        return cache, shared
