"""The entrance to `POST /retrieve`: counts, times and bounds what comes in, before any of it is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from a2tgpo.retrieval.server.refusal import refusal

if TYPE_CHECKING:
    from fastapi.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from a2tgpo.retrieval.server.limits import ServerLimits
    from a2tgpo.retrieval.server.metrics import Metrics

_MEBI = 1024 * 1024


class Gate:
    """ASGI middleware that holds at most `concurrency` requests, each of at most `max_body_mb`.

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
