"""Servers on real sockets: ours in a thread or a process, and a hand-written stand-in for Search-R1's."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3

from a2tgpo.retrieval import Hit, Passage, Retriever


class Echo:
    """Finds k passages that name the query, so that every answer can be checked against its question.

    "nothing" finds nothing, "raise" raises, "sleep S" takes S seconds. Records the queries of every call.
    """

    def __init__(self) -> None:
        self.calls: list[Sequence[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls.append(queries)
        if "raise" in queries:
            raise KeyError("passage 7 is not in the corpus")
        time.sleep(sum(float(query.split()[1]) for query in queries if query.startswith("sleep ")))
        return [echoed(query, k) for query in queries]


def echoed(query: str, k: int) -> list[Hit]:
    """What `Echo` finds."""
    if query == "nothing":
        return []
    return [Hit(Passage(f"{query}/{rank}", f"On {query}", f"Line {rank}.\nEnd."), 1 / (1 + rank)) for rank in range(k)]


@contextmanager
def served(retriever: Retriever, index: dict[str, object] | None = None, **limits: float) -> Iterator[str]:
    """Our application in a thread; gives its URL."""
    import uvicorn

    from a2tgpo.retrieval.server.app import make_app
    from a2tgpo.retrieval.server.limits import ServerLimits

    app = make_app(retriever, ServerLimits(**limits), index)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


class Process:
    """`echo_server.py`: our server with an `Echo` in a process of its own, to be killed."""

    def __init__(self, *arguments: str) -> None:
        script = Path(__file__).with_name("echo_server.py")
        command = [sys.executable, str(script), *arguments]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        self.url = self.popen.stdout.readline().strip()
        assert self.url.startswith("http://"), self.popen.communicate()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate()


Answer = Callable[[dict[str, object]], tuple[int, bytes]]


@contextmanager
def stand_in(answer: Answer, pause_s: float = 0.0, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A server whose POST answers are the test's, and GET is 404, as Search-R1's. Status 0 hangs up."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stop.wait(pause_s)
            self._reply(*answer(request))

        def do_GET(self) -> None:
            self._reply(404, b'{"detail":"Not Found"}')

        def _reply(self, status: int, body: bytes) -> None:
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            usual = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for name, value in {**usual, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def post(url: str, body: object, **headers: str) -> urllib3.BaseHTTPResponse:
    """One request to /retrieve, as any client would send it, without retries."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **headers}
    return urllib3.request("POST", f"{url}/retrieve", body=data, headers=sent, retries=False, timeout=20)


def metrics(url: str) -> dict[str, float]:
    """The samples of /metrics by name and labels."""
    text = urllib3.request("GET", f"{url}/metrics", timeout=20).data.decode()
    return {name: float(value) for name, value in re.findall(r"^a2tgpo_retrieval_(\S+) (\S+)$", text, re.MULTILINE)}


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for the condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
