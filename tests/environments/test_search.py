"""The search tool: one call per batch; a failing retriever is a ToolError, never an empty result."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from a2tgpo.environments import SearchTool
from a2tgpo.errors import ToolError
from a2tgpo.retrieval import BM25Retriever, Hit, Passage

PASSAGES = [Passage(str(i), f"Town {i}", "A town by the river.") for i in range(5)]


class Retriever:
    """A retriever whose answer is a function of the queries and k; records its calls."""

    def __init__(self, answer: Callable[[Sequence[str], int], object]) -> None:
        self.answer = answer
        self.calls: list[Sequence[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls.append(queries)
        return self.answer(queries, k)  # type: ignore[return-value]  # wrong answers are what is tested


def test_passages_of_every_query_in_order() -> None:
    """A batch gives each query the retriever's k best passages, best first; no hit is an empty list."""
    retriever = BM25Retriever.from_passages(PASSAGES)
    found = SearchTool(retriever, k=2)(["river", "volcano", "town 4"])
    assert found == [[hit.passage for hit in hits] for hits in retriever.search(["river", "volcano", "town 4"], 2)]
    assert [len(passages) for passages in found] == [2, 0, 2]
    assert found[2][0].id == "4"


def test_a_batch_is_one_call() -> None:
    """All queries go to the retriever together, and none at all do not reach it."""
    retriever = Retriever(lambda queries, k: [[] for _ in queries])
    tool = SearchTool(retriever)
    assert tool(["a", "b", "c"]) == [[], [], []]
    assert tool([]) == []
    assert retriever.calls == [["a", "b", "c"]]


def test_retriever_that_raises_is_chained() -> None:
    """The retriever's own exception is the cause, and the query, its type and its message are in ours."""

    def refuse(queries: Sequence[str], k: int) -> object:
        raise TimeoutError("server took 5 s")

    with pytest.raises(ToolError, match=r"search 'a' failed: TimeoutError: server took 5 s") as error:
        SearchTool(Retriever(refuse))(["a", "b"])
    assert isinstance(error.value.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda queries, k: [[]], "returned 1 results for 2 queries"),
        (lambda queries, k: [[Hit(PASSAGES[0], 1.0)] * (k + 1), []], "returned 4 hits for a query and k=3"),
        (lambda queries, k: None, "TypeError"),
        (lambda queries, k: [["text"], []], "AttributeError"),
    ],
)
def test_wrong_answers_are_errors(answer: Callable[[Sequence[str], int], object], says: str) -> None:
    """A retriever that breaks its contract is an error, not results that belong to other rollouts."""
    with pytest.raises(ToolError, match=says):
        SearchTool(Retriever(answer))(["a", "b"])


def test_hanging_retriever_is_given_up() -> None:
    """The call returns soon after timeout_s, says so, and the tool serves the next batch."""
    release = threading.Event()

    def hang_once(queries: Sequence[str], k: int) -> object:
        if queries == ["hang"]:
            release.wait(60)
        return [[] for _ in queries]

    tool = SearchTool(Retriever(hang_once), timeout_s=0.2)
    start = time.monotonic()
    with pytest.raises(ToolError, match=r"timeout_s=0\.2 seconds for 1 queries"):
        tool(["hang"])
    assert time.monotonic() - start < 5
    assert tool(["next"]) == [[]]
    release.set()


def test_hanging_retriever_does_not_keep_the_interpreter() -> None:
    """A program whose retriever hangs for good still exits."""
    script = (
        "import threading; from a2tgpo.environments import SearchTool; from a2tgpo.errors import ToolError\n"
        "class Hung:\n"
        "    def search(self, queries, k): threading.Event().wait()\n"
        "try: SearchTool(Hung(), timeout_s=0.1)(['a'])\n"
        "except ToolError: print('given up')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=True)
    assert done.stdout == "given up\n"


def test_bad_arguments_are_named() -> None:
    """k and timeout_s that cannot work are refused at construction."""
    retriever = BM25Retriever.from_passages(PASSAGES)
    with pytest.raises(ValueError, match="k=0"):
        SearchTool(retriever, k=0)
    for timeout in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout_s="):
            SearchTool(retriever, timeout_s=timeout)
