"""Runs the application on a socket until a signal, and ends in order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(app: FastAPI, host: str, port: int, drain_s: int, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then refuses connections, finishes what it accepted, and returns.

    Call it from the main thread, which receives the signals.

    Args:
        app: what `make_app` made.
        host: name or address to listen on.
        port: port to listen on; 0 takes a free one.
        drain_s: most seconds for what was accepted; requests unfinished by then get no answer.
        announce: called with the server's URL when it can be connected to.

    Raises:
        RecipeError: the address is taken or not this machine's.
    """
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    announce(f"http://{name}:{listener.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=drain_s)
    # uvicorn handles both signals itself while it runs, and passes them on to these handlers when it is done.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as failure:
        raise RecipeError(
            f"cannot listen on {host}, port {port} ({failure}); give another --host or --port"
        ) from failure
    # Connections inherit it. Without it the body of an answer waits 40 ms for the headers' acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
