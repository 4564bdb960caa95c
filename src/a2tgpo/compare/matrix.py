"""Lay out a comparison: runs by arm and seed, in ordinary run directories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from a2tgpo.run.directory import MODES, RunDirectory


@dataclass(frozen=True)
class Cell:
    """Hold one run. `start`, where given, is the run whose warm start and evaluation before it takes over."""

    directory: RunDirectory
    flags: tuple[str, ...]
    start: Cell | None = None

    @property
    def name(self) -> str:
        return f"{self.directory.root.parent.name}/{self.directory.root.name}"

    @property
    def log(self) -> Path:
        return self.directory.root / "log.txt"

    @property
    def finished(self) -> bool:
        return self.directory.finished

    def prepare(self) -> None:
        """Make the directory, with links to what the start has."""
        self.directory.root.mkdir(parents=True, exist_ok=True)
        if self.start is None:
            return
        ours, theirs = self.directory, self.start.directory
        shared = [(ours.warm_start, theirs.warm_start)]
        shared += [(ours.evaluation(f"before_{mode}"), theirs.evaluation(f"before_{mode}")) for mode in MODES]
        for link, target in shared:
            if target.exists() and not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=target.is_dir())

    def arguments(self, recipe: Path) -> list[str]:
        """Return the arguments of `a2tgpo` that begin the run or go on with it."""
        resume = ["--resume_from_checkpoint", "true"] if self.directory.config.exists() else []
        return ["train", str(recipe), *self.flags, "--output_dir", str(self.directory.root), *resume]


REACT, BASELINE = "react", "grpo"
"""The row of the policy before its updates, and the method that others are compared with."""

_ONLY_UPDATES = {
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "max_steps"),
    *("num_generations", "steps_per_generation", "num_iterations", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "loss_type", "beta", "epsilon", "epsilon_high", "clip_beta", "gain_alpha"),
    *("turn_gamma", "turn_baseline", "std_floor", "state_similarity", "likelihood", "process_signal"),
    *("process_reward_model", "step_separator", "turn_signal", "judge", "answer_scaffold", "answer_alias"),
    *("gain_method", "cut_last_result", "tool_loop_kv_cache", "disable_dropout", "reward", "reward_weights"),
}
"""Keys that neither the warm start nor an evaluation before the updates reads: runs that differ in them share both."""

Values = tuple[tuple[str, str], ...]
"""Varied keys with their values, as flags have them."""


@dataclass(frozen=True)
class Arm:
    """Hold what the runs of one row have in common: a method, and the values of the varied keys.

    `name` is the folder and the row: "grpo", or "grpo,clip_beta=0.1".
    """

    name: str
    method: str
    values: Values = ()


@dataclass(frozen=True)
class Matrix:
    """Hold methods × varied values × seeds of one recipe in one folder.

    Attributes:
        n_seeds, first_seed: the seeds are `first_seed` to `first_seed` + `n_seeds` − 1.
        max_steps: updates of the longest run.
        variations: values of the varied keys, a tuple for each combination.
        learning_rates: method -> its learning rate as a flag has it, where it is not the recipe's.
        own_keys: method -> values of the recipe's keys that mean nothing to another method.

    recipe.yaml            what all runs have in common
    warm_start/seed_S/     warm start and evaluation before the updates, shared by the runs of a seed; one for each
                           value, warm_start,KEY=VALUE/seed_S/, where a varied key reaches them
    ARM/seed_S/            a run directory each, with what the run printed in log.txt
    summary.json, summary.md, curves.svg
    """

    root: Path
    methods: tuple[str, ...]
    n_seeds: int
    max_steps: int
    variations: tuple[Values, ...] = ((),)
    first_seed: int = 0
    learning_rates: Mapping[str, str] = field(default_factory=dict)
    own_keys: Mapping[str, Values] = field(default_factory=dict)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.n_seeds)

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def arms(self) -> dict[str, Arm]:
        """Return the arms by name, method by method."""
        arms = [
            Arm(",".join([method, *_told(values)]), method, values)
            for method in self.methods
            for values in self.variations
        ]
        return {arm.name: arm for arm in arms}

    @property
    def starts(self) -> dict[str, Values]:
        """Return the rows of the policy before its updates, with the values that its runs depend on."""
        found = dict.fromkeys(self._reaching(values) for values in self.variations)
        return {",".join([REACT, *_told(values)]): values for values in found}

    @property
    def baselines(self) -> dict[str, str]:
        """Return the row that each is compared with: GRPO's of the same values, or the first value of the method."""
        if BASELINE in self.methods and (len(self.methods) > 1 or self.variations == ((),)):
            of = {arm.values: name for name, arm in self.arms.items() if arm.method == BASELINE}
            pairs = {name: of[arm.values] for name, arm in self.arms.items() if arm.method != BASELINE}
            return {name: of[values] for name, values in self.starts.items() if values in of} | pairs
        first = {arm.method: name for name, arm in reversed(self.arms.items())}
        return {name: first[arm.method] for name, arm in self.arms.items() if name != first[arm.method]}

    def start(self, seed: int, values: Values = ()) -> Cell:
        """Return the run without updates that runs of these values begin with."""
        reaching = self._reaching(values)
        flags = ("--seed", str(seed), *as_flags(reaching), "--max_steps", "0")
        return Cell(self._directory(",".join(["warm_start", *_told(reaching)]), seed), flags)

    def cell(self, name: str, seed: int) -> Cell:
        arm = self.arms[name]
        rate = self.learning_rates.get(arm.method)
        tuned = () if rate is None else (("learning_rate", rate),)
        values = (*self.own_keys.get(arm.method, ()), *tuned, *arm.values)
        flags = ("--method", arm.method, "--seed", str(seed), *as_flags(values))
        return Cell(self._directory(name, seed), flags, self.start(seed, arm.values))

    def cells(self) -> Iterator[Cell]:
        """Yield runs seed by seed over all arms, so that a comparison that is stopped is balanced."""
        for seed in self.seeds:
            yield from (self.start(seed, values) for values in self.starts.values())
            yield from (self.cell(name, seed) for name in self.arms)

    def _reaching(self, values: Values) -> Values:
        return tuple((key, value) for key, value in values if key not in _ONLY_UPDATES)

    def _directory(self, name: str, seed: int) -> RunDirectory:
        return RunDirectory(self.root / name / f"seed_{seed}")


_KEPT = re.compile(r"(?:[^\W_]|[.+-])+")


def _told(values: Values) -> list[str]:
    """Return the values as parts of a folder's name: letters, digits and `.+-`, with a dash for what else there is."""
    return [f"{key}={'-'.join(_KEPT.findall(value)) or '-'}" for key, value in values]


def as_flags(values: Values) -> list[str]:
    """Return the values as flags of `a2tgpo train`, a list as several words."""
    flags = []
    for key, value in values:
        parsed = yaml.safe_load(value)
        flags += [f"--{key}", *(map(str, parsed) if isinstance(parsed, list) else [value])]
    return flags
