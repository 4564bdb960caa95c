"""Count, time and bound what comes in at `POST /retrieve`, before any of it is read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from a2tgpo.retrieval.server.limits import ServerLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

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
    """Read requests whole, and hold at most `concurrency` of them, each of at most `max_body_mb` (ASGI middleware).

    One request more is answered 503 with Retry-After at once, so a server under too much load stays quick and its
    memory bounded. A body must arrive within `body_timeout_s`; until it has, it takes nobody's place, and all that is
    arriving together takes no more memory than `concurrency` MiB, or one largest body. `/health` and `/metrics` always
    pass. Whatever the application raises is answered 500 and counted.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._inside = 0
        self._arriving = 0  # bytes of bodies that are not complete
        self._most_arriving = max(limits.concurrency, limits.max_body_mb) * _MEBI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/retrieve":
            return await self._app(scope, receive, send)
        start, started = time.perf_counter(), False

        async def counted_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.requests.labels(message["status"]).inc()
                self._metrics.seconds.observe(time.perf_counter() - start)
            await send(message)

        try:
            answer = await self._pass(scope, receive, counted_send)
        except Exception:
            if started:
                raise
            logger.exception("a request failed")
            answer = refusal(500, "ServerFailed", "the server failed; its log says how")
        if answer is not None:
            await answer(scope, receive, counted_send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> JSONResponse | None:
        """Let the application answer, or return the refusal to be sent; None where all is said."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers:
            return self._refused(411, "LengthRequired", "send the request with a Content-Length, not in chunks")
        if not length.isdigit() or int(length) > self._limits.max_body_mb * _MEBI:
            return self._refused(
                413,
                "BodyTooLarge",
                f"the request has {length.decode()} bytes and max_body_mb is {self._limits.max_body_mb}; "
                "send fewer queries",
            )
        if self._inside >= self._limits.concurrency:
            return self._busy()
        try:
            body = await asyncio.wait_for(self._body(receive), self._limits.body_timeout_s)
        except _Crowded:
            return self._busy()
        except TimeoutError:
            return self._refused(
                408, "BodyTimeout", f"the request took longer than {self._limits.body_timeout_s:g} seconds to arrive"
            )
        if body is None:
            return None  # the client hung up
        if self._inside >= self._limits.concurrency:
            return self._busy()
        self._inside += 1
        try:
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._inside -= 1
        return None

    async def _body(self, receive: Receive) -> bytes | None:
        """Return all of a body, or None when the client hangs up; raise `_Crowded` where there is no room for it."""
        parts: list[bytes] = []
        n_bytes = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                n_bytes += len(parts[-1])
                self._arriving += len(parts[-1])  # what has come, not what was announced: an announcement costs nothing
                if self._arriving > self._most_arriving:
                    raise _Crowded
                if not message.get("more_body", False):
                    return b"".join(parts)
        finally:
            self._arriving -= n_bytes

    def _busy(self) -> JSONResponse:
        return self._refused(503, "Busy", f"{self._inside} requests are being answered; try again in a second")

    def _refused(self, status: int, error: str, detail: str) -> JSONResponse:
        self._metrics.refusals.labels(error).inc()
        return refusal(status, error, detail)


class _Crowded(Exception):
    """Say that the bodies which are arriving take all the memory they may."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read as one message, then whatever comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def refusal(status: int, error: str, detail: str) -> JSONResponse:
    """Answer `{"error": error, "detail": detail}`: a name for programs, a sentence for people."""
    headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(status)
    return JSONResponse({"error": error, "detail": detail}, status, headers)
