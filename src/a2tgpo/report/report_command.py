"""Parse and run `a2tgpo report RUN [RUN ...]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console


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
    command.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    """Read the runs, write the output, say where it is.

    Raises:
        RecipeError: an unknown argument, or a missing library.
        DataError: a path that is no run directory.
    """
    from a2tgpo.report.figure_export import write_csv, write_json, write_png
    from a2tgpo.report.figures import figures_of
    from a2tgpo.report.page import render_page
    from a2tgpo.report.run_data import read_runs
    from a2tgpo.report.series import arms_of
    from a2tgpo.report.terms import add_terms

    if overrides:
        raise RecipeError(f"`a2tgpo report` does not know {' '.join(overrides)!r}; see a2tgpo report --help")
    if arguments.max_rollouts < 1:
        raise RecipeError(f"--max_rollouts {arguments.max_rollouts}: must be at least 1")
    output = Path(arguments.output or _OUTPUT[arguments.format])
    runs = read_runs([Path(run) for run in arguments.runs])
    for run in runs:
        add_terms(run)
        for notice in run.notices:
            console.print(f"{run.name}: {notice}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    if arguments.format == "html":
        output.write_text(render_page(runs, arguments.max_rollouts), encoding="utf-8")
    else:
        arms = arms_of(runs)
        write = {"json": write_json, "csv": write_csv, "png": write_png}[arguments.format]
        write(output, figures_of(arms), arms)
    console.print(f"written: {output}", highlight=False, soft_wrap=True, markup=False)
    return 0
