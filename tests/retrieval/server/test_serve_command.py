"""`a2tgpo serve`: an index that `a2tgpo index` built, on a socket, from a command line."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from a2tgpo.cli import main
from a2tgpo.retrieval import BM25Retriever
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.retrieval.server.limits import ServerLimits
from a2tgpo.retrieval.settings import IndexSettings
from tests.retrieval.worlds import passages, write_corpus

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    build_index(write_corpus(folder / "corpus.jsonl", passages(40)), folder / "index", IndexSettings.of("bm25"))
    return folder / "index"


def test_serves_an_index(index: Path) -> None:
    """A built index, served by the command, answers our client as the retriever in memory does; SIGTERM ends it, 0."""
    command = [sys.executable, "-m", "a2tgpo.cli", "serve", str(index), "--port", "0", "--topk", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith(f"serving {index} at http://127.0.0.1:"), server.communicate()
        url = line.split()[-1]
        queries = [passage.title for passage in passages(40)] + ["nowhere"]
        expected = BM25Retriever.from_passages(passages(40)).search(queries, 3)
        found = HTTPRetriever(url).search(queries, 3)
        assert [[hit.passage for hit in hits] for hits in found] == [[hit.passage for hit in hits] for hits in expected]
        health = urllib3.request("GET", url.removesuffix("retrieve") + "health").json()
        assert (health["status"], health["index"]["n_passages"]) == ("ready", 40)
        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=20)
    finally:
        server.kill()
    assert (server.returncode, output, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--concurrency", "0"], "--concurrency=0: must be at least 1"),
        (["--topk", "200"], "--topk=200: must be at most max_topk=100"),
        (["--workers", "2"], "does not know '--workers 2'"),
        (["--encoder", "e5"], "is a bm25 index"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
        (["--port", "70000"], "cannot listen on 127.0.0.1, port 70000"),
    ],
)
def test_arguments_that_cannot_work(
    index: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """Each is the user's error, status 2, named in one line."""
    assert main(["serve", str(index), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_taken_port_and_missing_index(index: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A port in use and a folder that is no index are named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(index), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --host or --port" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 2
    assert "is no index" in capsys.readouterr().err


def test_missing_library_names_the_extra(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FastAPI the command says what to install."""
    monkeypatch.delitem(sys.modules, "a2tgpo.retrieval.server.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", str(index)]) == 2
    assert "needs fastapi, which is not installed: pip install 'a2tgpo[server]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_batch": 0}, "max_batch=0: must be at least 1"),
        ({"batch_wait_ms": -1}, "batch_wait_ms=-1: must be at least 0"),
        ({"batch_wait_ms": float("nan")}, "batch_wait_ms=nan"),
        ({"topk": 101}, "topk=101: must be at most max_topk=100"),
    ],
)
def test_limits_are_checked(limits: dict[str, float], says: str) -> None:
    """Bounds that no request could meet are refused where they are made."""
    with pytest.raises(ValueError, match=says):
        ServerLimits(**limits)  # type: ignore[arg-type]
