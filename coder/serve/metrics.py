"""What the server tells Prometheus. No label holds anything that a client wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from talaria.coder.serve.desk import Answering
    from talaria.coder.serve.exchange import Given

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS_PER_FORWARD = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8)


class Metrics:
    """Counters, histograms and gauges in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "talaria_requests",
            "Requests by wire format and HTTP status",
            ["format", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "talaria_request_seconds",
            "From a request's headers to the end of its answer",
            ["format"],
            buckets=SECONDS,
            registry=registry,
        )
        self.engine_seconds = Histogram(
            "talaria_engine_seconds",
            "What the engine took for an answered request, waiting excluded",
            buckets=SECONDS,
            registry=registry,
        )
        self.nfe = Histogram(
            "talaria_nfe", "Evaluations for a request", buckets=COUNTS, registry=registry
        )
        self.tokens_per_forward = Histogram(
            "talaria_tokens_per_forward",
            "Tokens that a request got per evaluation",
            buckets=TOKENS_PER_FORWARD,
            registry=registry,
        )
        self.context = Counter(
            "talaria_context_tokens",
            "Tokens of contexts, by where they came from",
            ["source"],
            registry=registry,
        )
        self.shared = Histogram(
            "talaria_pass_requests",
            "Requests that shared a pass of the model",
            buckets=range(1, 17),
            registry=registry,
        )
        self.cache = Gauge(
            "talaria_context_cache_bytes", "Bytes of contexts that are kept", registry=registry
        )
        self.admitted = Gauge(
            "talaria_requests_admitted", "Requests that wait or are computed", registry=registry
        )
        self.ready = Gauge(
            "talaria_ready", "1 if a request would be admitted now", registry=registry
        )

    def watch(self, desk: Answering, kept_bytes: Callable[[], float] = lambda: 0) -> None:
        """Read the gauges off a desk, and off the cache of its engine."""
        self.admitted.set_function(lambda: desk.admitted)
        self.ready.set_function(lambda: desk.ready)
        self.cache.set_function(kept_bytes)

    def answered(self, given: Given) -> None:
        """Count an outcome of the engine."""
        self.engine_seconds.observe(given.elapsed_ms / 1000)
        self.nfe.observe(given.nfe)
        if given.nfe:
            self.tokens_per_forward.observe(given.written / given.nfe)
        self.context.labels("read").inc(given.context - given.reused)
        self.context.labels("cache").inc(given.reused)

    def replied(self, kind: str, status: int, seconds: float) -> None:
        """Count an answer of the server."""
        self.requests.labels(kind, str(status)).inc()
        self.seconds.labels(kind).observe(seconds)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
