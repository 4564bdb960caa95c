"""Serve the page on this machine alone, and render it again whenever the runs have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from a2tgpo.errors import A2TGPOError

_HOST = "127.0.0.1"
_WATCHED = ("config.yaml", "metrics.jsonl", "summary.json", "rollouts/*.jsonl", "eval/*.jsonl")


class WatchedPage:
    """Hold the newest page that could be rendered, and render it again once a file of the runs has changed.

    `render` is given the stamp of the files it reads.
    """

    def __init__(self, runs: Sequence[Path], render: Callable[[str], str]) -> None:
        self._runs = runs
        self._render = render
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self._page = ""

    @property
    def stamp(self) -> str:
        """Return a text that changes with the files of the runs."""
        newest, size, count = 0, 0, 0
        for file in (file for run in self._runs for pattern in _WATCHED for file in run.glob(pattern)):
            try:
                status = file.stat()
            except OSError:  # renamed or removed since it was listed
                continue
            newest, size, count = max(newest, status.st_mtime_ns), size + status.st_size, count + 1
        return f"{newest}-{size}-{count}"

    def page(self) -> str:
        """Return the newest page; the one before it where the runs cannot be read at the moment.

        Raises:
            A2TGPOError: the first page cannot be rendered.
        """
        with self._lock:
            stamp = self.stamp
            if stamp != self._stamp:
                try:
                    self._page = self._render(stamp)
                except A2TGPOError:
                    if not self._page:
                        raise
                self._stamp = stamp
            return self._page


def open_server(watched: WatchedPage, port: int) -> ThreadingHTTPServer:
    """Open a server of the page at `/` and of its stamp at `/stamp`, on the loopback interface.

    Requests that name another host are refused, so that no web page elsewhere can read this one.

    Raises:
        OSError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server: ThreadingHTTPServer

        def do_GET(self) -> None:
            name, _, asked = self.headers.get("Host", "").partition(":")
            if name not in (_HOST, "localhost") or asked not in ("", str(self.server.server_port)):
                return self.send_error(HTTPStatus.FORBIDDEN)
            path = urlsplit(self.path).path
            if path == "/stamp":
                return self._answer(watched.stamp, "text/plain")
            if path != "/":
                return self.send_error(HTTPStatus.NOT_FOUND)
            try:
                self._answer(watched.page(), "text/html")
            except A2TGPOError as error:
                self._answer(f"error: {error}", "text/plain")

        def _answer(self, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a page asks every other second."""

    return ThreadingHTTPServer((_HOST, port), Handler)
