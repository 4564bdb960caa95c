"""Leave a run directory that `a2tgpo report` opens: the files and names of a run that TRL trained."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.pipeline import BatchCredit, RolloutBatch, SingleProcess
from a2tgpo.pipeline.rollout_log import RolloutLog

_BATCH_FILE = re.compile(r"(?:step|updates)_(\d+)\.jsonl")

_NAMES = {
    "actor/entropy": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/loss": "loss",
    "timing_s/step": "step_time",
    "timing_s/gen": "seconds/generation",
    "timing_s/old_log_prob": "seconds/old_logps",
    "timing_s/gain": "seconds/gain",
    "timing_s/turn_signal": "seconds/turn_signal",
    "timing_s/update_actor": "seconds/update",
}
"""verl's name of a metric -> the one in `metrics.jsonl` of every run."""


class RunLog:
    """Write config.yaml, metrics.jsonl and rollouts/ into `root`, on the machine of the driver."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.metrics = self.root / "metrics.jsonl"
        self._folder = self.root / "rollouts"

    def begin(self, config: Mapping[str, Any], *, step: int, resumes: bool) -> RolloutLog:
        """Write the configuration and drop what an interrupted run logged after the checkpoint it resumes from.

        Args:
            config: keys as a recipe has them.
            step: steps done by the checkpoint; 0 for a new run.
            resumes: whether the run may be the continuation of another.

        Raises:
            ValueError: the folder holds another run, which this one does not continue.
        """
        if self.metrics.exists() and not resumes:
            raise ValueError(
                f"+a2tgpo.run_dir={str(self.root)!r} already holds a run: choose another, or continue it with "
                "trainer.resume_mode=auto"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        (self.root / "config.yaml").write_text(yaml.safe_dump(dict(config), allow_unicode=True), encoding="utf-8")
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            self.metrics.write_text("".join(kept), encoding="utf-8")
        for file in self._folder.iterdir():
            if (match := _BATCH_FILE.fullmatch(file.name)) and int(match[1]) >= step:
                file.unlink()
        return RolloutLog(self._folder, SingleProcess())

    def write_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append a line for `step`: what are finite numbers of `metrics`, under the names of every run."""
        line: dict[str, float] = {"step": step}
        for name, value in metrics.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                line[_NAMES.get(name, name)] = number
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def batch_metrics(batch: RolloutBatch, credit: BatchCredit) -> dict[str, float]:
    """Return what TRL itself logs of a batch, here of its valid rollouts: mean and spread of the reward, the share of
    prompts whose rollouts all earned the same, and tokens that the policy wrote per rollout."""
    if not credit.valid.any():
        return {}
    earned = credit.outcome[credit.valid]
    groups = credit.outcome.masked_fill(~credit.valid, math.nan).split(batch.group_size)
    spreads = [float(group[~group.isnan()].std(correction=0)) for group in groups if not group.isnan().all()]
    return {
        "reward": earned.mean().item(),
        "reward_std": earned.std().item() if len(earned) > 1 else 0.0,
        "frac_reward_zero_std": sum(spread < 1e-6 for spread in spreads) / len(spreads),
        "completions/mean_length": batch.model_mask[credit.valid].sum(dim=1).float().mean().item(),
    }
