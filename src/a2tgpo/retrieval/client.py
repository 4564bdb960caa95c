"""Ask a retrieval server: `a2tgpo serve`, Search-R1's, or any other that speaks their JSON."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError

from a2tgpo.errors import RetrieverError
from a2tgpo.files import parse_json, whole_text
from a2tgpo.retrieval.query_cache import QueryCache
from a2tgpo.retrieval.retriever import Hit, check_search
from a2tgpo.retrieval.wire import FINGERPRINT_HEADER, read_result

_CONNECTIONS = 32  # kept open for reuse; more threads than this still work
_ALONE_AT_ONCE = 8  # requests of one query each that are under way together
_HEALTH_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 10.0
_JITTER_S = 0.25
_DETAIL_CHARS = 200
_PASSING = (408, 425, 429)  # and all from 500: refusals that are not the request's fault
_BLAMES_CONTENT = (400, 413, 422)  # and all from 500: one query may be to blame, and the others be answered without it

T = TypeVar("T")


class _Failure(RetrieverError):
    """Say why one request failed, and what to do about it.

    Attributes:
        divides: its queries may succeed one by one.
        pause_s: how long the server asks to be left alone.
        slow: it timed out.
    """

    def __init__(
        self, message: str, *, passing: bool, divides: bool = False, pause_s: float | None = None, slow: bool = False
    ) -> None:
        super().__init__(message, passing=passing)
        self.divides, self.pause_s, self.slow = divides, pause_s, slow


class HTTPRetriever:
    """Send queries to a retrieval server in batches; any failure raises, so no result is empty by accident.

    What may be gone a second later is tried again, up to `retries` times: a connection that fails, the statuses 408,
    425, 429 and from 500 on, an answer that is cut off or is no result, and one timeout. The first try again comes at
    once, the others after pauses that double (0.5, 1, 2, ... at most 10 seconds, plus jitter), or after the one that
    the server asks for with Retry-After. What is the request's own fault (any other 4xx) is not tried again. Where a
    batch fails twice its queries are asked one by one, so that a query which the server cannot answer fails alone. One
    client serves any number of threads.

    With `cache_dir` every answered query is kept on disk, and answered from there when the server is gone. The key is
    the fingerprint of the server's index, where its `/health` states one, as ours does; otherwise the URL, and then the
    folder must be deleted when the index behind the URL changes. The cache takes at most 1 GB; the oldest answers go
    first.

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
        parts = urlsplit(self.url)
        self._shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # no password in an error
        self.timeout_s = timeout_s
        self.retries = retries
        self.batch_size = batch_size
        self._pool = PoolManager(
            maxsize=_CONNECTIONS, retries=Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3)
        )
        self._index: str | None = None  # fingerprint, or URL, that the cache's keys begin with
        self._cache = None if cache_dir is None else QueryCache(cache_dir)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the server's k best passages for each query, best first; each distinct query is asked once.

        Raises:
            ValueError: k is below 1, or `queries` is one string.
            RetrieverError: the server is gone, too slow, refuses, or answers what is not a result, for one query or
                more. Its `passing` says whether the same may succeed a second later.
        """
        found: list[list[Hit]] = [[] for _ in queries]
        for position, result in self.search_each(queries, k):
            if isinstance(result, Exception):
                raise result
            found[position] = result
        return found

    def search_each(self, queries: Sequence[str], k: int) -> Iterator[tuple[int, list[Hit] | Exception]]:
        """Yield (position of a query, what was found for it or why nothing was) as results arrive.

        Raises:
            ValueError: as `search`.
            RetrieverError: the cache cannot be used.
        """
        check_search(queries, k)
        positions: dict[str, list[int]] = {}
        for position, query in enumerate(queries):
            positions.setdefault(whole_text(query), []).append(position)
        for query, result in self._results(list(positions), k):
            for position in positions[query]:
                yield position, list(result) if isinstance(result, list) else result

    def _results(self, distinct: list[str], k: int) -> Iterator[tuple[str, list[Hit] | RetrieverError]]:
        cached = {} if self._cache is None else self._cache.get(self._known_index(self._cache), k, distinct)
        yield from cached.items()
        missing = [query for query in distinct if query not in cached]
        for start in range(0, len(missing), self.batch_size):
            yield from self._batch(missing[start : start + self.batch_size], k)

    def _batch(self, queries: list[str], k: int) -> Iterator[tuple[str, list[Hit] | RetrieverError]]:
        """Ask for all at once, with patience; where that fails for the queries' sake, one by one."""
        failure: _Failure
        for tries in range(self.retries + 1):
            try:
                yield from zip(queries, self._ask(queries, k), strict=True)
                return
            except _Failure as caught:
                failure = caught
            again = failure.passing and tries < self.retries and not (failure.slow and tries > 0)
            if failure.divides and len(queries) > 1 and (tries > 0 or failure.slow or not again):
                failed = {}
                for query, result in self._one_by_one(queries, k):
                    if isinstance(result, RetrieverError):
                        failed[query] = result
                    else:
                        yield query, result
                if len(failed) < len(queries) or not again:
                    yield from failed.items()
                    return  # the server answers others, so these failures are their queries' own
            if not again:
                break
            _pause(tries, failure)
        for query in queries:
            yield query, failure

    def _one_by_one(self, queries: list[str], k: int) -> Iterator[tuple[str, list[Hit] | RetrieverError]]:
        """Ask for each query alone, a few at a time, so that one which hangs the server keeps no other waiting."""
        asked: SimpleQueue[str] = SimpleQueue()
        answered: SimpleQueue[tuple[str, list[Hit] | RetrieverError]] = SimpleQueue()
        gone: list[RetrieverError] = []

        def work() -> None:
            while True:
                try:
                    query = asked.get_nowait()
                except Empty:
                    return
                if len(gone) >= _ALONE_AT_ONCE:
                    answered.put((query, gone[0]))
                    continue
                result = self._ask_alone(query, k)
                if isinstance(result, _Failure) and (result.slow or not result.divides):
                    gone.append(result)
                elif not isinstance(result, RetrieverError):
                    gone.clear()
                answered.put((query, result))

        for query in queries:
            asked.put(query)
        for _ in range(min(_ALONE_AT_ONCE, len(queries))):
            threading.Thread(target=work, name="a2tgpo-search-alone", daemon=True).start()
        for _ in queries:
            yield answered.get()

    def _ask_alone(self, query: str, k: int) -> list[Hit] | RetrieverError:
        failure: RetrieverError
        for _ in range(2):
            try:
                return self._ask([query], k)[0]
            except _Failure as caught:
                failure = caught
                if caught.slow or not caught.passing:
                    break
            except Exception as caught:  # of the cache; a thread that dies would leave its caller waiting
                return RetrieverError(f"{type(caught).__name__}: {caught}")
        return failure

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        body = json.dumps({"queries": queries, "topk": k, "return_scores": True}).encode()
        response = self._send("POST", "/retrieve", self.timeout_s, body, {"Content-Type": "application/json"})
        if response.status != 200:
            raise self._refusal("/retrieve", response)
        try:
            found = read_result(parse_json(response.data), len(queries), k)
        except (ValueError, RecursionError) as failure:
            raise _Failure(
                f"{self._shown}/retrieve answered what is not a result ({failure}); is it a retrieval server?",
                passing=True,
                divides=True,
            ) from failure
        if self._cache is not None:
            self._index = response.headers.get(FINGERPRINT_HEADER, self.url)
            self._cache.put(self._index, k, dict(zip(queries, found, strict=True)), self.url)
        return found

    def _known_index(self, cache: QueryCache) -> str:
        """Return what the cache's keys begin with.

        It is asked of the server once, and remembered from its last answer when it is gone. Should it come back with
        another index, its first answer to a query that is not cached will say so.
        """
        if self._index is None:
            try:
                health = self._patiently(lambda: self._send("GET", "/health", min(_HEALTH_TIMEOUT_S, self.timeout_s)))
            except RetrieverError:
                self._index = cache.last_index(self.url) or self.url
            else:
                self._index = _fingerprint(health) or self.url
        return self._index

    def _patiently(self, attempt: Callable[[], T]) -> T:
        for tries in range(self.retries):
            try:
                return attempt()
            except _Failure as failure:
                if not failure.passing or failure.slow:
                    raise
                _pause(tries, failure)
        return attempt()

    def _send(
        self, method: str, path: str, timeout_s: float, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> BaseHTTPResponse:
        """Send one request once.

        Raises:
            _Failure: no answer came, or one that another try may change.
        """
        try:
            response = self._pool.request(method, self.url + path, timeout=timeout_s, body=body, headers=headers)
        except HTTPError as failure:
            reason = getattr(failure, "reason", None) or failure
            if isinstance(reason, ReadTimeoutError):
                raise _Failure(
                    f"{self._shown}{path} took longer than timeout_s={timeout_s:g} seconds; "
                    "raise timeout_s or lower batch_size",
                    passing=True,
                    divides=True,
                    slow=True,
                ) from failure
            raise _Failure(
                f"{self._shown}{path} cannot be reached ({reason}); is the server running?", passing=True
            ) from failure
        if response.status >= 500 or response.status in _PASSING:
            raise self._refusal(path, response)
        return response

    def _refusal(self, path: str, response: BaseHTTPResponse) -> _Failure:
        server_side = response.status >= 500
        return _Failure(
            f"{self._shown}{path} answered {response.status}: {_detail(response)}",
            passing=server_side or response.status in _PASSING,
            divides=server_side or response.status in _BLAMES_CONTENT,
            pause_s=_asked_pause_s(response),
        )


def _pause(tries: int, failure: _Failure) -> None:
    """Wait before another try: as the server asks, else not at all after the first, then longer and longer."""
    seconds = failure.pause_s
    if seconds is None:
        if tries == 0:
            return
        seconds = 0.25 * 2**tries
    # Clients that were refused together must not come back together.
    time.sleep(min(seconds, _LONGEST_PAUSE_S) + random.uniform(0, _JITTER_S))


def _asked_pause_s(response: BaseHTTPResponse) -> float | None:
    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _fingerprint(health: BaseHTTPResponse) -> str | None:
    try:
        facts = parse_json(health.data)
    except (ValueError, RecursionError):
        return None
    fingerprint = facts.get("fingerprint") if health.status == 200 and isinstance(facts, dict) else None
    return fingerprint if isinstance(fingerprint, str) else None


def _detail(response: BaseHTTPResponse) -> str:
    try:
        return str(parse_json(response.data)["detail"])[:_DETAIL_CHARS]
    except (ValueError, RecursionError, TypeError, KeyError):
        return response.data[:_DETAIL_CHARS].decode(errors="replace") or "(no text)"
