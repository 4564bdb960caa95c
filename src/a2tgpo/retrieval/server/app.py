"""Answer `/retrieve`, `/health` and `/metrics` in a FastAPI application."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from a2tgpo.retrieval.retriever import Hit, Retriever
from a2tgpo.retrieval.server.admission import Gate, Metrics, refusal
from a2tgpo.retrieval.server.batcher import Batcher
from a2tgpo.retrieval.server.limits import ServerLimits
from a2tgpo.retrieval.server.request import RefusedRequest, RetrieveRequest
from a2tgpo.retrieval.wire import FINGERPRINT_HEADER, write_result

logger = logging.getLogger(__name__)

_VERSION = version("a2tgpo")
_DETAIL_CHARS = 500
_CLIENT_GONE = 499  # what servers log for it by custom; nobody reads the answer


def make_app(retriever: Retriever, limits: ServerLimits, index: Mapping[str, Any] | None = None) -> FastAPI:
    """Make an application that answers `POST /retrieve` as Search-R1's retrieval server does.

    Args:
        retriever: any `Retriever`; called from one thread of the server.
        limits: what it accepts.
        index: the facts of the index's manifest, shown at `/health`. Their hash is the fingerprint by which
            clients cache: give None only when nothing states what the retriever searches.
    """
    fingerprint = None if index is None else _fingerprint(index)
    identity = {} if fingerprint is None else {FINGERPRINT_HEADER: fingerprint}
    metrics = Metrics(lambda: batcher.waiting)
    batcher = Batcher(retriever, limits.max_batch, limits.batch_wait_ms / 1000, metrics.batches.observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with batcher:
            yield

    app = FastAPI(title="a2tgpo retrieval", version=_VERSION, lifespan=lifespan)
    app.add_middleware(Gate, limits=limits, metrics=metrics)

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        try:
            asked = RetrieveRequest.parse(await request.body(), limits)
        except RefusedRequest as no:
            metrics.refusals.labels(no.error).inc()
            return refusal(no.status, no.error, no.detail)
        metrics.queries.inc(len(asked.queries))
        pieces = asyncio.gather(*map(asyncio.wrap_future, batcher.submit(asked.queries, asked.topk)))
        try:
            found = await _unless_gone(pieces, request)
            if found is None:
                return Response(status_code=_CLIENT_GONE)
            results = [hits for piece in found for hits in piece]
            # In a thread: tens of megabytes of JSON would keep /health and everybody else waiting.
            return await asyncio.to_thread(_answer, results, asked.return_scores, identity)
        except Exception as failure:
            logger.exception("the retriever failed on %d queries", len(asked.queries))
            return refusal(500, "RetrieverFailed", f"{type(failure).__name__}: {failure}"[:_DETAIL_CHARS])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "version": _VERSION, "fingerprint": fingerprint, "index": index}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _fingerprint(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _answer(results: list[list[Hit]], return_scores: bool, headers: dict[str, str]) -> Response:
    return JSONResponse(write_result(results, return_scores), headers=headers)


async def _unless_gone(pieces: asyncio.Future[list[list[list[Hit]]]], request: Request) -> list[list[list[Hit]]] | None:
    """Return the pieces, or None when the client hangs up first; what is not yet searched for it is then dropped."""
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        either: set[asyncio.Future[Any]] = {gone, pieces}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if pieces.done():
            return await pieces
        pieces.cancel()
        await asyncio.gather(pieces, return_exceptions=True)
        return None
    finally:
        gone.cancel()
        pieces.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
