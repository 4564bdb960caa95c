"""Make the updates of a run, choose its final policy, and save that whole."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, TrainerCallback
from trl import get_peft_config

from a2tgpo import processes
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.files import UNFINISHED, new_folder
from a2tgpo.integrations.trl.callbacks import MetricsFile, replace_progress
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
from a2tgpo.integrations.trl.whole_policy import check_strategy, part_with_deepspeed, whole_policy
from a2tgpo.pipeline.plugins import load_rewards, load_turn_signal
from a2tgpo.rollout.agent import Agent
from a2tgpo.run.base_task import Task
from a2tgpo.run.best_checkpoint import choose_checkpoint
from a2tgpo.run.checkpoints import Rotation, remove_checkpoint
from a2tgpo.run.console import UPDATES, ConsoleSummary, StepProgress
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.held_out import answer_questions
from a2tgpo.run.interrupt import Interrupted, InterruptGuard
from a2tgpo.run.preflight import check_construction
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_policy import load_model
from a2tgpo.run.resume import ResumePoint, cut_back


@dataclass(frozen=True)
class Updates:
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
            return answer_questions(model, self.agent, self.task, path, "greedy")

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
            replace_progress(trainer, StepProgress("updates", UPDATES))
            trainer.train(resume_from_checkpoint=resume.checkpoint and str(resume.checkpoint))
            if guard.agree() is None or trainer.state.global_step >= trainer.state.max_steps:
                self._save_trained(whole_policy(trainer), trainer.save_model)
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
        part_with_deepspeed()
        trainer = A2TGPOTrainer(
            model,
            load_rewards(self.config.recipe.reward, self.task.rewards),
            training,
            train_dataset=self.task.train_dataset,
            eval_dataset=None if training.eval_strategy == "no" else self.task.eval_dataset,
            processing_class=self.agent.tokenizer,
            rollout_func=TagRollout(self.agent, self.config.recipe.rows_per_generation, sampling),
            peft_config=get_peft_config(self.config.model),
            callbacks=callbacks,
            turn_signal=load_turn_signal(self.config.recipe.turn_signal, self.config.recipe.judge),
        )
        check_strategy(trainer.accelerator)
        return trainer

    def _restored(self, checkpoint: Path, start: PreTrainedModel | None = None) -> PreTrainedModel:
        """Open the policy of a checkpoint, adapters on top of `start`, the model the updates started from."""
        if not self.config.model.use_peft:
            return load_model(str(checkpoint), self.config)
        from peft import PeftModel

        return PeftModel.from_pretrained(start or load_model(self.start, self.config, merges=True), str(checkpoint))

    def _save_trained(self, model: PreTrainedModel | None, write: Callable[[str], None]) -> None:
        """Write the final policy: `model`, or where no process has it whole what `write` makes of it; a collective."""
        if model is not None and not self.config.quantizes:
            processes.on_main(lambda: self._save(model))
            return
        whole = self.directory.checkpoints / f"{UNFINISHED}model"
        write(str(whole))
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
