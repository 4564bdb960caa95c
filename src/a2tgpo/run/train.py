"""Run a recipe: task, warm start, evaluation before, updates, evaluation after, table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed

from a2tgpo import processes
from a2tgpo.errors import KEPT, RecipeError
from a2tgpo.evaluate.questions import Summary
from a2tgpo.files import new_file
from a2tgpo.integrations.trl.whole_policy import check_stage
from a2tgpo.rollout.agent import Agent
from a2tgpo.run.base_task import Encoded, Task
from a2tgpo.run.best_checkpoint import BestCheckpoint
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.held_out import as_markdown, as_table, evaluate_policy, title
from a2tgpo.run.lesson import draw_training, read_table
from a2tgpo.run.preflight import check_run
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from a2tgpo.run.resume import (
    ResumePoint,
    check_same_processes,
    check_same_recipe,
    find_resume_point,
    withdraw_result,
)
from a2tgpo.run.task import open_task
from a2tgpo.run.updates import Updates
from a2tgpo.run.warm_start import share_batch, warm_start


def train(config: RunConfig, directory: RunDirectory, console: Console) -> dict[str, Summary]:
    """Run the recipe in `directory`, skipping what an earlier, interrupted run already did.

    With `max_steps` 0 there are no updates: warm start and evaluation before them are the whole run. Of several
    processes all call this, and the main one writes.

    Raises:
        RecipeError: the directory is in use, or holds another run; or the recipe cannot be run, which is found out
            before the warm start.
        DataError: the questions cannot be trained on.
        TrainingError: a gradient or a weight stopped being finite.
        Interrupted: Ctrl-C or SIGTERM during the updates, after the checkpoint was saved.
    """
    config = _of_processes(config)
    with _locked(directory):
        processes.on_main(lambda: _check_directory(config, directory))
        summaries = _run(config, directory, console)
        processes.leave()
        return summaries


def _check_directory(config: RunConfig, directory: RunDirectory) -> None:
    if config.resumes:
        check_same_processes(directory)
        check_same_recipe(directory, config)
    else:
        directory.check_new()


def _of_processes(config: RunConfig) -> RunConfig:
    """Return the recipe with the number of processes that run it, which a resumed run has to have again.

    Raises:
        RecipeError: it is another number than the recipe wants, or they have not found each other.
    """
    processes.check_joined()
    check_stage()
    n, wanted = processes.size(), config.recipe.processes
    if wanted not in (None, n):
        raise RecipeError(
            f"processes={wanted}: {n} started; launch {wanted}, or change per_device_train_batch_size, "
            f"gradient_accumulation_steps and steps_per_generation for {n} and give --processes {n}"
        )
    given = config.given | ({"processes": n} if n > 1 else {})
    return replace(config, recipe=replace(config.recipe, processes=n), given=given)


@contextmanager
def _locked(directory: RunDirectory) -> Iterator[None]:
    """Have the main process keep other runs out of the directory."""
    with ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(directory.locked()))
        yield


def _run(config: RunConfig, directory: RunDirectory, console: Console) -> dict[str, Summary]:
    set_seed(config.training.seed)
    resume = processes.on_main(lambda: find_resume_point(directory, config))
    with open_task(config, directory) as task:
        return _run_task(task, resume, config, directory, console)


def _run_task(
    task: Task, resume: ResumePoint, config: RunConfig, directory: RunDirectory, console: Console
) -> dict[str, Summary]:
    tokenizer = load_tokenizer(config.model.model_name_or_path, config)
    check_run(config, task, tokenizer, console)
    warmed_up = processes.on_main(directory.warm_start_losses.exists)
    lacks_warm_start = config.recipe.warm_start_steps and not warmed_up
    if lacks_warm_start:
        share_batch(config.recipe, processes.size())
    demonstrations = task.demonstrations(tokenizer) if lacks_warm_start else []
    agent = task.agent(tokenizer)
    Updates(config, directory, task, agent, console).check()
    processes.on_main(lambda: _begin(config, directory, resume))
    if any(unseen := processes.gather([not directory.config.exists()])):
        raise RecipeError(
            f"output_dir={str(directory.root)!r}: {sum(unseen)} of {len(unseen)} processes do not see what the main "
            "one wrote there; put it on a disk that all machines share"
        )
    try:
        return _go_on(config, directory, task, agent, demonstrations, resume, console)
    except BaseException as error:
        error.add_note(KEPT)
        raise


def _begin(config: RunConfig, directory: RunDirectory, resume: ResumePoint) -> None:
    if resume.extends:
        withdraw_result(directory)
    directory.begin({key: value for key, value in config.given.items() if key != "resume_from_checkpoint"})


def _go_on(
    config: RunConfig,
    directory: RunDirectory,
    task: Task,
    agent: Agent,
    demonstrations: Encoded,
    resume: ResumePoint,
    console: Console,
) -> dict[str, Summary]:
    if demonstrations:
        _warm_start(demonstrations, agent.tokenizer, config, directory, console)
    updates = Updates(config, directory, task, agent, console)
    start = updates.start
    model = load_model(start, config)
    console.print(f"policy {start}: {model.num_parameters() / 1e6:.2f} M parameters", soft_wrap=True)
    summaries = evaluate_policy(model, agent, task, directory, "before")
    if config.training.max_steps != 0:
        updates.make(model, resume)
        if config.recipe.best_checkpoint and not processes.on_main(directory.best_checkpoint.exists):
            del model
            updates.keep_best()
        trained = load_model(str(directory.model), config)
        summaries |= evaluate_policy(trained, agent, task, directory, "after")
    processes.on_main(lambda: _report(summaries, directory, console))
    return summaries


def _warm_start(
    demonstrations: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    directory: RunDirectory,
    console: Console,
) -> None:
    """Leave in the directory the policy that the updates start from; its losses, written last, say that it is whole."""
    console.print(f"warm start: {config.recipe.warm_start_steps} steps on {len(demonstrations)} demonstrations")
    model = load_model(config.model.model_name_or_path, config)
    losses = warm_start(model, tokenizer, demonstrations, config, directory.warm_start)
    processes.on_main(lambda: _write(directory.warm_start_losses, json.dumps(losses)))


def _report(summaries: dict[str, Summary], directory: RunDirectory, console: Console) -> None:
    by_gold = all(summary.measure == "exact_match" for summary in summaries.values())
    lesson, curves = read_table(summaries), "\n".join(draw_training(directory.rollouts) if by_gold else [])
    if curves:
        console.print(curves, soft_wrap=True, highlight=False)
    console.print(as_table(summaries, f"held-out {title(summaries)}"))
    text = as_markdown(summaries)
    if lesson:
        console.print(lesson, soft_wrap=True, highlight=False)
        text += f"\n{lesson}\n"
    if curves:
        text += f"\n```\n{curves}\n```\n"
    if directory.best_checkpoint.exists():
        chosen = f"after: {BestCheckpoint.read(directory.best_checkpoint)}"
        console.print(chosen, soft_wrap=True, highlight=False)
        text += f"\n{chosen}\n"
    _write(directory.root / "summary.md", text)
    _write(directory.summary, json.dumps({name: summary.as_json() for name, summary in summaries.items()}, indent=2))
    console.print(f"everything is in {directory.root}", soft_wrap=True)


def _write(path: Path, text: str) -> None:
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
