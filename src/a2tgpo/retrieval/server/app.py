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
from pydantic import BaseModel

from a2tgpo.retrieval.retriever import Hit, Retriever
from a2tgpo.retrieval.server.admission import Gate, Metrics, refusal
from a2tgpo.retrieval.server.batcher import Batcher
from a2tgpo.retrieval.server.limits import ServerLimits
from a2tgpo.retrieval.wire import FINGERPRINT_HEADER, write_result

logger = logging.getLogger(__name__)

_VERSION = version("a2tgpo")
_CLIENT_GONE = 499  # what servers log for it by custom; nobody reads the answer


class RetrieveRequest(BaseModel):
    """Parse the body of `POST /retrieve`. A `topk` of null or 0 means the server's own."""

    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


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
    async def retrieve(body: RetrieveRequest, request: Request) -> Response:
        k = body.topk or limits.topk
        if no := _too_much(body.queries, k, limits):
            metrics.refusals.labels(no[1]).inc()
            return refusal(*no)
        metrics.queries.inc(len(body.queries))
        pieces = asyncio.gather(*map(asyncio.wrap_future, batcher.submit(body.queries, k)))
        try:
            found = await _unless_gone(pieces, request)
            if found is None:
                return Response(status_code=_CLIENT_GONE)
            answer = write_result([hits for piece in found for hits in piece], body.return_scores)
            return JSONResponse(answer, headers=identity)
        except Exception as failure:
            logger.exception("the retriever failed on %d queries", len(body.queries))
            return refusal(500, "RetrieverFailed", f"{type(failure).__name__}: {failure}")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "version": _VERSION, "fingerprint": fingerprint, "index": index}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _fingerprint(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _too_much(queries: list[str], k: int, limits: ServerLimits) -> tuple[int, str, str] | None:
    if not 1 <= k <= limits.max_topk:
        return 422, "TopkOutOfRange", f"topk={k}: must be from 1 to {limits.max_topk}"
    if len(queries) > limits.max_queries:
        return 422, "TooManyQueries", f"{len(queries)} queries: at most {limits.max_queries} in a request; send several"
    longest = max(range(len(queries)), key=lambda i: len(queries[i]), default=None)
    if longest is not None and (n_chars := len(queries[longest])) > limits.max_query_chars:
        return 413, "QueryTooLong", f"query {longest} has {n_chars} characters: at most {limits.max_query_chars}"
    return None


async def _unless_gone(pieces: asyncio.Future[list[list[list[Hit]]]], request: Request) -> list[list[list[Hit]]] | None:
    """Return the pieces, or None when the client hangs up first; what is not yet searched for it is then dropped."""
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        either: set[asyncio.Future[Any]] = {gone, pieces}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return await pieces if pieces.done() else None
    finally:
        gone.cancel()
        pieces.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
