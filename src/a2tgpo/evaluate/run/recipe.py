"""A recipe's own held-out questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console


def evaluate_recipe(recipe: str, given: Mapping[str, Any], unknown: list[str], console: Console) -> int:
    """Evaluate the policy `recipe` names, or `given["model"]`, greedily and sampled as in training.

    Raises:
        RecipeError: the recipe or a flag is refused, or the output directory holds a run.
    """
    from a2tgpo.messages import quieten
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.held_out import as_table, evaluate_policy
    from a2tgpo.run.recipe_file import load_recipe
    from a2tgpo.run.recipe_policy import load_model, load_tokenizer
    from a2tgpo.run.task import open_task

    quieten()
    config = load_recipe(recipe, [*unknown, *_as_keys(given)])
    if config.resumes:
        raise RecipeError("resume_from_checkpoint: an evaluation starts anew; give it an --output_dir of its own")
    name = config.model.model_name_or_path
    directory = RunDirectory(Path(config.training.output_dir))
    directory.check_new()
    task = open_task(config, directory)
    agent = task.agent(load_tokenizer(name, config))
    model = load_model(name, config)
    directory.begin(config.given)
    summaries = evaluate_policy(model, agent, task.eval_questions, config, directory, "eval")
    console.print(as_table(summaries, f"{name}: exact match with 95 % interval"))
    return 0


def _as_keys(given: Mapping[str, Any]) -> list[str]:
    """Flags that benchmarks have too, as the recipe's keys; those it does not know it refuses."""
    named = {"model_name_or_path" if name == "model" else name: value for name, value in given.items()}
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]
