"""Requests of many clients share calls of the retriever, and each gets its own answer; a full server says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import urllib3

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval import Hit
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.retrieval.server.batcher import Batcher
from tests.retrieval.server.parts import Echo, echoed, metrics, post, served, until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


class Held(Echo):
    """An `Echo` whose first call waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.release = threading.Event(), threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if not self.started.is_set():
            self.started.set()
            self.release.wait(20)
        return super().search(queries, k)


def test_what_waits_goes_together() -> None:
    """While one call runs, the requests behind it gather: in order, of one k, to the limit, each query once."""
    retriever = Held()
    with Batcher(retriever, max_batch=4, wait_s=0) as batcher:
        batcher.submit(["first"], 2)
        retriever.started.wait(20)
        requests = [(["a", "b"], 2), (["a"], 3), (["b"], 2), (["c", "d"], 2), (["e"], 3), (list("uvwxyz"), 1)]
        answers = [(queries, k, batcher.submit(queries, k)) for queries, k in requests]
        assert batcher.waiting == 13
        retriever.release.set()
        for queries, k, pieces in answers:
            assert [hits for piece in pieces for hits in piece.result(20)] == [echoed(query, k) for query in queries]
    assert retriever.calls == [["first"], ["a", "b"], ["a", "e"], ["c", "d"], list("uvwx"), list("yz")]


def test_a_query_that_breaks_the_retriever_fails_alone() -> None:
    """Neighbours in the batch are searched again without it; its own request gets the error, with the cause."""
    retriever = Held()
    with Batcher(retriever, max_batch=8, wait_s=0) as batcher:
        batcher.submit(["first"], 1)
        (good,), (bad,), (other,) = (batcher.submit([query], 1) for query in ("a", "raise", "b"))
        retriever.release.set()
        assert good.result(20) == [echoed("a", 1)]
        assert other.result(20) == [echoed("b", 1)]
        with pytest.raises(RetrieverError, match="KeyError: 'passage 7") as error:
            bad.result(20)
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize("raised", [SystemExit(1), StopIteration(), KeyboardInterrupt()])
def test_the_thread_survives_any_exception(raised: BaseException) -> None:
    """Exceptions that would end an event loop or a thread become errors of the request, and service goes on."""

    class Leaves(Echo):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if queries == ["leave"]:
                raise raised
            return super().search(queries, k)

    with Batcher(Leaves(), max_batch=8, wait_s=0) as batcher:
        with pytest.raises(RetrieverError, match=type(raised).__name__):
            batcher.submit(["leave"], 1)[0].result(20)
        assert batcher.submit(["a"], 1)[0].result(20) == [echoed("a", 1)]


def test_the_wait_lets_a_second_request_join() -> None:
    """The first request waits wait_s for others when the queue is not full, and no longer when it is."""
    retriever = Echo()
    with Batcher(retriever, max_batch=2, wait_s=30) as batcher:
        (first,), (second,) = batcher.submit(["a"], 1), batcher.submit(["b"], 1)
        assert [first.result(20), second.result(20)] == [[echoed("a", 1)], [echoed("b", 1)]]
        (last,) = batcher.submit(["c"], 1)
    assert last.result(20) == [echoed("c", 1)]  # closing ends the wait and finishes the queue
    assert retriever.calls == [["a", "b"], ["c"]]


def test_load_from_many_clients() -> None:
    """320 requests from 16 threads: all answers are right, and they took far fewer calls than requests."""
    retriever = Echo()
    with served(retriever, index={"sha": "1"}, batch_wait_ms=5) as url:
        client = HTTPRetriever(url)

        def work(thread: int) -> None:
            for turn in range(20):
                queries = [f"{thread}.{turn}.{i}" for i in range(3)] + ["nothing", "shared"]
                assert client.search(queries, 2) == [echoed(query, 2) for query in queries]

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        seen = metrics(url)
    assert seen['requests_total{status="200"}'] == 320
    assert seen["queries_total"] == 1600
    assert seen["batch_queries_count"] == len(retriever.calls) < 160
    assert seen["batch_queries_sum"] == sum(map(len, retriever.calls))
    assert seen["request_seconds_count"] == 320
    assert seen["queue_depth"] == 0


def test_full_server_refuses_and_clients_get_through() -> None:
    """Beyond `concurrency` a request is 503 with Retry-After while /health answers; clients that wait succeed."""
    retriever = Held()
    with served(retriever, concurrency=2, max_batch=1) as url, ThreadPoolExecutor(10) as pool:
        client = HTTPRetriever(url)
        queries = [f"query {i}" for i in range(10)]
        answers: list[Future[list[list[Hit]]]] = [pool.submit(client.search, [query], 1) for query in queries]
        until(lambda: metrics(url).get('refusals_total{reason="Busy"}', 0) >= 8)
        refused = post(url, {"queries": ["a"]})
        assert (refused.status, refused.headers["Retry-After"], refused.json()["error"]) == (503, "1", "Busy")
        assert urllib3.request("GET", f"{url}/health").status == 200
        assert metrics(url)["queue_depth"] == 1
        retriever.release.set()
        assert [answer.result(20) for answer in answers] == [[echoed(query, 1)] for query in queries]


def test_a_client_that_hangs_up_is_not_searched_for() -> None:
    """What waits for a client that gave up leaves the queue unsearched, and its place is free again."""
    retriever = Held()
    with served(retriever, concurrency=2, max_batch=1) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, url, {"queries": ["first"]})
        retriever.started.wait(20)
        with pytest.raises(RetrieverError, match=r"timeout_s=0\.2"):
            HTTPRetriever(url, timeout_s=0.2, retries=0).search(["gone"], 1)
        until(lambda: metrics(url).get('requests_total{status="499"}') == 1)
        second = pool.submit(post, url, {"queries": ["second"]})
        until(lambda: metrics(url)["queries_total"] == 3)
        retriever.release.set()
        assert (first.result(20).status, second.result(20).status) == (200, 200)
    assert retriever.calls == [["first"], ["second"]]
