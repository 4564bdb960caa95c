"""Lay out a comparison: runs by method and seed, in ordinary run directories."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


_OURS = {"method": "--methods", "seed": "--seeds", "output_dir": "--output_dir", "resume_from_checkpoint": None}
"""Recipe keys a comparison sets itself, and the flag to use instead."""


@dataclass(frozen=True)
class Matrix:
    """Hold methods × seeds of one recipe in one folder.

    recipe.yaml            what all runs have in common
    warm_start/seed_S/     warm start and evaluation before the updates, shared by the runs of a seed
    METHOD/seed_S/         a run directory each, with what the run printed in log.txt
    summary.json, summary.md, curves.svg
    """

    root: Path
    methods: tuple[str, ...]
    n_seeds: int
    max_steps: int

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    def start(self, seed: int) -> Cell:
        """Return the run without updates."""
        return Cell(self._directory("warm_start", seed), ("--seed", str(seed), "--max_steps", "0"))

    def cell(self, method: str, seed: int) -> Cell:
        flags = ("--method", method, "--seed", str(seed))
        return Cell(self._directory(method, seed), flags, self.start(seed))

    def cells(self) -> Iterator[Cell]:
        """Yield runs seed by seed over all methods, so that a comparison that is stopped is balanced."""
        for seed in range(self.n_seeds):
            yield self.start(seed)
            for method in self.methods:
                yield self.cell(method, seed)

    def _directory(self, name: str, seed: int) -> RunDirectory:
        return RunDirectory(self.root / name / f"seed_{seed}")


def open_matrix(recipe: str, methods: str, n_seeds: int, root: Path, overrides: Sequence[str]) -> Matrix:
    """Open the comparison in `root`, begun there if it is new.

    Raises:
        RecipeError: an unknown method, a method whose parts contradict the recipe, fewer than one seed, a flag that a
            comparison sets itself, or a folder that holds the comparison of another recipe.
    """
    import_plugins(read_recipe(recipe), overrides)  # they may register methods
    names = _names(methods)
    if n_seeds < 1:
        raise RecipeError(f"--seeds {n_seeds}: must be at least 1; 5 give an interval worth reading")
    _refuse_ours(overrides)
    configs = [load_recipe(recipe, [*overrides, "--method", name]) for name in names]
    matrix = Matrix(root, names, n_seeds, configs[0].training.max_steps)
    if matrix.max_steps == 0:
        raise RecipeError("max_steps=0: nothing would be trained; give the number of updates of each run")
    _begin(matrix, {key: value for key, value in configs[0].given.items() if key not in _OURS})
    return matrix


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
