"""Search for all rollouts that search at once: one batched, time-limited call of a retriever, one result per query."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.errors import A2TGPOError, ToolError
from a2tgpo.files import whole_text
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.retriever import Hit, Retriever, search_each


@dataclass
class SearchCounts:
    """Count what a search tool was asked, for whoever decides when its failures end a run.

    Attributes:
        queries: asked in all.
        failed: of those, the ones without an answer.
        failed_calls_in_row: calls up to now in which no query was answered; 0 after one that answered any.
    """

    queries: int = 0
    failed: int = 0
    failed_calls_in_row: int = 0


class SearchTool:
    """Call a retriever for a batch of queries and turn every way of failing into a `ToolError`.

    The retriever runs in a thread of its own, so that a call that hangs can be given up. Python cannot stop
    a thread: one that hangs is abandoned and keeps its memory and connections until it returns by itself. It
    is a daemon, so it does not keep the interpreter from exiting. Later calls start afresh.

    Args:
        retriever: any `Retriever`.
        k: passages per query, 1 or more. The paper shows 3.
        timeout_s: seconds the whole batch may take; above 0.

    Attributes:
        counts: of all calls up to now.
    """

    def __init__(self, retriever: Retriever, k: int = 3, timeout_s: float = 30.0) -> None:
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s}: must be above 0 seconds")
        self._retriever = retriever
        self.k = k
        self.timeout_s = timeout_s
        self.counts = SearchCounts()
        self._counting = threading.Lock()

    def __call__(self, queries: Sequence[str]) -> list[list[Passage]]:
        """Return the passages for each query, best first; an empty list says that nothing was found.

        Raises:
            ToolError: as `ask` says for the first query that failed.
        """
        results = []
        for result in self.ask(queries):
            if isinstance(result, ToolError):
                raise result
            results.append(result)
        return results

    def ask(self, queries: Sequence[str]) -> list[list[Passage] | ToolError]:
        """Return for each query its passages, best first, or why it has none; one that fails takes no other with it.

        A `ToolError` says that the retriever raised (the cause is chained), took longer than `timeout_s`, or did not
        return one list of at most k hits per query. Empty passages are left out, and half a surrogate pair is U+FFFD.
        """
        if not queries:
            return []
        found: list[list[Passage] | ToolError | None] = [None] * len(queries)
        raised: list[BaseException] = []
        ended = threading.Event()

        def run() -> None:
            try:
                for position, result in search_each(self._retriever, queries, self.k):
                    found[position] = self._result(queries[position], result)
            except BaseException as failure:  # of the retriever, which may be anything
                raised.append(failure)
            finally:
                ended.set()

        threading.Thread(target=run, name="a2tgpo-search", daemon=True).start()
        in_time = ended.wait(self.timeout_s)
        results = [
            self._unanswered(query, raised, in_time, len(queries)) if result is None else result
            for query, result in zip(queries, list(found), strict=True)
        ]
        self._count(results)
        return results

    def _unanswered(self, query: str, raised: list[BaseException], in_time: bool, n_queries: int) -> ToolError:
        if not in_time:
            return ToolError(
                f"search took longer than timeout_s={self.timeout_s:g} seconds for {n_queries} queries; "
                "check the retriever or raise timeout_s",
                passing=True,
            )
        return _failed(query, raised[0] if raised else TypeError(f"{type(self._retriever).__name__} gave no result"))

    def _result(self, query: str, result: list[Hit] | Exception) -> list[Passage] | ToolError:
        if isinstance(result, Exception):
            return _failed(query, result)
        try:
            if len(result) > self.k:
                raise TypeError(
                    f"{type(self._retriever).__name__} returned {len(result)} hits for a query and k={self.k}; "
                    "it must return at most k"
                )
            passages = [_whole(hit.passage) for hit in result]
        except Exception as failure:
            return _failed(query, failure)
        return [passage for passage in passages if not passage.is_blank]

    def _count(self, results: Sequence[list[Passage] | ToolError]) -> None:
        failed = sum(isinstance(result, ToolError) for result in results)
        with self._counting:  # an evaluation asks from many threads
            self.counts.queries += len(results)
            self.counts.failed += failed
            self.counts.failed_calls_in_row = self.counts.failed_calls_in_row + 1 if failed == len(results) else 0


def _failed(query: str, failure: BaseException) -> ToolError:
    reason = failure if isinstance(failure, A2TGPOError) else f"{type(failure).__name__}: {failure}"
    error = ToolError(f"search {query!r} failed: {reason}", passing=getattr(failure, "passing", False))
    error.__cause__ = failure
    return error


def _whole(passage: Passage) -> Passage:
    for name in ("id", "title", "text"):
        if not isinstance(value := getattr(passage, name), str):
            raise TypeError(f"a passage's {name} is {value!r}; it must be text")
    return Passage(whole_text(passage.id), whole_text(passage.title), whole_text(passage.text))
