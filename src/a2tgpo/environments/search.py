"""The search tool: one batched, time-limited call of a retriever for all rollouts that search at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait

from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.retriever import Retriever


class SearchTool:
    """Calls a retriever for a batch of queries and turns every way of failing into a `ToolError`.

    The retriever runs in a thread of its own, so that a call that hangs can be given up. Python cannot stop
    a thread: one that hangs is abandoned and keeps its memory and connections until it returns by itself. It
    is a daemon, so it does not keep the interpreter from exiting. Later calls start afresh.

    Args:
        retriever: any `Retriever`.
        k: passages per query, 1 or more. The paper shows 3.
        timeout_s: seconds the whole batch may take; above 0.
    """

    def __init__(self, retriever: Retriever, k: int = 3, timeout_s: float = 30.0) -> None:
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s}: must be above 0 seconds")
        self._retriever = retriever
        self.k = k
        self.timeout_s = timeout_s

    def __call__(self, queries: Sequence[str]) -> list[list[Passage]]:
        """The passages for each query, best first; an empty list says that nothing was found.

        Raises:
            ToolError: the retriever raised (the cause is chained), took longer than `timeout_s`, or did not
                return one list of at most k hits per query.
        """
        if not queries:
            return []
        answer: Future[list[list[Passage]]] = Future()
        threading.Thread(target=self._run, args=(queries, answer), name="a2tgpo-search", daemon=True).start()
        wait([answer], timeout=self.timeout_s)
        if not answer.done():
            raise ToolError(
                f"search took longer than timeout_s={self.timeout_s:g} seconds for {len(queries)} queries; "
                "check the retriever or raise timeout_s"
            )
        if failure := answer.exception():
            raise ToolError(
                f"search failed on {len(queries)} queries, the first {queries[0]!r}: "
                f"{type(failure).__name__}: {failure}"
            ) from failure
        return self._checked(answer.result(), len(queries))

    def _run(self, queries: Sequence[str], answer: Future[list[list[Passage]]]) -> None:
        try:
            hits = self._retriever.search(queries, self.k)
            answer.set_result([[hit.passage for hit in found] for found in hits])
        except BaseException as failure:  # raised again, as ToolError, in the thread that waits
            answer.set_exception(failure)

    def _checked(self, found: list[list[Passage]], n_queries: int) -> list[list[Passage]]:
        if len(found) != n_queries:
            raise ToolError(
                f"{type(self._retriever).__name__} returned {len(found)} results for {n_queries} queries; "
                "it must return one list per query"
            )
        longest = max(map(len, found))
        if longest > self.k:
            raise ToolError(
                f"{type(self._retriever).__name__} returned {longest} hits for a query and k={self.k}; "
                "it must return at most k"
            )
        return found
