"""Bound what a retrieval server accepts, and say how it forms batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Hold the bounds of one server; every one is a flag of `a2tgpo serve`. All are above 0; `batch_wait_ms` may be 0.

    The defaults let Search-R1's trainer send all rollouts of a step in one request (512 questions x 5), and
    verl's 120 search workers one request each.

    Raises:
        ValueError: a bound that no request could meet.
    """

    topk: int = field(default=3, metadata={"help": "passages per query when a request names no topk"})
    max_topk: int = field(default=100, metadata={"help": "most passages per query"})
    max_queries: int = field(default=4096, metadata={"help": "most queries in a request"})
    max_passages: int = field(default=65536, metadata={"help": "most passages in an answer: queries times topk"})
    max_query_chars: int = field(default=16384, metadata={"help": "most characters in a query"})
    max_body_mb: int = field(default=16, metadata={"help": "most MiB of JSON in a request"})
    body_timeout_s: float = field(default=10.0, metadata={"help": "seconds a request may take to arrive"})
    concurrency: int = field(default=256, metadata={"help": "requests held at once; one more is refused with 503"})
    max_batch: int = field(default=256, metadata={"help": "most queries in one call of the retriever"})
    batch_wait_ms: float = field(
        default=2.0, metadata={"help": "milliseconds the first query of a batch waits for others"}
    )

    def __post_init__(self) -> None:
        for bound in fields(self):
            value, least = getattr(self, bound.name), 0 if bound.name == "batch_wait_ms" else 1
            if not least <= value < math.inf:
                raise ValueError(f"{bound.name}={value}: must be at least {least}")
        if self.topk > self.max_topk:
            raise ValueError(f"topk={self.topk}: must be at most max_topk={self.max_topk}")
