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
        """Choose among `scores`, of which those that rounding alone tells apart are equal."""
        return cls(min(scores, key=lambda rate: (-round(scores[rate], 9), float(rate))), dict(scores))


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


def check_choice(path: Path, matrix: Matrix, rates: Sequence[str] | None) -> None:
    """Refuse a comparison whose runs would not have the learning rates that they seem to have; nothing has run.

    Args:
        path: holds the choices made so far.
        rates: to be tried; None for none.

    Raises:
        RecipeError: a method was chosen for among other rates; it has runs already that no choice was made for; or,
            without `rates`, others have a choice and it has none.
    """
    chosen = read_choices(path)
    for name in matrix.methods:
        if name in chosen:
            if rates is not None and set(rates) != set(chosen[name].scores):
                raise RecipeError(
                    f"{path} holds a choice of {name}'s learning rate among {', '.join(chosen[name].scores)}; give "
                    "those, or choose another folder"
                )
        elif rates is None and chosen:
            raise RecipeError(f"{path} holds no learning rate of {name}: give --learning_rates as before")
        elif rates is not None and any(matrix.cell(name, seed).directory.config.exists() for seed in matrix.seeds):
            raise RecipeError(
                f"{matrix.root} holds runs of {name} with the recipe's own learning rate, and they cannot have another "
                "now; leave out --learning_rates, or choose another folder"
            )


def choose_rates(pilots: Matrix, path: Path) -> None:
    """Choose for every method of `pilots`, once: `path` holds the choices from then on."""
    scores: dict[str, dict[str, float]] = {name: {} for name in pilots.methods}
    for name, arm in pilots.arms.items():
        scores[arm.method][dict(arm.values)["learning_rate"]] = _score(pilots, name)
    chosen = read_choices(path) | {name: ChosenRate.of(of) for name, of in scores.items()}
    with new_file(path) as unfinished:
        unfinished.write_text(json.dumps({name: asdict(of) for name, of in chosen.items()}, indent=1) + "\n")


def read_choices(path: Path) -> dict[str, ChosenRate]:
    """Return the choices that `path` holds, by method; none where it is not there."""
    if not path.exists():
        return {}
    return {name: ChosenRate(**of) for name, of in json.loads(path.read_text(encoding="utf-8")).items()}


def _score(pilots: Matrix, arm: str) -> float:
    runs = [measure(pilots.cell(arm, seed).directory, "after").values for seed in pilots.seeds]
    return fmean(run[f"{mode}/exact_match"] for run in runs for mode in MODES)
