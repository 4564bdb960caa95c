"""The HTTP client against hand-written servers: Search-R1's JSON in, hits out, and every failure a typed error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval import Hit, Passage
from a2tgpo.retrieval.client import HTTPRetriever
from tests.retrieval.server.parts import Echo, echoed, served, stand_in


def item(query: object, rank: int) -> dict[str, object]:
    return {"document": {"id": f"{query}/{rank}", "contents": f'"On {query}"\nLine {rank}.\nEnd.'}, "score": 1 / rank}


class SearchR1:
    """Answers as Search-R1's retrieval server does, with documents that name the query."""

    def __init__(self) -> None:
        self.requests: list[dict[str, object]] = []

    def __call__(self, request: dict[str, object]) -> tuple[int, bytes]:
        self.requests.append(request)
        queries, k = request["queries"], request["topk"]
        assert isinstance(queries, list) and isinstance(k, int) and request["return_scores"] is True
        return 200, json.dumps(
            {"result": [[item(query, rank) for rank in range(1, k + 1)] for query in queries]}
        ).encode()


def expected(query: str, k: int) -> list[Hit]:
    ranks = range(1, k + 1)
    return [Hit(Passage(f"{query}/{rank}", f"On {query}", f"Line {rank}.\nEnd."), 1 / rank) for rank in ranks]


@pytest.mark.parametrize("suffix", ["", "/", "/retrieve", "/retrieve/"])
def test_search_r1_server(suffix: str) -> None:
    """Our client reads Search-R1's answers, whichever way its users write the URL."""
    server = SearchR1()
    with stand_in(server) as url:
        assert HTTPRetriever(url + suffix).search(["a", "b", "a"], 2) == [expected(query, 2) for query in "aba"]
    assert server.requests == [{"queries": ["a", "b"], "topk": 2, "return_scores": True}]


def test_search_r1_bm25_documents() -> None:
    """Documents of Search-R1's BM25 server have no id: equal contents get equal ids, others differ."""
    documents = [
        {"title": "A", "text": "x", "contents": '"A"\nx'},
        {"title": "B", "text": "y", "contents": '"B"\ny'},
        {"title": "A", "text": "x", "contents": '"A"\nx'},
    ]
    answer = {"result": [[{"document": document, "score": 2} for document in documents]]}
    with stand_in(lambda request: (200, json.dumps(answer).encode())) as url:
        (hits,) = HTTPRetriever(url).search(["q"], 3)
    assert [(hit.passage.title, hit.passage.text, hit.score) for hit in hits] == [
        ("A", "x", 2.0),
        ("B", "y", 2.0),
        ("A", "x", 2.0),
    ]
    assert hits[0].passage.id == hits[2].passage.id != hits[1].passage.id


def test_batches() -> None:
    """Queries travel in requests of at most batch_size, and come back in their order."""
    server = SearchR1()
    queries = [f"q{i}" for i in range(7)]
    with stand_in(server) as url:
        retriever = HTTPRetriever(url, batch_size=3)
        assert retriever.search(queries, 1) == [expected(query, 1) for query in queries]
        assert retriever.search([], 1) == []
    assert [request["queries"] for request in server.requests] == [queries[:3], queries[3:6], queries[6:]]


def test_one_client_serves_many_threads(tmp_path: Path) -> None:
    """Threads that share a client and its cache get their own answers."""
    with stand_in(SearchR1()) as url:
        retriever = HTTPRetriever(url, cache_dir=tmp_path)

        def work(thread: int) -> None:
            for turn in range(8):
                queries = [f"{thread % 4}.{turn}", "shared", f"{thread}.{turn}"]
                assert retriever.search(queries, 2) == [expected(query, 2) for query in queries]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


