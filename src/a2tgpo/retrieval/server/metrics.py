"""What a retrieval server counts, in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server, in a registry of their own: `a2tgpo_retrieval_*`, and Prometheus' own `process_*`.

    Args:
        waiting: tells the number of queries in the queue, asked at every scrape.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        name = "a2tgpo_retrieval_{}".format
        self.requests = Counter(name("requests"), "Answers to /retrieve by status", ["status"], registry=registry)
        self.refusals = Counter(name("refusals"), "Requests refused, by reason", ["reason"], registry=registry)
        self.queries = Counter(name("queries"), "Queries accepted", registry=registry)
        self.seconds = Histogram(
            name("request_seconds"), "Seconds from a request to its answer", buckets=_SECONDS, registry=registry
        )
        self.batches = Histogram(
            name("batch_queries"),
            "Distinct queries per call of the retriever",
            buckets=[2**power for power in range(13)],
            registry=registry,
        )
        depth = Gauge(name("queue_depth"), "Queries that wait for the retriever", registry=registry)
        depth.set_function(waiting)
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """All of them, as a scrape reads them."""
        return generate_latest(self._registry)
