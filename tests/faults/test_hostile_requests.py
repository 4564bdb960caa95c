"""What anybody may send to the retrieval server: it says no in one small sentence, and serves the others meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import urllib3

from a2tgpo.retrieval import Hit, Passage
from tests.retrieval.server.parts import Echo, metrics, post, served

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(Echo(), body_timeout_s=1.0, concurrency=4, max_passages=200) as url:
        yield url


HOSTILE = [
    b'{"queries":[' + b",".join([b"1"] * 2000) + b"]}",
    b'{"queries":[' + b",".join([b"null"] * 4000) + b"]}",
    b'{"queries":[["a"]]}',
    b'{"queries":{"a":1}}',
    b'{"queries":["a\\ud83d"]}',
    b'{"queries":["a"],"topk":NaN}',
    b'{"queries":["a"],"topk":Infinity}',
    b'{"queries":["a"],"topk":1.5}',
    b'{"queries":["a"],"topk":true}',
    b'{"queries":["a"],"topk":"3"}',
    b'{"queries":["a"],"topk":1e300}',
    b'{"queries":["a"],"topk":' + b"9" * 5000 + b"}",
    b'{"queries":["a"],"topk":[3]}',
    b'{"queries":["a"],"return_scores":"yes"}',
    b'{"queries":["a","b","c"],"topk":100}',
    b"[" * 100_000,
    b'"queries"',
    b"\xff\xfe",
    b"",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
def test_the_answer_is_422_and_small(url: str, body: bytes) -> None:
    """Whatever is wrong, the first of it is named in a sentence, and the input is not sent back."""
    response = post(url, body)
    assert response.status == 422
    assert len(response.data) < 600
    assert set(response.json()) == {"error", "detail"}


def test_millions_of_wrong_queries_take_no_time(url: str) -> None:
    """Four megabytes of numbers are refused in a moment, while /health goes on answering."""
    body = b'{"queries":[' + b",".join([b"1"] * 2_000_000) + b"]}"
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(post, url, body)
        while not refused.done():
            asked = time.monotonic()
            assert urllib3.request("GET", f"{url}/health", timeout=20).status == 200
            assert time.monotonic() - asked < 2
    assert refused.result().status == 422 and len(refused.result().data) < 600
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("length", [100, 16_000_000])
def test_half_sent_bodies_lock_nobody_out(url: str, length: int) -> None:
    """Many more than `concurrency` clients that never finish: an honest one is served, and they get 408 in time."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    before = metrics(url).get('requests_total{status="408"}', 0)
    head = (
        b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{" % length
    )
    slow = [socket.create_connection((host, port)) for _ in range(16)]
    try:
        for connection in slow:
            connection.sendall(head)
        time.sleep(0.2)
        assert post(url, {"queries": ["a"]}).status == 200
        for connection in slow:
            connection.settimeout(10)
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
    finally:
        for connection in slow:
            connection.close()
    assert metrics(url)['requests_total{status="408"}'] == before + 16
    assert post(url, {"queries": ["a"]}).status == 200


@pytest.mark.parametrize("score", [float("nan"), "text"])
def test_every_500_is_counted(score: object) -> None:
    """A failure of the retriever or of the answer's JSON is a 500 in /metrics."""

    class Broken:
        def search(self, queries: list[str], k: int) -> list[list[Hit]]:
            return [[Hit(Passage("0", "T", "x"), score)] for _ in queries]  # type: ignore[arg-type]

    with served(Broken()) as url:
        response = post(url, {"queries": ["a"], "return_scores": True})
        assert (response.status, response.json()["error"]) == (500, "RetrieverFailed")
        assert metrics(url)['requests_total{status="500"}'] == 1


def test_what_breaks_the_application_itself_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a failure outside of the search is answered, and counted, as 500."""
    from a2tgpo.retrieval.server import app

    def broken(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(app.RetrieveRequest, "parse", broken)
    with served(Echo()) as url:
        assert post(url, {"queries": ["a"]}).status == 500
        assert metrics(url)['requests_total{status="500"}'] == 1


def test_passages_with_half_a_pair_are_sent() -> None:
    """A retriever that gives text which cannot be encoded does not fail the requests that find it."""

    class Half:
        def search(self, queries: list[str], k: int) -> list[list[Hit]]:
            return [[Hit(Passage("0\ud83d", "T", "x \udc00"), 1.0)] for _ in queries]

    with served(Half()) as url:
        ((document,),) = json.loads(post(url, {"queries": ["a"]}).data)["result"]
    assert document == {"id": "0\ufffd", "contents": '"T"\nx \ufffd'}
