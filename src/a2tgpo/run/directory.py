"""Name what a run leaves in its directory, and refuse a directory that holds another run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.errors import RecipeError

MODES = ("greedy", "sampled")
"""How a policy is evaluated, in the names of files and tables."""

_TRAINER_STATE = "trainer_state.json"
"""The file of a checkpoint that the Trainer writes last."""


@dataclass(frozen=True)
class RunDirectory:
    """Name the paths of a run.

    config.yaml        the recipe with every override, as it ran: itself a recipe
    corpus.jsonl       the generated corpus (generated world only)
    warm_start/        the model the updates start from
    checkpoints/       TRL's checkpoints; model/ the final policy
    metrics.jsonl      one line per step logged
    rollouts/          one file per generation batch (step_*.jsonl), and one of its updates (updates_*.jsonl)
    eval/              every evaluated question; summary.json and summary.md the final table
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        return self.root / "rollouts"

    @property
    def warm_start(self) -> Path:
        return self.root / "warm_start"

    @property
    def warm_start_losses(self) -> Path:
        return self.warm_start / "losses.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    def evaluation(self, name: str) -> Path:
        """Return the file of the outcomes of one evaluation."""
        return self.root / "eval" / f"{name}.jsonl"

    @property
    def finished(self) -> bool:
        """Tell whether the run wrote its final table, the last thing it does."""
        return self.summary.exists()

    def check_new(self) -> None:
        """Refuse to write over another run.

        Raises:
            RecipeError: the directory already holds a run.
        """
        if self.config.exists():
            raise RecipeError(
                f"output_dir={str(self.root)!r} already holds a run: choose another --output_dir, or continue an "
                "interrupted training with --resume_from_checkpoint true"
            )

    def begin(self, config: dict[str, Any]) -> None:
        """Write the configuration, once it is known that the run can start: from now on the directory holds a run."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(config, sort_keys=True, allow_unicode=True), encoding="utf-8")

    def resume_point(self) -> str | None:
        """Return the last complete checkpoint, or None where the run stopped before its first.

        Raises:
            RecipeError: there is no run here.
        """
        if not self.config.exists():
            raise RecipeError(
                f"output_dir={str(self.root)!r} holds no run to resume: leave out --resume_from_checkpoint"
            )
        # A checkpoint that was cut off while it was written lacks the file that comes last.
        states = self.checkpoints.glob(f"checkpoint-*/{_TRAINER_STATE}")
        complete = [state.parent for state in states if _is_json(state)]
        return str(max(complete, key=lambda folder: int(folder.name.split("-")[1]))) if complete else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
