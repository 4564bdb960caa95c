"""Parse and run `a2tgpo compare RECIPE.yaml --methods grpo,a2tgpo --seeds 5 --output_dir DIR [--key value ...]`."""

from __future__ import annotations

import argparse
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
    command.usage = "a2tgpo compare RECIPE.yaml --methods A,B --seeds N --output_dir DIR [--jobs N] [--key value ...]"
    command.add_argument("recipe", metavar="RECIPE.yaml")
    command.add_argument("--methods", required=True, help="rows of the methods table, by commas; or all")
    command.add_argument("--seeds", type=int, required=True, help="how many: seeds 0 to N − 1")
    command.add_argument("--output_dir", type=Path, required=True, help="one folder per method in it, one run per seed")
    command.add_argument("--jobs", type=int, default=1, help="runs at a time, on one thread each (default: 1)")
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
    from a2tgpo.messages import quieten

    quieten()
    if arguments.jobs < 1:
        raise RecipeError(f"--jobs {arguments.jobs}: must be at least 1")
    matrix = open_matrix(arguments.recipe, arguments.methods, arguments.seeds, arguments.output_dir, overrides)
    try:
        failed = run_cells(matrix, arguments.jobs, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("runs keep their checkpoints; the same command goes on") from None
    comparison = Comparison.of(matrix)
    (matrix.root / "summary.json").write_text(comparison.as_json(), encoding="utf-8")
    (matrix.root / "summary.md").write_text(as_markdown(comparison), encoding="utf-8")
    for table in as_tables(comparison):
        console.print(table, "")
    try:
        draw_curves(matrix, matrix.root / "curves.svg")
    except ImportError:
        console.print("no learning curves: they need matplotlib, pip install 'a2tgpo[figures]'", style="yellow")
    console.print(f"everything is in {matrix.root}", soft_wrap=True, highlight=False)
    return 1 if failed else 0
