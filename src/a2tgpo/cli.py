"""`a2tgpo train RECIPE.yaml [--field value ...]` and `a2tgpo eval RECIPE.yaml --model PATH [--field value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from a2tgpo.errors import A2TGPOError

if TYPE_CHECKING:
    from rich.console import Console

    from a2tgpo.config import RunConfig

_EXIT_USAGE, _EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (2: the user's input, 130: interrupted)."""
    arguments, overrides = _parser().parse_known_args(argv)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from rich.console import Console

    try:
        return int(arguments.run(arguments, overrides, Console()))
    except A2TGPOError as error:
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted: {interrupt or 'nothing more was saved'}", file=sys.stderr)
        print("continue with the same command and --resume_from_checkpoint true", file=sys.stderr)
        return _EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="a2tgpo", description="Train search agents with per-turn credit.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="run a recipe from warm start to final table")
    train.add_argument("recipe", metavar="RECIPE.yaml")
    train.set_defaults(run=_train)
    evaluate = commands.add_parser("eval", help="evaluate a policy on a recipe's held-out questions")
    evaluate.add_argument("recipe", metavar="RECIPE.yaml")
    evaluate.add_argument("--model", help="path or Hub name; default: the recipe's own", default=None)
    evaluate.set_defaults(run=_eval)
    return parser


def _train(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.config import load_recipe
    from a2tgpo.run.train import train

    config = load_recipe(arguments.recipe, overrides)
    directory = _open(config)
    train(config, directory, console)
    return 0


def _eval(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.config import load_recipe
    from a2tgpo.run.evaluation import evaluate_policy
    from a2tgpo.run.policy import load_model, load_tokenizer
    from a2tgpo.run.table import as_table
    from a2tgpo.run.task import open_task

    config = load_recipe(arguments.recipe, overrides)
    directory = _open(config)
    task = open_task(config, directory)
    name = arguments.model or config.model.model_name_or_path
    agent = task.agent(load_tokenizer(name, config))
    summaries = evaluate_policy(load_model(name, config), agent, task.eval_questions, config, directory, "eval")
    console.print(as_table(summaries, f"{name}: exact match with 95 % interval"))
    return 0


def _open(config: RunConfig):  # type: ignore[no-untyped-def]
    from pathlib import Path

    from a2tgpo.run.directory import RunDirectory

    directory = RunDirectory(Path(config.training.output_dir))
    if config.training.resume_from_checkpoint is None:
        directory.open_new(config.given)
    else:
        directory.resume_point()
    return directory


if __name__ == "__main__":
    sys.exit(main())
