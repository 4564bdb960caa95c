"""`a2tgpo serve INDEX`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import A2TGPOError, RecipeError
from a2tgpo.retrieval.server.limits import ServerLimits

if TYPE_CHECKING:
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
        RecipeError: an unknown or impossible argument, an address that is taken, or a missing library.
        IndexMismatch: the folder holds no index that can be served.
    """
    if overrides:
        raise RecipeError(f"`a2tgpo serve` does not know {' '.join(overrides)!r}; see a2tgpo serve --help")
    try:
        limits = ServerLimits(**{bound.name: getattr(arguments, bound.name) for bound in fields(ServerLimits)})
    except ValueError as failure:
        raise RecipeError(f"--{failure}") from failure
    try:
        from a2tgpo.retrieval.server.app import make_app
        from a2tgpo.retrieval.server.run import serve
    except ModuleNotFoundError as missing:
        raise RecipeError(f"`a2tgpo serve` needs {missing.name}; pip install 'a2tgpo[server]'") from missing
    from a2tgpo.retrieval.index import open_index
    from a2tgpo.retrieval.manifest import Manifest

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
