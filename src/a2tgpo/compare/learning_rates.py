"""Choose each method's learning rate on pilot seeds, which no other run uses, with the budget of the other runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.measured import measure
from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.run.directory import MODES

FIRST_PILOT_SEED = 1000
"""Pilot seeds start here: a comparison's own start at 0."""


@dataclass(frozen=True)
class ChosenRate:
    """Hold a method's learning rate, and what every rate scored.

    Attributes:
        rate: the one with the highest score, the smallest of several; as a flag has it.
        scores: rate -> mean over pilot seeds of exact match after the updates, greedy and sampled averaged.
    """

    rate: str
    scores: Mapping[str, float]

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> ChosenRate:
        """Choose among `scores`."""
        return cls(min(scores, key=lambda rate: (-scores[rate], float(rate))), dict(scores))


def read_rates(listed: str) -> tuple[str, ...]:
    """Read `1e-4,3e-4,1e-3`.

    Raises:
        RecipeError: fewer than two rates, one that is no positive number, or one that is given twice.
    """
    rates = tuple(rate.strip() for rate in listed.split(","))
    try:
        numbers = [float(rate) for rate in rates]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or len(set(numbers)) < len(numbers) or not all(0 < number < 1 for number in numbers):
        raise RecipeError(
            f"--learning_rates {listed!r}: give at least two different rates between 0 and 1 by commas, such as "
            "1e-4,3e-4,1e-3"
        )
    return rates


def pilots_of(matrix: Matrix, rates: Sequence[str], n_seeds: int) -> Matrix:
    """Return the pilot runs of a comparison: every method with every rate, in its folder `pilots`."""
    pilots = replace(
        matrix,
        root=matrix.root / "pilots",
        n_seeds=n_seeds,
        first_seed=FIRST_PILOT_SEED,
        variations=tuple((("learning_rate", rate),) for rate in rates),
    )
    pilots.root.mkdir(exist_ok=True)
    if not pilots.recipe.is_symlink():
        pilots.recipe.symlink_to("../recipe.yaml")
    return pilots


def choose_rates(pilots: Matrix, path: Path) -> dict[str, ChosenRate]:
    """Return the choice for each method, made once: `path` holds it from then on.

    Raises:
        RecipeError: methods or rates are not those of the choice that `path` holds.
    """
    chosen = _read(path) if path.exists() else {}
    there = {name: set(choice.scores) for name, choice in chosen.items()}
    asked: dict[str, set[str]] = {}
    for arm in pilots.arms.values():
        asked.setdefault(arm.method, set()).add(dict(arm.values)["learning_rate"])
    if any(there[name] != asked[name] for name in there.keys() & asked.keys()):
        raise RecipeError(f"{path} holds a choice among other learning rates; give those, or choose another folder")
    if missing := asked.keys() - there.keys():
        scores: dict[str, dict[str, float]] = {name: {} for name in asked if name in missing}
        for name, arm in pilots.arms.items():
            if arm.method in missing:
                scores[arm.method][dict(arm.values)["learning_rate"]] = _score(pilots, name)
        chosen |= {name: ChosenRate.of(of) for name, of in scores.items()}
        with new_file(path) as unfinished:
            unfinished.write_text(json.dumps({name: asdict(of) for name, of in chosen.items()}, indent=1) + "\n")
    return {name: chosen[name] for name in asked}


def read_choice(path: Path, matrix: Matrix) -> dict[str, ChosenRate]:
    """Return the choice that `path` holds for the methods of a comparison.

    Raises:
        RecipeError: it holds none for one of them.
    """
    chosen = _read(path)
    if missing := [name for name in matrix.methods if name not in chosen]:
        raise RecipeError(f"{path} holds no learning rate of {', '.join(missing)}: give --learning_rates as before")
    return {name: chosen[name] for name in matrix.methods}


def _read(path: Path) -> dict[str, ChosenRate]:
    return {name: ChosenRate(**of) for name, of in json.loads(path.read_text(encoding="utf-8")).items()}


def _score(pilots: Matrix, arm: str) -> float:
    runs = [measure(pilots.cell(arm, seed).directory, "after").values for seed in pilots.seeds]
    return fmean(run[f"{mode}/exact_match"] for run in runs for mode in MODES)
