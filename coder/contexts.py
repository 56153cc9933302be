"""KV caches of recent contexts, kept from request to request: typing costs what changed.

The layout puts the suffix before the prefix and cuts the prefix at places that typing seldom
moves, so that all but the end stays from one keystroke to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from talaria.coder.backbone import Backbone, KVCache
from talaria.coder.errors import UsageError

CAPACITY = 4096  # tokens of recent contexts: a few documents


@dataclass(frozen=True)
class Context:
    """Tokens that were read, in one row, and their keys and values."""

    ids: list[int]
    cache: KVCache


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


class Contexts:
    """Contexts of several documents, at most `capacity` tokens together, latest use last.

    Keys and values depend only on the tokens before them, so a reused context equals a fresh one
    to the accuracy of float32. A token takes 8 × layers × width bytes in float32. Not thread-safe.
    """

    def __init__(self, backbone: Backbone, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise UsageError(f"capacity is {capacity}; it must be at least 1 token")
        self.backbone = backbone
        self.capacity = capacity
        self.kept: deque[Context] = deque()

    @property
    def tokens(self) -> int:
        """How many tokens are kept now."""
        return sum(len(context.ids) for context in self.kept)

    def encode(
        self, ids: Sequence[int], stop: Callable[[], object] = lambda: None
    ) -> tuple[KVCache | None, int]:
        """The KV cache of a context, and how many of its tokens were reused.

        It replaces the kept context with the longest common prefix if that prefix is at least half
        of the kept one: the document was edited. Otherwise it counts as another document. `stop` is
        asked before every pass; if it is true, there is no cache, and what was read is kept.
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
        step = self.backbone.pass_length or max(1, len(ids))
        read = shared
        while (cache is None or read < len(ids)) and not stop():
            _, cache = self.backbone.encode([ids[read : read + step]], cache)
            read = min(len(ids), read + step)
        if cache is None:
            return None, shared
        self.kept.append(Context(ids[:read], cache))
        # Never evict the newest: it is in use.
        while self.tokens > self.capacity and len(self.kept) > 1:
            self.kept.popleft()
        return cache if read == len(ids) else None, shared
