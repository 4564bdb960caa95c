"""Ask a retrieval server: `a2tgpo serve`, Search-R1's, or any other that speaks their JSON."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from a2tgpo.errors import RetrieverError
from a2tgpo.files import whole_text
from a2tgpo.redact import redact
from a2tgpo.retrieval.query_cache import QueryCache
from a2tgpo.retrieval.retriever import Hit, check_search
from a2tgpo.retrieval.server_request import RequestFailed, SearchServer

_ALONE_AT_ONCE = 8  # requests of one query each that are under way together

Answers = Iterator[tuple[str, list[Hit] | RetrieverError]]
"""Queries as they are answered, with what was found or why nothing was."""


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
        if retries < 0:
            raise ValueError(f"retries={retries}: must be at least 0")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self._server = SearchServer(url, timeout_s)
        self.retries = retries
        self.batch_size = batch_size
        self._index: str | None = None  # fingerprint, or URL, that the cache's keys begin with
        self._cache = None if cache_dir is None else QueryCache(cache_dir)

    @property
    def url(self) -> str:
        """Return the server's address, without `/retrieve`."""
        return self._server.url

    @property
    def timeout_s(self) -> float:
        """Return the seconds that one request may take."""
        return self._server.timeout_s

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

    def _results(self, distinct: list[str], k: int) -> Answers:
        cached = {} if self._cache is None else self._cache.get(self._known_index(self._cache), k, distinct)
        yield from cached.items()
        missing = [query for query in distinct if query not in cached]
        for start in range(0, len(missing), self.batch_size):
            yield from self._batch(missing[start : start + self.batch_size], k)

    def _batch(self, queries: list[str], k: int) -> Answers:
        """Ask for all at once, with patience; where that fails for the queries' sake, one by one."""
        failure: RequestFailed
        for tries in range(self.retries + 1):
            try:
                yield from zip(queries, self._ask(queries, k), strict=True)
                return
            except RequestFailed as caught:
                failure = caught
            again = failure.passing and tries < self.retries and not (failure.slow and tries > 0)
            enough = failure.slow or not again or (tries > 0 and not failure.busy)  # of asking for all at once
            if failure.divides and len(queries) > 1 and enough:
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
            failure.pause(tries)
        for query in queries:
            yield query, failure

    def _one_by_one(self, queries: list[str], k: int) -> Answers:
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
                if isinstance(result, RequestFailed) and (result.slow or not result.divides):
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
            except RequestFailed as caught:
                failure = caught
                if caught.slow or not caught.passing:
                    break
            except Exception as caught:  # of the cache; a thread that dies would leave its caller waiting
                return RetrieverError(f"{type(caught).__name__}: {caught}")
        return failure

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        found, fingerprint = self._server.retrieve(queries, k)
        if self._cache is not None:
            self._index = fingerprint or redact(self.url)
            self._cache.put(self._index, k, dict(zip(queries, found, strict=True)), redact(self.url))
        return found

    def _known_index(self, cache: QueryCache) -> str:
        """Return what the cache's keys begin with.

        It is asked of the server once, and remembered from its last answer when it is gone. Should it come back with
        another index, its first answer to a query that is not cached will say so.
        """
        tries = 0
        while self._index is None:
            try:
                self._index = self._server.fingerprint() or redact(self.url)
            except RequestFailed as failure:
                if tries == self.retries or not failure.passing or failure.slow:
                    self._index = cache.last_index(redact(self.url)) or redact(self.url)
                else:
                    failure.pause(tries)
                    tries += 1
        return self._index
