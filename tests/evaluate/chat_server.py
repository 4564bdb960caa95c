"""A chat server on a real socket that does as a test tells it to, well or badly, and remembers requests."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]


@dataclass(frozen=True)
class Says:
    """A well-formed completion: text, tool calls as (name, arguments), and how it finished."""

    text: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str = "stop"
    extra: dict[str, Any] | None = None  # of the choice
    message: dict[str, Any] | None = None  # more fields of the message

    def body(self, request: Request) -> bytes:
        calls = [
            {"id": f"call{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(self.calls)
        ]
        message = {"role": "assistant", "content": self.text} | ({"tool_calls": calls} if calls else {})
        choice = {"index": 0, "message": message | (self.message or {}), "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": 10 * len(request["messages"]), "completion_tokens": 7}
        return json.dumps({"choices": [choice | (self.extra or {})], "usage": usage}).encode()


@dataclass(frozen=True)
class Refuses:
    """An HTTP error."""

    status: int
    message: str = "no"


@dataclass(frozen=True)
class Sends:
    """These bytes as a 200; `promised` is the length its header gives, the true one unless set."""

    content: bytes
    promised: int | None = None


@dataclass(frozen=True)
class HangsUp:
    """The connection closes without a word."""


@dataclass(frozen=True)
class Trickles:
    """A 200 whose body never ends."""


@dataclass(frozen=True)
class Stalls:
    """Nothing for so many seconds."""

    seconds: float


Response = Says | Refuses | Sends | HangsUp | Trickles | Stalls


class Slow:
    """Answers as `respond` does, `seconds` later; `most` is how many requests were on their way at once."""

    def __init__(self, respond: Callable[[Request], Response], seconds: float = 0.2) -> None:
        self.respond, self.seconds = respond, seconds
        self.most = self._running = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(self.seconds)
        with self._lock:
            self._running -= 1
        return self.respond(request)


def question_of(request: Request) -> str:
    """The user's first message."""
    return next(m["content"] for m in request["messages"] if m["role"] == "user")


def turn_of(request: Request) -> int:
    """How many messages the model has written before."""
    return sum(m["role"] == "assistant" for m in request["messages"])


class ChatServer:
    """Serves `respond(request)` until stopped; can be started again on the same port."""

    def __init__(self, respond: Callable[[Request], Response], port: int = 0) -> None:
        self.respond, self.port = respond, port
        self.requests: list[Request] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def questions(self) -> list[str]:
        """Of the requests so far that began a conversation."""
        return [question_of(request) for request in self.requests if turn_of(request) == 0]

    def __enter__(self) -> ChatServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Refuse connections from now on; what is being answered is still answered."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request["path"], request["key"] = self.path, self.headers.get("Authorization")
                outer.requests.append(request)
                match outer.respond(request):
                    case Says() as said:
                        self._send(200, said.body(request))
                    case Refuses(status, message):
                        self._send(status, json.dumps({"error": {"message": message}}).encode())
                    case Sends(content, promised):
                        self._send(200, content, promised)
                    case Stalls(seconds):
                        time.sleep(seconds)
                    case Trickles():
                        self._send(200, b"{", promised=10**9)
                        with contextlib.suppress(OSError):
                            while True:
                                self.wfile.write(b" ")
                                time.sleep(0.05)
                    case HangsUp():
                        pass

            def _send(self, status: int, content: bytes, promised: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content) if promised is None else promised))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
