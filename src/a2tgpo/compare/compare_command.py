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

    from a2tgpo.compare.compared_tasks import ComparedTask, Tuning
    from a2tgpo.compare.comparison import Comparison
    from a2tgpo.compare.primary_tests import Pair


def add_compare_command(commands: Any) -> None:
    """Add `compare` to the subparsers of the command line."""
    summary = "train several methods on several seeds of one recipe, or of several, and compare them"
    command = commands.add_parser(
        "compare",
        help=summary,
        description=summary,
        epilog="Every recipe key is a flag too, such as --max_steps 50; `a2tgpo keys` lists them all. The same command "
        "again goes on where it stopped.",
        allow_abbrev=False,
    )
    command.usage = (
        "a2tgpo compare {RECIPE.yaml | --tasks A.yaml,B.yaml} [--methods A,B] [--vary KEY=a,b,c ...] "
        "[--learning_rates 1e-4,3e-4] [--primary A:B] --seeds N --output_dir DIR [--jobs N] "
        "[--launcher 'torchrun ...'] [--key value ...]"
    )
    command.add_argument("recipe", metavar="RECIPE.yaml", nargs="?")
    command.add_argument(
        "--tasks", default=None, help="several recipes by commas, each in a folder of its own, one after the other"
    )
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
    command.add_argument(
        "--learning_rates",
        default=None,
        help="by commas: each method is run with each on pilot seeds of their own first, and goes on with its best",
    )
    command.add_argument("--pilot_seeds", type=int, default=2, help="how many, for --learning_rates (default: 2)")
    command.add_argument(
        "--primary",
        default=None,
        help="pairs of methods, such as a2tgpo:grpo: their differences are adjusted as one family over all tasks",
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
    from a2tgpo.compare.compared_tasks import plan_tasks
    from a2tgpo.compare.primary_tests import read_pairs
    from a2tgpo.errors import RecipeError
    from a2tgpo.messages import quieten

    quieten()
    for flag in ("jobs", "pilot_seeds"):
        if getattr(arguments, flag) < 1:
            raise RecipeError(f"--{flag} {getattr(arguments, flag)}: must be at least 1")
    program, root = _program(arguments.launcher), arguments.output_dir
    tuning = _tuning(arguments, overrides)
    tasks = plan_tasks(
        arguments.recipe, arguments.tasks, arguments.methods, arguments.seeds, root, overrides, arguments.vary
    )
    pairs = read_pairs(arguments.primary, tasks[0].matrix)
    for task in tasks:
        task.check(tuning)
    for task in tasks:
        task.plan.begin()
    comparisons, n_failed = {}, 0
    try:
        for task in tasks:
            done, failed = task.run(tuning, arguments.jobs, console, program)
            comparisons[task.name] = _write(done, console)
            n_failed += len(failed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("runs keep their checkpoints; the same command goes on") from None
    if pairs:
        _write_primary(comparisons, pairs, root, console)
    console.print(f"everything is in {root}", soft_wrap=True, highlight=False)
    return 1 if n_failed else 0


def _tuning(arguments: argparse.Namespace, overrides: list[str]) -> Tuning | None:
    from a2tgpo.compare.compared_tasks import Tuning
    from a2tgpo.compare.learning_rates import read_rates
    from a2tgpo.errors import RecipeError
    from a2tgpo.run.recipe_file import flag_keys

    if arguments.learning_rates is None:
        return None
    if arguments.vary:
        raise RecipeError("--learning_rates and --vary cannot be combined: give one of them")
    if "learning_rate" in flag_keys(overrides):
        raise RecipeError("--learning_rate: --learning_rates sets it for each run; leave it out")
    return Tuning(read_rates(arguments.learning_rates), arguments.pilot_seeds)


def _write(task: ComparedTask, console: Console) -> Comparison:
    """Write a task's tables and curves, and show the tables."""
    from a2tgpo.compare.comparison import Comparison
    from a2tgpo.compare.comparison_table import as_markdown, as_tables
    from a2tgpo.compare.learning_curves import draw_curves

    root, comparison = task.matrix.root, Comparison.of(task.matrix)
    _save(root / "summary.json", comparison.as_json())
    _save(root / "summary.md", as_markdown(comparison, task.chosen))
    for table in as_tables(comparison, task.chosen):
        console.print(table, "")
    try:
        draw_curves(task.matrix, root / "curves.svg")
    except ImportError:
        console.print("no learning curves: they need matplotlib, pip install 'a2tgpo[report]'", style="yellow")
    return comparison


def _write_primary(comparisons: dict[str, Comparison], pairs: list[Pair], root: Path, console: Console) -> None:
    from a2tgpo.compare.primary_tests import as_json, as_markdown, as_table, run_tests

    tests = run_tests(comparisons, pairs)
    _save(root / "primary.json", as_json(tests))
    _save(root / "primary.md", as_markdown(tests))
    console.print(as_table(tests), "")


def _save(path: Path, text: str) -> None:
    from a2tgpo.files import new_file

    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


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
