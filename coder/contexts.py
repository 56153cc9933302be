"""KV caches of recent contexts, kept from request to request: typing costs what changed.

The layout puts the suffix before the prefix and cuts the prefix at places that typing seldom
moves, so that all but the end stays from one keystroke to the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from talaria.coder.backbone import Backbone, KVCache
from talaria.coder.errors import UsageError
from talaria.coder.machine import Pace

CAPACITY = 4096  # tokens of recent contexts: a few documents
# Tokens read at once where nobody waits for them yet: a request that comes meanwhile waits for one
# such pass, a fifth of a second on a processor without VNNI.
AHEAD = 32
STEPS = 3  # timed at the start


@dataclass(frozen=True, eq=False)
class Context:
    """Tokens that were read, in one row, and their keys and values; only its owner may use them.

    written  how many of them, the last ones, a model wrote
    """

    ids: list[int]
    cache: KVCache
    owner: Hashable = None
    written: int = 0

    def became(self, shared: int) -> bool:
        """Whether what shares so many tokens with it is the same document, edited."""
        return 2 * shared >= len(self.ids) - self.written

    @property
    def bytes(self) -> int:
        """Bytes of its keys and values."""
        return sum(int(each.nbytes) for each in (*self.cache.keys, *self.cache.values))


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


class Contexts:
    """Contexts of several documents, at most `capacity` tokens together, latest use last.

    Keys and values depend only on the tokens before them, so a reused context equals a fresh one
    to the accuracy of float32. A token takes 8 × layers × width bytes in float32. For any number of
    threads, if the backbone is.

    most_bytes  a limit instead of `capacity`
    pace        how fast contexts are read, as timed here
    """

    def __init__(
        self, backbone: Backbone, capacity: int = CAPACITY, most_bytes: int | None = None
    ) -> None:
        if capacity < 1:
            raise UsageError(f"capacity is {capacity}; it must be at least 1 token")
        self.backbone = backbone
        self.capacity, self.most_bytes = capacity, most_bytes
        self.pace = Pace()
        self.kept: tuple[Context, ...] = ()  # replaced, never changed: other threads look at it
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """How many tokens are kept now."""
        return sum(len(context.ids) for context in self.kept)

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept now."""
        return sum(context.bytes for context in self.kept)

    def unread(self, ids: Sequence[int], owner: Hashable = None) -> int:
        """How many tokens of a context would have to be read."""
        return len(ids) - self._nearest(ids, owner)[0]

    def encode(
        self,
        ids: Sequence[int],
        stop: Callable[[], object] = lambda: None,
        *,
        ahead: bool = False,
        owner: Hashable = None,
        leave: int = 0,
    ) -> tuple[KVCache | None, int]:
        """The KV cache of a context, and how many of its tokens were reused.

        With `leave`, the cache lacks the last tokens: those that would have to be read, at most so
        many, and one if there are none. Whoever reads them with what follows saves a pass, and
        keeps what was read by `extend`.

        It replaces the kept context with the longest common prefix if that prefix is at least half
        of the kept one: the document was edited. Otherwise it counts as another document. `stop` is
        asked before every pass; if it is true, there is no cache, and what was read is kept. Passes
        are short if nobody waits for this context yet (`ahead`). Contexts of other owners are never
        looked at.
        """
        ids, cache, edited = list(ids), None, None
        shared, nearest = self._nearest(ids, owner)
        if nearest and shared:
            cache = nearest.cache.first(shared)
        if nearest and nearest.became(shared):
            edited = nearest
        step = self.backbone.pass_length or max(1, len(ids))
        step = min(step, AHEAD) if ahead else step
        read, end = shared, len(ids)
        if leave:
            end = max(1, end - min(leave, max(1, end - shared)))
        if cache is not None:
            edited = self._keep(edited, Context(ids[:read], cache, owner))
        while (cache is None or read < end) and not stop():
            more, cache = self._read(ids[read : min(read + step, end)], cache)
            read += more
            edited = self._keep(edited, Context(ids[:read], cache, owner))
        if cache is None or read < end:
            return None, shared
        return cache if read == end else cache.first(end), shared

    def extend(
        self, ids: Sequence[int], cache: KVCache, written: int, owner: Hashable = None
    ) -> None:
        """Keep what was read of a context and of `written` tokens behind it, in its place.

        Nothing is kept that is known already.
        """
        shared, nearest = self._nearest(ids, owner)
        if shared < len(ids):
            edited = nearest if nearest and nearest.became(shared) else None
            self._keep(edited, Context([*ids], cache, owner, written))

    def warm_up(self) -> None:
        """Time passes of every kind, which the first request then needs not wait for."""
        tokens = [self.backbone.marks.eom] * AHEAD
        _, cache = self._read(tokens, None)
        for token in tokens[:STEPS]:
            self._read([token], cache)

    def _read(self, tokens: list[int], cache: KVCache | None) -> tuple[int, KVCache]:
        """Read tokens behind a cache; how many they are, and the cache with them."""
        began = time.perf_counter()
        _, cache = self.backbone.encode([tokens], cache)
        self.pace.passed(len(tokens), time.perf_counter() - began)
        return len(tokens), cache

    def _nearest(self, ids: Sequence[int], owner: Hashable) -> tuple[int, Context | None]:
        """The length of the longest common prefix with a kept context, and the context."""
        own = [each for each in self.kept if each.owner == owner]
        lengths = [common_prefix(ids, each.ids) for each in own]
        shared = max(lengths, default=0)
        return shared, own[lengths.index(shared)] if own else None

    def _keep(self, edited: Context | None, context: Context) -> Context:
        """Keep a context in the place of another; the least recently used may have to go."""
        with self._lock:
            kept = [*(each for each in self.kept if each is not edited), context]
            # Never evict the newest: it is in use.
            while self._over(kept) and len(kept) > 1:
                del kept[0]
            self.kept = tuple(kept)
        return context

    def _over(self, kept: Sequence[Context]) -> bool:
        """Whether this is more than may be kept."""
        if self.most_bytes is not None:
            return sum(each.bytes for each in kept) > self.most_bytes
        return sum(len(each.ids) for each in kept) > self.capacity
