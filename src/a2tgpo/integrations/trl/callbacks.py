"""Watch a training: one line a step in `metrics.jsonl`, and an end before a number that is none spoils the weights."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from a2tgpo.errors import TrainingError
from a2tgpo.files import new_file
from a2tgpo.pretrained import first_not_finite
from a2tgpo.redact import redact_settings


def replace_progress(trainer: Trainer, progress: TrainerCallback) -> None:
    """Let `trainer` report its steps by `progress` and by nothing else that prints."""
    for default in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(default)
    trainer.add_callback(progress)


class MetricsFile(TrainerCallback):
    """Append each log of the main process to `metrics.jsonl`, as strict JSON.

    A value that is no finite number becomes null, and `not_finite` says what it was. The Trainer's closing summary is
    left out: its step has a line already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        record = {"step": state.global_step, **logs}
        wrong = {key: str(value) for key, value in record.items() if isinstance(value, float) and not _finite(value)}
        if wrong:
            record |= dict.fromkeys(wrong) | {"not_finite": wrong}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")


class ScriptFiles(TrainerCallback):
    """Leave in the output folder of a user's own script what `a2tgpo report` reads beside rollouts: a fresh
    `metrics.jsonl`, and `config.yaml` with the arguments that differ from their defaults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._cut_back(state.global_step)
        given = {f.name: getattr(args, f.name) for f in fields(args) if f.init}
        plain = {name: value for name, value in given.items() if isinstance(value, str | int | float | bool)}
        changed = {name: value for name, value in plain.items() if value != getattr(type(args), name, None)}
        with new_file(self.folder / "config.yaml") as unfinished:
            unfinished.write_text(yaml.safe_dump(redact_settings(changed)), encoding="utf-8")

    def _cut_back(self, step: int) -> None:
        """Drop what an earlier attempt wrote after the checkpoint that this one goes on from."""
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with new_file(metrics) as unfinished:
                unfinished.write_text("".join(kept), encoding="utf-8")
        for file in (self.folder / "rollouts").glob("*_[0-9]*.jsonl"):
            if int(file.name.split("_")[1].split(".")[0]) >= step:
                file.unlink()


class FiniteGuard(TrainerCallback):
    """Stop a training whose numbers are no longer finite: before the optimizer's step, and before a checkpoint.

    A gradient that is NaN or infinite would make every weight NaN, and the checkpoint after it would end every resumed
    run. With fp16 the gradient scaler meets infinite gradients on purpose and leaves out their steps itself.

    Raises:
        TrainingError: names the update and what was not finite; the weights are still those before it.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        args.logging_nan_inf_filter = False  # it would log a NaN loss as the mean of the losses before

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if args.fp16 or not gradients:
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not _finite(value := float(norm)):
            raise TrainingError(
                f"update {state.global_step + 1}: the norm of the gradient is {value}, so the step was not taken; the "
                "weights are those of the update before. Look at the rollouts of this batch for a reward or a "
                "log-probability that is not finite; a lower learning_rate or dtype float32 often helps"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if control.should_save and (name := first_not_finite(model)) is not None:
            raise TrainingError(
                f"update {state.global_step}: weight {name} is no longer finite, and no checkpoint was made of it; go "
                "on from the one before, with a lower learning_rate"
            )


def _finite(value: float) -> bool:
    return math.isfinite(value)
