"""Parse and run `a2tgpo report RUN [RUN ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from a2tgpo.report.run_data import RunData

_OUTPUT = {"html": "report.html", "json": "report.json", "csv": "report.csv", "png": "report_figures"}


def add_report_command(commands: Any) -> None:
    """Add `report` to the subparsers of the command line."""
    summary = "show runs as one offline HTML page, or write the numbers of its figures"
    command = commands.add_parser("report", help=summary, description=summary, allow_abbrev=False)
    command.add_argument("runs", metavar="RUN", nargs="+", help="directory of `a2tgpo train` or `a2tgpo eval RECIPE`")
    command.add_argument(
        "-o", "--output", help="file, or folder for png; default: " + ", ".join(_OUTPUT.values()), default=None
    )
    command.add_argument("--format", choices=tuple(_OUTPUT), default="html", help="default: html")
    command.add_argument(
        "--max_rollouts", type=int, default=2000, help="rollouts to read in the page; figures use all (default: 2000)"
    )
    command.add_argument(
        "--watch",
        metavar="PORT",
        nargs="?",
        const=0,
        type=int,
        default=None,
        help="serve the page on this machine alone and reload it while the runs go on (default: any free port)",
    )
    command.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    """Read the runs, write the output, say where it is.

    Raises:
        RecipeError: an unknown argument, an output that cannot be written, or a missing library.
        DataError: a path that is no run directory.
    """
    if overrides:
        raise RecipeError(f"`a2tgpo report` does not know {' '.join(overrides)!r}; see a2tgpo report --help")
    if arguments.max_rollouts < 1:
        raise RecipeError(f"--max_rollouts {arguments.max_rollouts}: must be at least 1")
    paths = [Path(run) for run in arguments.runs]
    if arguments.watch is not None:
        return _watch(arguments, paths, console)
    output = Path(arguments.output or _OUTPUT[arguments.format])
    runs = _read(paths)
    for run in runs:
        for notice in run.notices:
            console.print(f"{run.name}: {notice}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _writer(arguments)(output, runs)
    except OSError as error:
        raise RecipeError(f"-o {str(output)!r} cannot be written: {error.strerror or error}") from error
    console.print(f"written: {output}", highlight=False, soft_wrap=True, markup=False)
    return 0


def _read(paths: list[Path]) -> list[RunData]:
    from a2tgpo.report.run_data import read_runs
    from a2tgpo.report.terms import add_terms

    try:
        runs = read_runs(paths)
    except OSError as error:
        raise RecipeError(f"{error.filename!r} cannot be read: {error.strerror or error}") from error
    for run in runs:
        add_terms(run)
    return runs


def _writer(arguments: argparse.Namespace) -> Callable[[Path, list[RunData]], None]:
    """Return what writes the output; an output of before stays where it fails."""
    from a2tgpo.report.figure_export import write_csv, write_json, write_png
    from a2tgpo.report.figures import figures_of
    from a2tgpo.report.page import render_page
    from a2tgpo.report.series import arms_of

    if arguments.format == "html":
        return lambda output, runs: _write_whole(output, render_page(runs, arguments.max_rollouts))
    write = {"json": write_json, "csv": write_csv, "png": write_png}[arguments.format]

    def write_figures(output: Path, runs: list[RunData]) -> None:
        arms = arms_of(runs)
        write(output, figures_of(arms), arms)

    return write_figures


def _write_whole(output: Path, page: str) -> None:
    from a2tgpo.files import new_file

    with new_file(output) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def _watch(arguments: argparse.Namespace, paths: list[Path], console: Console) -> int:
    from a2tgpo.report.page import render_page
    from a2tgpo.report.watch import WatchedPage, open_server

    if arguments.format != "html" or arguments.output:
        raise RecipeError("--watch serves the page and writes no file: leave out --format and --output")
    watched = WatchedPage(paths, lambda stamp: render_page(_read(paths), arguments.max_rollouts, stamp=stamp))
    watched.page()
    try:
        server = open_server(watched, arguments.watch)
    except (OSError, OverflowError) as error:
        raise RecipeError(f"--watch {arguments.watch}: the port cannot be opened ({error}); choose another") from error
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    console.print(f"{address} shows the runs as they go on; Ctrl-C ends it", highlight=False, soft_wrap=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended", highlight=False)
    return 0
