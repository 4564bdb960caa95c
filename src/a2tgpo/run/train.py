"""Run a recipe: task, warm start, evaluation before, updates, evaluation after, table."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import get_peft_config

from a2tgpo.errors import KEPT
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.questions import Summary
from a2tgpo.files import new_file, new_folder
from a2tgpo.integrations.trl.callbacks import MetricsFile
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
from a2tgpo.rollout.agent import Agent
from a2tgpo.run.base_task import Encoded, Task
from a2tgpo.run.best_checkpoint import BestCheckpoint, choose_checkpoint
from a2tgpo.run.checkpoints import Rotation, remove_checkpoint
from a2tgpo.run.console import UPDATES, ConsoleSummary, StepProgress
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.held_out import answer_questions, as_markdown, as_table, evaluate_policy, title
from a2tgpo.run.interrupt import Interrupted, InterruptGuard
from a2tgpo.run.plugins import load_rewards, load_turn_signal
from a2tgpo.run.preflight import check_construction, check_run
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from a2tgpo.run.resume import ResumePoint, check_same_recipe, cut_back, find_resume_point, withdraw_result
from a2tgpo.run.task import open_task
from a2tgpo.run.warm_start import warm_start


def train(config: RunConfig, directory: RunDirectory, console: Console) -> dict[str, Summary]:
    """Run the recipe in `directory`, skipping what an earlier, interrupted run already did.

    With `max_steps` 0 there are no updates: warm start and evaluation before them are the whole run.

    Raises:
        RecipeError: the directory is in use, or holds another run; or the recipe cannot be run, which is found out
            before the warm start.
        DataError: the questions cannot be trained on.
        TrainingError: a gradient or a weight stopped being finite.
        Interrupted: Ctrl-C or SIGTERM during the updates, after the checkpoint was saved.
    """
    with directory.locked():
        if config.resumes:
            check_same_recipe(directory, config)
        else:
            directory.check_new()
        return _run(config, directory, console)


def _run(config: RunConfig, directory: RunDirectory, console: Console) -> dict[str, Summary]:
    set_seed(config.training.seed)
    resume = find_resume_point(directory, config)
    with open_task(config, directory) as task:
        return _run_task(task, resume, config, directory, console)


def _run_task(
    task: Task, resume: ResumePoint, config: RunConfig, directory: RunDirectory, console: Console
) -> dict[str, Summary]:
    tokenizer = load_tokenizer(config.model.model_name_or_path, config)
    check_run(config, task, tokenizer, console)
    lacks_warm_start = config.recipe.warm_start_steps and not directory.warm_start_losses.exists()
    demonstrations = task.demonstrations(tokenizer) if lacks_warm_start else []
    agent = task.agent(tokenizer)
    _Updates(config, directory, task, agent, console).check()
    if resume.extends:
        withdraw_result(directory)
    directory.begin({key: value for key, value in config.given.items() if key != "resume_from_checkpoint"})
    try:
        return _go_on(config, directory, task, agent, demonstrations, resume, console)
    except BaseException as error:
        error.add_note(KEPT)
        raise


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
    start = str(directory.warm_start) if config.recipe.warm_start_steps else config.model.model_name_or_path
    model = load_model(start, config)
    console.print(f"policy {start}: {model.num_parameters() / 1e6:.2f} M parameters", soft_wrap=True)
    summaries = evaluate_policy(model, agent, task.eval_questions, config, directory, "before")
    if config.training.max_steps != 0:
        updates = _Updates(config, directory, task, agent, console)
        updates.make(model, resume)
        if config.recipe.best_checkpoint and not directory.best_checkpoint.exists():
            del model
            updates.keep_best(start)
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


@dataclass(frozen=True)
class _Updates:
    """Make the updates of a run, or what is missing of them, and leave the final policy in its directory."""

    config: RunConfig
    directory: RunDirectory
    task: Task
    agent: Agent
    console: Console

    def check(self) -> None:
        """Make a trainer of the recipe's own model, which says what it refuses before a warm start has cost time."""
        training = self.config.training
        if training.max_steps == 0 or training.use_vllm or self.config.resumes:  # vLLM cannot be started twice
            return
        check_construction(lambda: self._trainer(load_model(self.config.model.model_name_or_path, self.config), []))

    def make(self, model: PreTrainedModel, resume: ResumePoint) -> None:
        """Train `model` from where the run stands."""
        if self.directory.model.exists():
            return
        for fault in resume.faults:
            self.console.print(f"passed over {fault}", style="yellow", highlight=False)
        if self.config.resumes:
            cut_back(self.directory, resume.step)
        if resume.checkpoint is not None and resume.is_last(self.config.training.max_steps):
            self._save(self._restored(model, resume.checkpoint))
        else:
            self._train(model, resume)

    def keep_best(self, start: str) -> None:
        """Put the checkpoint with the best average over the held-out data sets in the place of the final policy.

        Args:
            start: the model that the updates began with, which adapters stand on.
        """

        def restored(checkpoint: Path) -> PreTrainedModel:
            return _merged(self._restored(load_model(start, self.config), checkpoint))

        def evaluate(checkpoint: Path, name: str) -> list[Outcome]:
            path = self.directory.evaluation(f"{name}_greedy")
            model = None if path.exists() else restored(checkpoint)
            return answer_questions(model, self.agent, self.task.eval_questions, self.config, path, "greedy")

        best, choice = choose_checkpoint(self.directory.checkpoints, evaluate)
        if self.directory.model.exists():
            remove_checkpoint(self.directory.model)
        self._save(restored(best))
        choice.write(self.directory.best_checkpoint)

    def _train(self, model: PreTrainedModel, resume: ResumePoint) -> None:
        metrics = MetricsFile(self.directory.metrics)
        rotation = Rotation(self.directory.checkpoints, self.config.training.save_total_limit)
        with InterruptGuard() as guard:
            # The guard for finite numbers comes last: the others decide whether a checkpoint is made.
            trainer = self._trainer(model, [metrics, ConsoleSummary(self.console), guard, rotation])
            StepProgress.replace_in(trainer, "updates", UPDATES)
            trainer.train(resume_from_checkpoint=resume.checkpoint and str(resume.checkpoint))
            if guard.requested is None or trainer.state.global_step >= trainer.state.max_steps:
                self._save(trainer.accelerator.unwrap_model(trainer.model))
        if guard.requested is not None:
            raise Interrupted(f"checkpoint kept in {self.directory.checkpoints}", guard.requested)

    def _trainer(self, model: PreTrainedModel, callbacks: list[TrainerCallback]) -> A2TGPOTrainer:
        training = copy.copy(self.config.training)
        training.output_dir = str(self.directory.checkpoints)
        training.rollouts_dir = str(self.directory.rollouts)
        training.max_completion_length = self.agent.limits.max_completion_tokens
        training.save_total_limit = None  # `Rotation` counts steps
        if training.hub_token is not None:  # training_args.bin, in every checkpoint, would hold it
            os.environ["HF_TOKEN"], training.hub_token = training.hub_token, None
        sampling = training.resolve_method().sampling
        return A2TGPOTrainer(
            model,
            load_rewards(self.config.recipe.reward, self.task.rewards),
            training,
            train_dataset=self.task.train_dataset,
            processing_class=self.agent.tokenizer,
            rollout_func=TagRollout(self.agent, self.config.recipe.rows_per_generation, sampling),
            peft_config=get_peft_config(self.config.model),
            callbacks=callbacks,
            turn_signal=load_turn_signal(self.config.recipe.turn_signal),
        )

    def _restored(self, start: PreTrainedModel, checkpoint: Path) -> PreTrainedModel:
        """Open the policy of a checkpoint, adapters on top of the model the updates started from."""
        if not self.config.model.use_peft:
            return load_model(str(checkpoint), self.config)
        from peft import PeftModel

        return PeftModel.from_pretrained(start, str(checkpoint))

    def _save(self, model: Any) -> None:
        """Write the final policy; the folder appears only when it is whole."""
        model = _merged(model)
        with new_folder(self.directory.model) as unfinished:
            model.save_pretrained(unfinished)
            self.agent.tokenizer.save_pretrained(unfinished)


def _merged(model: Any) -> PreTrainedModel:
    """Return the model with its adapters, where it has any, merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _report(summaries: dict[str, Summary], directory: RunDirectory, console: Console) -> None:
    console.print(as_table(summaries, f"held-out {title(summaries)}"))
    text = as_markdown(summaries)
    if directory.best_checkpoint.exists():
        chosen = f"after: {BestCheckpoint.read(directory.best_checkpoint)}"
        console.print(chosen, soft_wrap=True, highlight=False)
        text += f"\n{chosen}\n"
    with new_file(directory.root / "summary.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    table = json.dumps({name: summary.as_json() for name, summary in summaries.items()}, indent=2)
    with new_file(directory.summary) as unfinished:
        unfinished.write_text(table, encoding="utf-8")
    console.print(f"everything is in {directory.root}", soft_wrap=True)
