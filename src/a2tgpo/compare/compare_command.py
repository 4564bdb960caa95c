"""Parse and run `a2tgpo compare RECIPE.yaml --methods grpo,a2tgpo --seeds 5 --output_dir DIR [--key value ...]`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def add_compare_command(commands: Any) -> None:
    """Add `compare` to the subparsers of the command line."""
    summary = "train several methods on several seeds of one recipe and compare them"
    command = commands.add_parser(
        "compare",
        help=summary,
        description=summary,
        epilog="Every recipe key is a flag too, such as --max_steps 50; `a2tgpo keys` lists them all. The same command "
        "again goes on where it stopped.",
        allow_abbrev=False,
    )
    command.usage = (
        "a2tgpo compare RECIPE.yaml [--methods A,B] [--vary KEY=a,b,c ...] --seeds N --output_dir DIR [--jobs N] "
        "[--launcher 'torchrun ...'] [--key value ...]"
    )
    command.add_argument("recipe", metavar="RECIPE.yaml")
    command.add_argument(
        "--methods", default=None, help="rows of the methods table, by commas; or all (default: the recipe's method)"
    )
    command.add_argument(
        "--vary",
        metavar="KEY=a,b,c",
        action="append",
        default=[],
        help="values of a recipe key to compare; again for another key: every combination is run",
    )
    command.add_argument("--seeds", type=int, required=True, help="how many: seeds 0 to N − 1")
    command.add_argument("--output_dir", type=Path, required=True, help="one folder per method in it, one run per seed")
    command.add_argument("--jobs", type=int, default=1, help="runs at a time, on one thread each (default: 1)")
    command.add_argument(
        "--launcher",
        default=None,
        help="what starts each run in place of python, such as 'accelerate launch --num_processes 2' or "
        "'torchrun --nproc_per_node 2'; `-m a2tgpo.cli train ...` follows it",
    )
    command.set_defaults(run=run_compare)


def run_compare(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    """Run what is missing, then write the comparison; return 1 where a run failed.

    Raises:
        RecipeError: a method, number, recipe or folder that cannot be compared; nothing has run.
    """
    from a2tgpo.compare.comparison import Comparison
    from a2tgpo.compare.comparison_table import as_markdown, as_tables
    from a2tgpo.compare.learning_curves import draw_curves
    from a2tgpo.compare.matrix import open_matrix
    from a2tgpo.compare.schedule import run_cells
    from a2tgpo.errors import RecipeError
    from a2tgpo.files import new_file
    from a2tgpo.messages import quieten

    quieten()
    if arguments.jobs < 1:
        raise RecipeError(f"--jobs {arguments.jobs}: must be at least 1")
    program = _program(arguments.launcher)
    matrix = open_matrix(
        arguments.recipe, arguments.methods, arguments.seeds, arguments.output_dir, overrides, arguments.vary
    )
    try:
        failed = run_cells(matrix, arguments.jobs, console, program)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("runs keep their checkpoints; the same command goes on") from None
    comparison = Comparison.of(matrix)
    for name, text in (("summary.json", comparison.as_json()), ("summary.md", as_markdown(comparison))):
        with new_file(matrix.root / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    for table in as_tables(comparison):
        console.print(table, "")
    try:
        draw_curves(matrix, matrix.root / "curves.svg")
    except ImportError:
        console.print("no learning curves: they need matplotlib, pip install 'a2tgpo[figures]'", style="yellow")
    console.print(f"everything is in {matrix.root}", soft_wrap=True, highlight=False)
    return 1 if failed else 0


def _program(launcher: str | None) -> list[str]:
    """Return the command that arguments of `a2tgpo` follow.

    Raises:
        RecipeError: a launcher that is not there, or no command at all.
    """
    from a2tgpo.errors import RecipeError

    if launcher is None:
        return [sys.executable, "-m", "a2tgpo.cli"]
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise RecipeError(f"--launcher {launcher!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise RecipeError(f"--launcher {launcher!r}: no such program; give one such as 'torchrun --nproc_per_node 2'")
    return [*words, "-m", "a2tgpo.cli"]
