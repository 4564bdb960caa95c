"""Name what a run leaves in its directory, and refuse a directory that holds another run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.redact import HIDDEN, redact_settings

MODES = ("greedy", "sampled")
"""Ways to evaluate a policy, in the names of files and tables."""


@dataclass(frozen=True)
class RunDirectory:
    """Name the paths of a run.

    config.yaml        the recipe with every override, as it ran: itself a recipe
    corpus.jsonl       the generated corpus (generated world only)
    warm_start/        the model the updates start from
    checkpoints/       TRL's checkpoints; model/ the final policy
    metrics.jsonl      one line per step logged
    rollouts/          one file per generation batch (step_*.jsonl), and one of its updates (updates_*.jsonl)
    best_checkpoint.json  which checkpoint became model/, and what all scored (where the recipe asks for the best)
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
    def best_checkpoint(self) -> Path:
        return self.root / "best_checkpoint.json"

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
    def evaluation_settings(self) -> Path:
        """Return the file that only the directory of an `a2tgpo eval RECIPE` has: what was asked of whom."""
        return self.root / "eval" / "settings.json"

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

    def check_begun(self) -> None:
        """Refuse to go on where nothing began.

        Raises:
            RecipeError: there is no run here.
        """
        if not self.config.exists():
            raise RecipeError(
                f"output_dir={str(self.root)!r} holds no run to resume: leave out --resume_from_checkpoint"
            )

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the configuration, once it is known that the run can start: from now on the directory holds a run.

        Secrets are left out of it, so that the file may be shown. Of those that a run can do without, keys of their
        own and variables of `env`, nothing is left; where others stood there is `***`, and whoever uses the file as a
        recipe gives them again, or `load_recipe` refuses it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with new_file(self.config) as unfinished:
            shown = _without_hidden(redact_settings(config))
            if isinstance(shown.get("env"), dict):
                shown["env"] = _without_hidden(shown["env"])
            unfinished.write_text(yaml.safe_dump(shown, sort_keys=True, allow_unicode=True), encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of the directory, which is made if need be, until the block ends.

        Raises:
            RecipeError: another process has it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RecipeError(
                f"output_dir={str(self.root)!r}: another process is running in it; wait for it, or choose another "
                "--output_dir"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _without_hidden(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value != HIDDEN}