GOOD = {"document": {"id": "0", "contents": '"T"\nx'}, "score": 1.0}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>hello</html>", "Expecting value"),
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "decode"),
        (b"[" * 100_000, "recursion|Expecting"),
        (b'"result"', "no object"),
        ({"results": [[GOOD]]}, 'no object with a list "result"'),
        ({"result": None}, 'no object with a list "result"'),
        ({"result": []}, "0 results for 1 queries"),
        ({"result": [[GOOD], [GOOD]]}, "2 results for 1 queries"),
        ({"result": [None]}, "result 0 is no list"),
        ({"result": [[GOOD] * 3]}, "result 0 is no list of at most 2"),
        ({"result": [["text"]]}, 'result 0, document 0 has no object "document"'),
        ({"result": [[GOOD, GOOD["document"]]]}, 'result 0, document 1 has no object "document"'),
        ({"result": [[{"document": GOOD["document"]}]]}, '"score" is None'),
        ({"result": [[{**GOOD, "score": "1"}]]}, "\"score\" is '1'"),
        ({"result": [[{**GOOD, "score": float("nan")}]]}, '"score" is nan'),
        ({"result": [[{**GOOD, "document": {"id": "0"}}]]}, 'neither "contents" nor "text"'),
        ({"result": [[{**GOOD, "document": {"id": "0", "contents": 3}}]]}, '"contents" is 3'),
        ({"result": [[{**GOOD, "document": {"id": None, "contents": "x"}}]]}, '"id" is None'),
    ],
)
def test_garbage_is_a_typed_error(answer: object, says: str) -> None:
    """Whatever is not a result raises and says what is wrong with it; none of it becomes an empty result."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    with (
        stand_in(lambda request: (200, body)) as url,
        pytest.raises(RetrieverError, match=rf"{url}/retrieve answered what is not a result \(.*({says})"),
    ):
        HTTPRetriever(url, retries=0).search(["q"], 2)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b"no such page", "answered 404: no such page"),
        (422, b"[]", r"answered 422: \[\]"),
        (401, b"", "answered 401"),
    ],
)
def test_refusals_are_not_retried(status: int, body: bytes, says: str) -> None:
    """A refusal that will not change raises at once, with what the server said; the error is not a passing one."""
    asked = []

    def refuse(request: dict[str, object]) -> tuple[int, bytes]:
        asked.append(request)
        return status, body

    with stand_in(refuse) as url, pytest.raises(RetrieverError, match=says) as error:
        HTTPRetriever(url).search(["q"], 1)
    assert len(asked) == 1 and not error.value.passing


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599, 0])
def test_passing_failures_are_retried(status: int) -> None:
    """A server's own failure or a connection cut without an answer (0) is tried again until retries are used up."""
    failures = iter([(status, b"{}")])
    server = SearchR1()
    with stand_in(lambda request: next(failures, None) or server(request)) as url:
        assert HTTPRetriever(url, retries=1).search(["q"], 1) == [expected("q", 1)]
    says = f"answered {status}: try later" if status else "cannot be reached"
    with (
        stand_in(lambda request: (status, b'{"detail": "try later"}')) as url,
        pytest.raises(RetrieverError, match=says) as error,
    ):
        HTTPRetriever(url, retries=1).search(["q"], 1)
    assert error.value.passing


def test_an_answer_cut_in_the_middle_is_retried() -> None:
    """An answer that ends before its announced length is a failed connection, not a short result."""
    server = SearchR1()
    with (
        stand_in(server, headers={"Content-Length": "100000"}) as url,
        pytest.raises(RetrieverError, match=r"cannot be reached .*IncompleteRead"),
    ):
        HTTPRetriever(url, retries=1).search(["q"], 1)
    assert len(server.requests) == 2


