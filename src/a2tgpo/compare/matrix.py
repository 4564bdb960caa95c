"""Lay out a comparison: runs by arm and seed, in ordinary run directories."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.methods import METHODS
from a2tgpo.redact import secrets_in
from a2tgpo.run.directory import MODES, RunDirectory
from a2tgpo.run.recipe_file import import_plugins, load_recipe, read_recipe


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

_OURS = {"method": "--methods", "seed": "--seeds", "output_dir": "--output_dir", "resume_from_checkpoint": None}
"""Recipe keys a comparison sets itself, and the flag to use instead."""

_ONLY_UPDATES = {
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "max_steps"),
    *("num_generations", "steps_per_generation", "num_iterations", "beta", "epsilon", "epsilon_high", "clip_beta"),
    *("gain_alpha", "turn_gamma", "std_floor", "state_similarity", "likelihood", "process_signal", "answer_scaffold"),
}
"""Keys that neither the warm start nor an evaluation before the updates reads: runs that differ in them share both."""

Values = tuple[tuple[str, str], ...]
"""Varied keys with their values, as flags have them."""


@dataclass(frozen=True)
class Arm:
    """Hold what the runs of one row have in common: a method, and the values of the varied keys.

    `name` is the folder and the row: "grpo", "clip_beta=0.1", or "grpo,clip_beta=0.1".
    """

    name: str
    method: str
    values: Values = ()


@dataclass(frozen=True)
class Matrix:
    """Hold methods × varied values × seeds of one recipe in one folder.

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

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def arms(self) -> dict[str, Arm]:
        """Return the arms by name, method by method."""
        arms = [
            Arm(",".join([method] * (len(self.methods) > 1 or not values) + _told(values)), method, values)
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
        flags = ("--seed", str(seed), *_flags(reaching), "--max_steps", "0")
        return Cell(self._directory(",".join(["warm_start", *_told(reaching)]), seed), flags)

    def cell(self, name: str, seed: int) -> Cell:
        arm = self.arms[name]
        flags = ("--method", arm.method, "--seed", str(seed), *_flags(arm.values))
        return Cell(self._directory(name, seed), flags, self.start(seed, arm.values))

    def cells(self) -> Iterator[Cell]:
        """Yield runs seed by seed over all arms, so that a comparison that is stopped is balanced."""
        for seed in range(self.n_seeds):
            yield from (self.start(seed, values) for values in self.starts.values())
            yield from (self.cell(name, seed) for name in self.arms)

    def _reaching(self, values: Values) -> Values:
        return tuple((key, value) for key, value in values if key not in _ONLY_UPDATES)

    def _directory(self, name: str, seed: int) -> RunDirectory:
        return RunDirectory(self.root / name / f"seed_{seed}")


def _told(values: Values) -> list[str]:
    """Return the values as parts of a folder's name."""
    return [f"{key}={re.sub(r'[^A-Za-z0-9.+-]+', '-', value).strip('-') or value}" for key, value in values]


def _flags(values: Values) -> list[str]:
    """Return the values as flags of `a2tgpo train`, a list as several words."""
    flags = []
    for key, value in values:
        parsed = yaml.safe_load(value)
        flags += [f"--{key}", *(map(str, parsed) if isinstance(parsed, list) else [value])]
    return flags


def open_matrix(
    recipe: str,
    methods: str | None,
    n_seeds: int,
    root: Path,
    overrides: Sequence[str],
    varied: Sequence[str] = (),
) -> Matrix:
    """Open the comparison in `root`, begun there if it is new.

    Args:
        methods: rows of the methods table by commas, or "all"; None for the recipe's own.
        varied: `KEY=a,b,c` each; runs are made for every combination.

    Raises:
        RecipeError: an unknown method or key, a method whose parts contradict the recipe, fewer than one seed, a flag
            that a comparison sets itself, or a folder that holds the comparison of another recipe.
    """
    import_plugins(read_recipe(recipe), overrides)  # they may register methods
    if n_seeds < 1:
        raise RecipeError(f"--seeds {n_seeds}: must be at least 1; 5 give an interval worth reading")
    _refuse_ours(overrides)
    sweeps = [_sweep(text, overrides) for text in varied]
    if repeated := {key for key, _ in sweeps if [key for key, _ in sweeps].count(key) > 1}:
        raise RecipeError(f"--vary: {', '.join(sorted(repeated))} is given twice")
    if methods is None and not sweeps:
        raise RecipeError("nothing is compared: give --methods A,B, or --vary KEY=a,b")
    names = (load_recipe(recipe, overrides).training.method,) if methods is None else _names(methods)
    choices = [[(key, value) for value in values] for key, values in sweeps]
    variations: tuple[Values, ...] = tuple(itertools.product(*choices))
    matrix = Matrix(root, names, n_seeds, 0, variations)
    if len(matrix.arms) < len(names) * len(variations):
        raise RecipeError(f"--vary {' '.join(varied)}: two values have the same folder; write them apart")
    configs = [
        load_recipe(recipe, [*overrides, *_flags(arm.values), "--method", arm.method]) for arm in matrix.arms.values()
    ]
    matrix = replace(matrix, max_steps=max(config.training.max_steps for config in configs))
    if any(config.training.max_steps == 0 for config in configs):
        raise RecipeError("max_steps=0: nothing would be trained; give the number of updates of each run")
    ours = {*_OURS, *(key for key, _ in sweeps)}
    _begin(matrix, {key: value for key, value in configs[0].given.items() if key not in ours})
    return matrix


def _sweep(text: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Read `KEY=a,b,c`; commas inside brackets belong to a value."""
    key, equals, listed = text.partition("=")
    key = key.strip().removeprefix("--").replace("-", "_")
    values = [value.strip() for value in re.split(r",(?![^\[]*\])", listed)]
    if not (equals and key) or len(values) < 2 or "" in values:
        raise RecipeError(f"--vary {text!r}: give a recipe key and its values, such as clip_beta=0,.1,.3")
    if len(set(values)) < len(values):
        raise RecipeError(f"--vary {text!r}: a value is given twice")
    _refuse_ours([f"--{key}"])
    if key in {override.removeprefix("--").split("=")[0].replace("-", "_") for override in overrides}:
        raise RecipeError(f"--{key}: --vary sets it for each run; leave it out")
    return key, values


def _names(methods: str) -> tuple[str, ...]:
    names = tuple(METHODS) if methods == "all" else tuple(name.strip() for name in methods.split(","))
    for name in names:
        if name not in METHODS:
            nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
            raise RecipeError(
                f"--methods: unknown method {name!r}: did you mean {nearest!r}? ReAct, the policy before its updates, "
                "always has a row"
            )
    if repeated := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"--methods: {', '.join(sorted(repeated))} is given twice")
    return names


def _refuse_ours(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.removeprefix("--").split("=")[0].replace("-", "_")
        if override.startswith("--") and key in _OURS:
            instead = f"use {_OURS[key]}" if _OURS[key] else "the same command again goes on by itself"
            raise RecipeError(f"{override.split('=')[0]}: a comparison sets it for each run; {instead}")


def _begin(matrix: Matrix, common: dict[str, Any]) -> None:
    if not matrix.recipe.exists():
        matrix.root.mkdir(parents=True, exist_ok=True)
        with new_file(matrix.recipe) as unfinished:
            if secrets_in(common):
                unfinished.touch(mode=0o600)  # the runs read it
            unfinished.write_text(yaml.safe_dump(common, sort_keys=True, allow_unicode=True), encoding="utf-8")
        return
    begun = yaml.safe_load(matrix.recipe.read_text(encoding="utf-8"))
    differing = sorted(key for key in begun | common if begun.get(key) != common.get(key))
    if differing:
        told = ", ".join(f"{key} (there {begun.get(key)!r}, now {common.get(key)!r})" for key in differing)
        raise RecipeError(
            f"--output_dir {str(matrix.root)!r} holds the comparison of another recipe, which differs in {told}: "
            "choose another folder"
        )
