"""Count, time and bound what comes in at `POST /retrieve`, before any of it is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from a2tgpo.retrieval.server.limits import ServerLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MEBI = 1024 * 1024
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Count what one server does: `a2tgpo_retrieval_*` and Prometheus' own `process_*`, in a registry of their own.

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
        """Return all of them, as a scrape reads them."""
        return generate_latest(self._registry)


class Gate:
    """Hold at most `concurrency` requests, each of at most `max_body_mb` (ASGI middleware).

    One request more is answered 503 with Retry-After at once, so a server under too much load stays quick and
    its memory bounded. `/health` and `/metrics` always pass.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/retrieve":
            return await self._app(scope, receive, send)
        start = time.perf_counter()

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(message["status"]).inc()
                self._metrics.seconds.observe(time.perf_counter() - start)
            await send(message)

        if no := self._refusal(dict(scope["headers"])):
            return await no(scope, receive, counted_send)
        self._inside += 1
        try:
            await self._app(scope, receive, counted_send)
        finally:
            self._inside -= 1

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        limits, length = self._limits, headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers:
            return self._counted(411, "LengthRequired", "send the request with a Content-Length, not in chunks")
        if int(length) > limits.max_body_mb * _MEBI:
            return self._counted(
                413,
                "BodyTooLarge",
                f"the request has {int(length)} bytes and max_body_mb is {limits.max_body_mb}; send fewer queries",
            )
        if self._inside >= limits.concurrency:
            return self._counted(503, "Busy", f"{self._inside} requests are being answered; try again in a second")
        return None

    def _counted(self, status: int, error: str, detail: str) -> JSONResponse:
        self._metrics.refusals.labels(error).inc()
        return refusal(status, error, detail)


def refusal(status: int, error: str, detail: str) -> JSONResponse:
    """Answer `{"error": error, "detail": detail}`: a name for programs, a sentence for people."""
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": error, "detail": detail}, status, headers)