def test_pauses_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between tries are 0, 0.5, 1 and 2 seconds, each with up to 0.25 more."""
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    with stand_in(lambda request: (503, b"{}")) as url, pytest.raises(RetrieverError, match="503"):
        HTTPRetriever(url, retries=4).search(["q"], 1)
    assert len(pauses) == 3  # the first try again comes at once
    assert all(base <= pause <= base + 0.25 for base, pause in zip((0.5, 1, 2), pauses, strict=True))


@pytest.mark.parametrize(("asked", "least", "most"), [("3", 3, 3.25), ("3600", 10, 10.25)])
def test_retry_after(monkeypatch: pytest.MonkeyPatch, asked: str, least: float, most: float) -> None:
    """The pause the server asks for is kept, up to ten seconds, and differs between clients."""
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    with stand_in(lambda request: (503, b"{}"), headers={"Retry-After": asked}) as url, pytest.raises(RetrieverError):
        HTTPRetriever(url, retries=3).search(["q"], 1)
    assert len(set(pauses)) == 3
    assert all(least <= pause <= most for pause in pauses)


def test_slow_server_times_out_twice() -> None:
    """A server that takes too long is asked once more, and no oftener: it may still be working at the first request."""
    server = SearchR1()
    start = time.monotonic()
    with stand_in(server, pause_s=30) as url, pytest.raises(RetrieverError, match=r"longer than timeout_s=0\.3 sec"):
        HTTPRetriever(url, timeout_s=0.3).search(["q"], 1)
    assert time.monotonic() - start < 5
    assert len(server.requests) <= 2


def test_nobody_listens() -> None:
    """A URL without a server is an error that names it."""
    with stand_in(SearchR1()) as url:
        pass
    with pytest.raises(RetrieverError, match=f"{url}/retrieve cannot be reached .*is the server running"):
        HTTPRetriever(url, retries=1).search(["q"], 1)


def test_cache_by_url(tmp_path: Path) -> None:
    """Against a server without /health, k and query decide; only what is missing is asked, also by a later client."""
    server = SearchR1()
    with stand_in(server) as url:
        HTTPRetriever(url, cache_dir=tmp_path).search(["a", "b"], 2)
        later = HTTPRetriever(url, cache_dir=tmp_path)
        assert later.search(["b", "c", "a"], 2) == [expected(query, 2) for query in "bca"]
        assert later.search(["a"], 1) == [expected("a", 1)]
    assert [(request["queries"], request["topk"]) for request in server.requests] == [
        (["a", "b"], 2),
        (["c"], 2),
        (["a"], 1),
    ]
    with stand_in(server) as other:  # another URL may be another index
        assert HTTPRetriever(other, cache_dir=tmp_path).search(["a"], 2) == [expected("a", 2)]
    assert len(server.requests) == 4


def test_cache_by_index(tmp_path: Path) -> None:
    """Against our server the index decides: another URL of the same one hits, another index never does."""
    pytest.importorskip("fastapi")
    first, again, other = Echo(), Echo(), Echo()
    for retriever, index in ((first, "1"), (again, "1"), (other, "2")):
        with served(retriever, index={"corpus": index}) as url:
            assert HTTPRetriever(url, cache_dir=tmp_path).search(["a"], 1) == [echoed("a", 1)]
    assert (first.calls, again.calls, other.calls) == ([["a"]], [], [["a"]])


def test_cache_follows_a_server_that_changes_its_index(tmp_path: Path) -> None:
    """Answers are kept under the index that gave them, also when a running client's server gets another index."""
    pytest.importorskip("fastapi")
    old, new = Echo(), Echo()
    with served(old, index={"corpus": "1"}) as old_url, served(new, index={"corpus": "2"}) as new_url:
        retriever = HTTPRetriever(old_url, cache_dir=tmp_path)
        retriever.search(["a"], 1)
        retriever._server.url = new_url
        retriever.search(["b"], 1)
        for url in (old_url, new_url):
            assert HTTPRetriever(url, cache_dir=tmp_path).search(["a", "b"], 1) == [echoed("a", 1), echoed("b", 1)]
    assert (old.calls, new.calls) == ([["a"], ["b"]], [["b"], ["a"]])


def test_a_server_that_is_gone_is_asked_for_its_index_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached answers cost the pauses of the retries once, not at every search."""
    pauses: list[float] = []
    with stand_in(SearchR1()) as url:
        HTTPRetriever(url, cache_dir=tmp_path).search(["a", "b"], 1)
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    retriever = HTTPRetriever(url, retries=2, cache_dir=tmp_path)
    assert [retriever.search([query], 1) for query in "aba"] == [[expected(query, 1)] for query in "aba"]
    assert len(pauses) == 1


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    """When the second of two batches fails, the first is in the cache: nothing is paid for twice."""
    server = SearchR1()
    limited = threading.Event()

    def once(request: dict[str, object]) -> tuple[int, bytes]:
        if limited.is_set():
            return 500, b"{}"
        limited.set()
        return server(request)

    with stand_in(once) as url:
        retriever = HTTPRetriever(url, batch_size=1, retries=0, cache_dir=tmp_path)
        with pytest.raises(RetrieverError, match="500"):
            retriever.search(["a", "b"], 1)
        assert retriever.search(["a"], 1) == [expected("a", 1)]


def test_unusable_cache_is_named(tmp_path: Path) -> None:
    """A cache that is no folder, or a damaged one, is an error that names it."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RetrieverError, match="file cannot be used"):
        HTTPRetriever("http://127.0.0.1:1", cache_dir=tmp_path / "file")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "answers-1.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(RetrieverError, match="damaged cannot be used"):
        HTTPRetriever("http://127.0.0.1:1", cache_dir=damaged)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"url": "127.0.0.1:8000"}, "url='127.0.0.1:8000'"),
        ({"url": "ftp://host"}, "url='ftp://host'"),
        ({"url": "http://"}, "url='http://'"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"retries": -1}, "retries=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], says: str) -> None:
    """Arguments that cannot work are refused at construction."""
    with pytest.raises(ValueError, match=says):
        HTTPRetriever(**{"url": "http://127.0.0.1:1", **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("queries", "k", "says"), [(["a"], 0, "k=0"), ("a", 1, "one string")])
def test_bad_searches_are_named(queries: Sequence[str], k: int, says: str) -> None:
    """The arguments of search are checked before anything is sent."""
    with pytest.raises(ValueError, match=says):
        HTTPRetriever("http://127.0.0.1:1").search(queries, k)
