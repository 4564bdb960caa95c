"""Run a recipe: task, warm start, evaluation before, updates, evaluation after, table."""

from __future__ import annotations

import json

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import get_peft_config

from a2tgpo.evaluate.questions import Summary
from a2tgpo.files import new_file, new_folder
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.run.console import UPDATES, ConsoleSummary, StepProgress
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.held_out import as_markdown, as_table, evaluate_policy
from a2tgpo.run.interrupt import InterruptGuard
from a2tgpo.run.metrics_file import MetricsFile
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from a2tgpo.run.task import Encoded, Task, open_task
from a2tgpo.run.warm_start import warm_start


class Interrupted(KeyboardInterrupt):
    """Say that the user stopped the run and that a checkpoint was kept."""


def train(config: RunConfig, directory: RunDirectory, console: Console) -> dict[str, Summary]:
    """Run the recipe in `directory`, skipping what an earlier, interrupted run already did.

    With `max_steps` 0 there are no updates: warm start and evaluation before them are the whole run.

    Raises:
        Interrupted: Ctrl-C during the updates, after the checkpoint was saved.
    """
    set_seed(config.training.seed)
    task = open_task(config, directory)
    tokenizer = load_tokenizer(config.model.model_name_or_path, config)
    lacks_warm_start = config.recipe.warm_start_steps and not directory.warm_start_losses.exists()
    demonstrations = task.demonstrations(tokenizer) if lacks_warm_start else []
    if not config.resumes:
        directory.begin(config.given)
    if demonstrations:
        _warm_start(demonstrations, tokenizer, config, directory, console)
    start = str(directory.warm_start) if config.recipe.warm_start_steps else config.model.model_name_or_path
    agent = task.agent(tokenizer)
    model = load_model(start, config)
    console.print(f"policy {start}: {model.num_parameters() / 1e6:.2f} M parameters", soft_wrap=True)
    summaries = evaluate_policy(model, agent, task.eval_questions, config, directory, "before")
    if config.training.max_steps != 0:
        if not directory.model.exists():
            _update(model, agent, task, config, directory, console)
        trained = load_model(str(directory.model), config)
        summaries |= evaluate_policy(trained, agent, task.eval_questions, config, directory, "after")
    _report(summaries, directory, console)
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
    with new_file(directory.warm_start_losses) as unfinished:
        unfinished.write_text(json.dumps(losses), encoding="utf-8")


def _update(
    model: PreTrainedModel,
    agent: SearchAgent,
    task: Task,
    config: RunConfig,
    directory: RunDirectory,
    console: Console,
) -> None:
    training = config.training
    training.output_dir = str(directory.checkpoints)
    training.rollouts_dir = str(directory.rollouts)
    training.max_completion_length = agent.limits.max_completion_tokens
    with InterruptGuard() as guard:
        trainer = A2TGPOTrainer(
            model,
            exact_match_reward,
            training,
            train_dataset=task.train_dataset,
            processing_class=agent.tokenizer,
            rollout_func=TagRollout(agent, config.recipe.rows_per_generation, training.resolve_method().sampling),
            peft_config=get_peft_config(config.model),
            callbacks=[MetricsFile(directory.metrics), ConsoleSummary(console), guard],
        )
        StepProgress.replace_in(trainer, "updates", UPDATES)
        trainer.train(resume_from_checkpoint=_resume_point(config, directory))
        if not guard.requested or trainer.state.global_step >= trainer.state.max_steps:
            _save(trainer, agent, directory)
    if guard.requested:
        raise Interrupted(f"checkpoint kept in {directory.checkpoints}")


def _resume_point(config: RunConfig, directory: RunDirectory) -> str | None:
    if not config.resumes:
        return None
    wanted = str(config.training.resume_from_checkpoint)
    return directory.resume_point() if wanted.lower() == "true" else wanted


def _save(trainer: A2TGPOTrainer, agent: SearchAgent, directory: RunDirectory) -> None:
    """Write the final policy; the folder appears only when it is whole."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with new_folder(directory.model) as unfinished:
        model.save_pretrained(unfinished)
        agent.tokenizer.save_pretrained(unfinished)


def _report(summaries: dict[str, Summary], directory: RunDirectory, console: Console) -> None:
    console.print(as_table(summaries, "held-out questions: exact match with 95 % interval"))
    (directory.root / "summary.md").write_text(as_markdown(summaries), encoding="utf-8")
    table = json.dumps({name: summary.as_json() for name, summary in summaries.items()}, indent=2)
    with new_file(directory.summary) as unfinished:
        unfinished.write_text(table, encoding="utf-8")
    console.print(f"everything is in {directory.root}", soft_wrap=True)
