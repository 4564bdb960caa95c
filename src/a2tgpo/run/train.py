"""Run a recipe: task, warm start, evaluation before, updates, evaluation after, table."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import get_peft_config

from a2tgpo.errors import KEPT, RecipeError
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.questions import Summary
from a2tgpo.files import UNFINISHED, new_file, new_folder
from a2tgpo.integrations.trl.callbacks import MetricsFile
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
from a2tgpo.rollout.agent import Agent
from a2tgpo.run import processes
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
from a2tgpo.run.resume import (
    ResumePoint,
    check_same_processes,
    check_same_recipe,
    cut_back,
    find_resume_point,
    withdraw_result,
)
from a2tgpo.run.task import open_task
from a2tgpo.run.warm_start import share_batch, warm_start
from a2tgpo.run.whole_policy import check_stage, check_strategy, is_spread


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
    _Updates(config, directory, task, agent, console).check()
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
    updates = _Updates(config, directory, task, agent, console)
    start = updates.start
    model = load_model(start, config)
    console.print(f"policy {start}: {model.num_parameters() / 1e6:.2f} M parameters", soft_wrap=True)
    summaries = evaluate_policy(model, agent, task.eval_questions, config, directory, "before")
    if config.training.max_steps != 0:
        updates.make(model, resume)
        if config.recipe.best_checkpoint and not processes.on_main(directory.best_checkpoint.exists):
            del model
            updates.keep_best()
        trained = load_model(str(directory.model), config)
        summaries |= evaluate_policy(trained, agent, task.eval_questions, config, directory, "after")
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


@dataclass(frozen=True)
class _Updates:
    """Make the updates of a run, or what is missing of them, and leave the final policy in its directory."""

    config: RunConfig
    directory: RunDirectory
    task: Task
    agent: Agent
    console: Console

    @property
    def start(self) -> str:
        """Return the model that the updates begin with, on which adapters stand."""
        warmed_up = self.config.recipe.warm_start_steps
        return str(self.directory.warm_start) if warmed_up else self.config.model.model_name_or_path

    def check(self) -> None:
        """Make a trainer of the recipe's own model, which says what it refuses before a warm start has cost time."""
        training = self.config.training
        if training.max_steps == 0 or training.use_vllm or self.config.resumes:  # vLLM cannot be started twice
            return
        check_construction(lambda: self._trainer(load_model(self.config.model.model_name_or_path, self.config), []))

    def make(self, model: PreTrainedModel, resume: ResumePoint) -> None:
        """Train `model` from where the run stands."""
        if processes.on_main(self.directory.model.exists):
            return
        for fault in resume.faults:
            self.console.print(f"passed over {fault}", style="yellow", highlight=False)
        if self.config.resumes:
            processes.on_main(lambda: cut_back(self.directory, resume.step))
        checkpoint = resume.checkpoint
        if checkpoint is not None and resume.is_last(self.config.training.max_steps):
            start = None if self.config.quantizes else model
            processes.on_main(lambda: self._save(self._restored(checkpoint, start)))
        else:
            self._train(model, resume)

    def keep_best(self) -> None:
        """Put the checkpoint with the best average over the held-out data sets in the place of the final policy."""

        def restored(checkpoint: Path) -> PreTrainedModel:
            return _merged(self._restored(checkpoint))

        def evaluate(checkpoint: Path, name: str) -> list[Outcome]:
            path = self.directory.evaluation(f"{name}_greedy")
            model = None if processes.on_main(path.exists) else restored(checkpoint)
            return answer_questions(model, self.agent, self.task.eval_questions, self.config, path, "greedy")

        best, choice = choose_checkpoint(self.directory.checkpoints, evaluate)

        def keep() -> None:
            if self.directory.model.exists():
                remove_checkpoint(self.directory.model)
            self._save(restored(best))
            choice.write(self.directory.best_checkpoint)

        processes.on_main(keep)

    def _train(self, model: PreTrainedModel, resume: ResumePoint) -> None:
        metrics = MetricsFile(self.directory.metrics)
        rotation = Rotation(self.directory.checkpoints, self.config.training.save_total_limit)
        with InterruptGuard() as guard:
            # The guard for finite numbers comes last: the others decide whether a checkpoint is made.
            trainer = self._trainer(model, [metrics, ConsoleSummary(self.console), guard, rotation])
            StepProgress.replace_in(trainer, "updates", UPDATES)
            trainer.train(resume_from_checkpoint=resume.checkpoint and str(resume.checkpoint))
            if guard.agree() is None or trainer.state.global_step >= trainer.state.max_steps:
                self._save_trained(trainer)
        if (signum := guard.agree()) is not None:
            raise Interrupted(f"checkpoint kept in {self.directory.checkpoints}", signum)

    def _trainer(self, model: PreTrainedModel, callbacks: list[TrainerCallback]) -> A2TGPOTrainer:
        training = copy.copy(self.config.training)
        training.output_dir = str(self.directory.checkpoints)
        training.rollouts_dir = str(self.directory.rollouts)
        training.max_completion_length = self.agent.limits.max_completion_tokens
        training.save_total_limit = None  # `Rotation` counts steps
        if training.hub_token is not None:  # training_args.bin, in every checkpoint, would hold it
            os.environ["HF_TOKEN"], training.hub_token = training.hub_token, None
        sampling = training.resolve_method().sampling
        trainer = A2TGPOTrainer(
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
        check_strategy(trainer)
        return trainer

    def _restored(self, checkpoint: Path, start: PreTrainedModel | None = None) -> PreTrainedModel:
        """Open the policy of a checkpoint, adapters on top of `start`, the model the updates started from."""
        if not self.config.model.use_peft:
            return load_model(str(checkpoint), self.config)
        from peft import PeftModel

        return PeftModel.from_pretrained(start or load_model(self.start, self.config, merges=True), str(checkpoint))

    def _save_trained(self, trainer: A2TGPOTrainer) -> None:
        """Write the final policy from where the trainer holds it; a collective."""
        if not is_spread(trainer) and not self.config.quantizes:
            processes.on_main(lambda: self._save(trainer.accelerator.unwrap_model(trainer.model)))
            return
        whole = self.directory.checkpoints / f"{UNFINISHED}model"
        trainer.save_model(str(whole))
        processes.on_main(lambda: self._save(self._restored(whole)))
        processes.on_main(lambda: shutil.rmtree(whole))

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
    _write(directory.root / "summary.md", text)
    _write(directory.summary, json.dumps({name: summary.as_json() for name, summary in summaries.items()}, indent=2))
    console.print(f"everything is in {directory.root}", soft_wrap=True)


def _write(path: Path, text: str) -> None:
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
