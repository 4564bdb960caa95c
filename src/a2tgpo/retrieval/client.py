"""Ask a retrieval server: `a2tgpo serve`, Search-R1's, or any other that speaks their JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from urllib3 import PoolManager, Retry
from urllib3.exceptions import HTTPError, ReadTimeoutError

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval.retriever import Hit
from a2tgpo.retrieval.wire import FINGERPRINT_HEADER, read_result

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from a2tgpo.retrieval.query_cache import QueryCache

_CONNECTIONS = 32  # kept open for reuse; more threads than this still work
_HEALTH_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 10.0
_JITTER_S = 0.25


class HTTPRetriever:
    """Send queries to a retrieval server in batches; any failure raises, so no result is empty by accident.

    A connection that fails and the statuses 502, 503 and 504 are tried again: once at once, then after pauses that
    double (0.5, 1, 2, ... at most 10 seconds, plus jitter), or after the one that the server asks for with
    Retry-After. A request that timed out is not: the server may still be working at it. One client serves any
    number of threads.

    With `cache_dir` every answered query is kept on disk (pip install 'a2tgpo[server]'), and answered from
    there when the server is gone. The key is the fingerprint of the server's index, where its `/health` states
    one, as ours does; otherwise the URL, and then the folder must be deleted when the index behind the URL
    changes. The cache takes at most 1 GB; the oldest answers go first.

    Args:
        url: `http://host:port`, with or without `/retrieve` at its end.
        timeout_s: seconds to wait for a connection, and for the server's next bytes; above 0.
        retries: how often a request is sent again; 0 or more.
        batch_size: most queries per request, 1 or more.
        cache_dir: folder of the cache; None caches nothing.

    Raises:
        ValueError: an argument outside its range.
        RetrieverError: the cache cannot be opened.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 20.0,
        retries: int = 5,
        batch_size: int = 256,
        cache_dir: str | Path | None = None,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ValueError(f"url={url!r}: must be like http://127.0.0.1:8000")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s}: must be above 0 seconds")
        if retries < 0:
            raise ValueError(f"retries={retries}: must be at least 0")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self.url = url.rstrip("/").removesuffix("/retrieve")
        self.timeout_s = timeout_s
        self.batch_size = batch_size
        self._pool = PoolManager(maxsize=_CONNECTIONS, retries=_retry(retries))
        self._index: str | None = None  # fingerprint, or URL, that the cache's keys begin with
        self._cache: QueryCache | None = None
        if cache_dir is not None:
            from a2tgpo.retrieval.query_cache import QueryCache

            self._cache = QueryCache(cache_dir)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the server's k best passages for each query, best first; each distinct query is asked once.

        Raises:
            ValueError: k is below 1, or `queries` is one string.
            RetrieverError: the server is gone, too slow, refuses, or answers what is not a result.
        """
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if isinstance(queries, str):
            raise ValueError(f"queries={queries!r} is one string; give a list of queries")
        distinct = list(dict.fromkeys(queries))
        found = {} if self._cache is None else self._cache.get(self._known_index(self._cache), k, distinct)
        missing = [query for query in distinct if query not in found]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            found.update(zip(batch, self._ask(batch, k), strict=True))
        return [list(found[query]) for query in queries]

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        body = json.dumps({"queries": queries, "topk": k, "return_scores": True}).encode()
        response = self._send(
            "POST", "/retrieve", body=body, headers={"Content-Type": "application/json"}, timeout=self.timeout_s
        )
        if response.status != 200:
            raise RetrieverError(f"{self.url}/retrieve answered {response.status}: {_detail(response)}")
        try:
            found = read_result(json.loads(response.data), len(queries), k)
        except (ValueError, RecursionError) as failure:
            raise RetrieverError(
                f"{self.url}/retrieve answered what is not a result ({failure}); is it a retrieval server?"
            ) from failure
        if self._cache is not None:
            self._index = response.headers.get(FINGERPRINT_HEADER, self.url)
            self._cache.put(self._index, k, dict(zip(queries, found, strict=True)), self.url)
        return found

    def _known_index(self, cache: QueryCache) -> str:
        """Return what the cache's keys begin with.

        It is asked of the server once, and remembered from its last answer when it is gone.

        Should it come back with another index, its first answer to a query that is not cached will say so.
        """
        if self._index is None:
            try:
                response = self._send("GET", "/health", timeout=min(_HEALTH_TIMEOUT_S, self.timeout_s))
            except RetrieverError:
                self._index = cache.last_index(self.url) or self.url
            else:
                self._index = _fingerprint(response) or self.url
        return self._index

    def _send(self, method: str, path: str, **options: Any) -> BaseHTTPResponse:
        try:
            return self._pool.request(method, self.url + path, **options)
        except ReadTimeoutError as failure:
            raise RetrieverError(
                f"{self.url}{path} took longer than timeout_s={options['timeout']:g} seconds; "
                "raise timeout_s or lower batch_size"
            ) from failure
        except HTTPError as failure:
            reason = getattr(failure, "reason", None) or failure
            raise RetrieverError(f"{self.url}{path} cannot be reached ({reason}); is the server running?") from failure


class _Retry(Retry):
    """Try again as urllib3 does, except that a timeout ends it, and a pause the server asks for is bounded."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *args: Any,
        **options: Any,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *args, **options)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        seconds = super().get_retry_after(response)
        # Clients that were refused together must not come back together.
        return None if seconds is None else min(seconds, _LONGEST_PAUSE_S) + random.uniform(0, _JITTER_S)


def _retry(retries: int) -> Retry:
    return _Retry(
        total=retries,
        allowed_methods=None,  # POST too: a search changes nothing
        status_forcelist=(502, 503, 504),
        raise_on_status=False,
        backoff_factor=0.25,
        backoff_jitter=_JITTER_S,
        backoff_max=_LONGEST_PAUSE_S,
    )


def _fingerprint(health: BaseHTTPResponse) -> str | None:
    try:
        facts = json.loads(health.data)
    except (ValueError, RecursionError):
        return None
    fingerprint = facts.get("fingerprint") if health.status == 200 and isinstance(facts, dict) else None
    return fingerprint if isinstance(fingerprint, str) else None


def _detail(response: BaseHTTPResponse) -> str:
    try:
        body = json.loads(response.data)
        return str(body["detail"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return response.data[:200].decode(errors="replace") or "(no text)"
