"""A server that is told to stop finishes what it accepted; one that is killed is an error for its clients."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from a2tgpo.environments import SearchTool
from a2tgpo.errors import RetrieverError, ToolError
from a2tgpo.retrieval.client import HTTPRetriever
from tests.retrieval.server.parts import Process, echoed, metrics, post, until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(number: int) -> None:
    """After the signal nobody can connect, every accepted request is answered in full, and the exit status is 0."""
    queries = [f"sleep 0.3 {i}" for i in range(3)]
    with Process("20") as server, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, server.url, {"queries": [query], "topk": 1}) for query in queries]
        until(lambda: metrics(server.url).get("queries_total") == 3)
        server.popen.send_signal(number)
        time.sleep(0.2)
        with pytest.raises(urllib3.exceptions.HTTPError):
            post(server.url, {"queries": ["late"]})
        for query, answer in zip(queries, answers, strict=True):
            assert answer.result(20).json()["result"][0][0]["id"] == f"{query}/0"
        output, errors = server.popen.communicate(timeout=20)
    assert (server.popen.returncode, output, errors) == (0, "stopped\n", "")


def test_drain_is_bounded() -> None:
    """A retriever that hangs does not keep a stopped server: after the drain its client gets an error, not a result."""
    with Process("1") as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, server.url, {"queries": ["sleep 60"]})
        until(lambda: metrics(server.url).get("queries_total") == 1)
        server.popen.terminate()
        server.popen.wait(timeout=10)
        failure = answer.exception(20)
        assert isinstance(failure, urllib3.exceptions.HTTPError) or answer.result().status >= 500


def test_killed_server(tmp_path: Path) -> None:
    """Kill -9 in the middle of a search: a typed error for it and for later ones, and the cache still answers."""
    with Process("1") as server, ThreadPoolExecutor(1) as pool:
        client = HTTPRetriever(server.url, retries=1, cache_dir=tmp_path)
        assert client.search(["a", "nothing"], 2) == [echoed("a", 2), []]
        running = pool.submit(client.search, ["sleep 60"], 2)
        until(lambda: metrics(server.url)["queries_total"] == 3)
        server.popen.kill()
        with pytest.raises(RetrieverError, match="cannot be reached"):
            running.result(20)
        with pytest.raises(RetrieverError, match="cannot be reached"):
            client.search(["a", "b"], 2)
        for reader in (client, HTTPRetriever(server.url, retries=0, cache_dir=tmp_path)):
            assert reader.search(["a", "nothing", "a"], 2) == [echoed("a", 2), [], echoed("a", 2)]
        with pytest.raises(ToolError, match=r"search 'b' failed: http.*cannot be reached") as error:
            SearchTool(client, k=2)(["b", "a"])
        assert isinstance(error.value.__cause__, RetrieverError)
