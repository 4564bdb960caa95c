"""What a comparison consists of: runs by method and seed, in ordinary run directories."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.compare.cell import Cell
from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.methods import METHODS
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe

_OURS = {"method": "--methods", "seed": "--seeds", "output_dir": "--output_dir", "resume_from_checkpoint": None}
"""Recipe keys a comparison sets itself, and the flag to use instead."""


@dataclass(frozen=True)
class Matrix:
    """Methods × seeds of one recipe in one folder.

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
        """The run without updates."""
        return Cell(self._directory("warm_start", seed), ("--seed", str(seed), "--max_steps", "0"))

    def cell(self, method: str, seed: int) -> Cell:
        flags = ("--method", method, "--seed", str(seed))
        return Cell(self._directory(method, seed), flags, self.start(seed))

    def cells(self) -> Iterator[Cell]:
        """Seed by seed over all methods, so that a comparison that is stopped is balanced."""
        for seed in range(self.n_seeds):
            yield self.start(seed)
            for method in self.methods:
                yield self.cell(method, seed)

    def _directory(self, name: str, seed: int) -> RunDirectory:
        return RunDirectory(self.root / name / f"seed_{seed}")


def open_matrix(recipe: str, methods: str, n_seeds: int, root: Path, overrides: Sequence[str]) -> Matrix:
    """The comparison in `root`, begun there if it is new.

    Raises:
        RecipeError: an unknown method, a method whose parts contradict the recipe, fewer than one seed, a flag that a
            comparison sets itself, or a folder that holds the comparison of another recipe.
    """
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
