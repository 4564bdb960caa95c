"""Run `a2tgpo serve INDEX`: open an index, serve it on a socket until a signal, and end in order."""

from __future__ import annotations

import argparse
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import A2TGPOError, RecipeError, needs_extra
from a2tgpo.retrieval.server.limits import ServerLimits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from rich.console import Console


def add_serve_command(commands: Any) -> None:
    """Add `serve` to the subparsers of the command line."""
    summary = "serve an index over HTTP, as Search-R1's retrieval server does"
    command = commands.add_parser("serve", help=summary, description=summary, allow_abbrev=False)
    command.add_argument("index", metavar="INDEX", help="folder that `a2tgpo index` wrote")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    command.add_argument("--encoder", help="dense: the encoder's folder here, where it is not the index's own")
    command.add_argument("--effort", type=int, help="hnsw, ivfpq: candidates or cells per query (default: 256 or 128)")
    for bound in fields(ServerLimits):
        command.add_argument(
            f"--{bound.name}",
            type=type(bound.default),
            default=bound.default,
            help=f"{bound.metadata['help']} (default: {bound.default})",
        )
    command.add_argument(
        "--drain_s", type=int, default=30, help="seconds to finish accepted requests after SIGTERM (default: 30)"
    )
    command.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    """Open the index, serve it until a signal.

    Raises:
        RecipeError: an unknown or impossible argument, or an address that is taken.
        MissingExtra: a library is missing.
        IndexMismatch: the folder holds no index that can be served.
    """
    if overrides:
        raise RecipeError(f"`a2tgpo serve` does not know {' '.join(overrides)!r}; see a2tgpo serve --help")
    try:
        limits = ServerLimits(**{bound.name: getattr(arguments, bound.name) for bound in fields(ServerLimits)})
    except ValueError as failure:
        raise RecipeError(f"--{failure}") from failure
    with needs_extra("server", "`a2tgpo serve`"):
        from a2tgpo.retrieval.server.app import make_app
    from a2tgpo.retrieval.manifest import Manifest
    from a2tgpo.retrieval.source import open_index

    folder = Path(arguments.index)
    given = {name: value for name in ("encoder", "effort") if (value := getattr(arguments, name)) is not None}
    try:
        retriever = open_index(folder, **given)
    except ValueError as failure:
        raise failure if isinstance(failure, A2TGPOError) else RecipeError(str(failure)) from failure
    facts = {**asdict(Manifest.read(folder)), **given}  # both can change what is found, so both are in the fingerprint

    def announce(url: str) -> None:
        console.print(f"serving {folder} at {url}/retrieve", highlight=False, soft_wrap=True, markup=False)

    serve(make_app(retriever, limits, facts), arguments.host, arguments.port, arguments.drain_s, announce)
    console.print("stopped", highlight=False)
    return 0


def serve(app: FastAPI, host: str, port: int, drain_s: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then refuses connections, finishes what it accepted, and returns.

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
    import uvicorn

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
