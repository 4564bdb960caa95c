"""Merge the queries of many requests into few calls of the retriever."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval.retriever import Hit, Retriever


@dataclass(eq=False, slots=True)
class _Job:
    queries: Sequence[str]
    k: int
    found: Future[list[list[Hit]]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Search in one thread what waits in a queue, up to `max_batch` queries at a time.

    Only requests of one k share a call: a retriever may find other passages for another k (approximate
    indexes, rank fusion), and an answer must not depend on who else asked. Within a call each distinct query
    is searched once. Use it in a `with` statement, which starts the thread, and at its end finishes the queue.

    Args:
        retriever: any `Retriever`; called from the one thread only.
        max_batch: most queries per call, 1 or more.
        wait_s: seconds, 0 or more, that the oldest waiting query gives others to join it.
        observe: told the number of queries of every call.
    """

    def __init__(
        self, retriever: Retriever, max_batch: int, wait_s: float, observe: Callable[[int], None] = lambda size: None
    ) -> None:
        self._retriever = retriever
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="a2tgpo-batcher", daemon=True)

    def __enter__(self) -> Batcher:
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join(timeout=1.0)  # a daemon: a retriever that hangs does not keep the process

    @property
    def waiting(self) -> int:
        """Count the queries that no call has taken yet."""
        with self._changed:
            return self._n_waiting()

    def submit(self, queries: Sequence[str], k: int) -> list[Future[list[list[Hit]]]]:
        """Queue the queries in pieces of at most `max_batch`; the futures are in their order.

        A future that is cancelled before its call is not searched. One whose call raised fails with a
        `RetrieverError` that chains the cause.
        """
        pieces = range(0, len(queries), self._max_batch)
        jobs = [_Job(queries[start : start + self._max_batch], k) for start in pieces]
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.found for job in jobs]

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            running = [job for job in batch if job.found.set_running_or_notify_cancel()]
            if running:
                self._search(running)

    def _take(self) -> list[_Job] | None:
        """Wait for the next batch and return it; None when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            rest = self._jobs[0].since + self._wait_s - time.monotonic()
            self._changed.wait_for(lambda: self._n_waiting() >= self._max_batch or self._closed, timeout=max(0.0, rest))
            k, room, batch = self._jobs[0].k, self._max_batch, []
            for job in self._jobs:
                if job.k == k:
                    room -= len(job.queries)
                    if room < 0:
                        break
                    batch.append(job)
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _search(self, batch: list[_Job]) -> None:
        queries = list(dict.fromkeys(query for job in batch for query in job.queries))
        self._observe(len(queries))
        try:
            hits = dict(zip(queries, self._retriever.search(queries, batch[0].k), strict=True))
        except BaseException as failure:
            if len(batch) == 1:
                batch[0].found.set_exception(_wrapped(failure))
            else:  # a query that breaks the retriever fails its own request, not its neighbours'
                for job in batch:
                    self._search([job])
            return
        for job in batch:
            job.found.set_result([hits[query] for query in job.queries])

    def _n_waiting(self) -> int:
        return sum(len(job.queries) for job in self._jobs)


def _wrapped(failure: BaseException) -> RetrieverError:
    """Wrap a failure: SystemExit or StopIteration in a future would end the event loop or hang it; this does not."""
    error = RetrieverError(f"{type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error
