"""Hold what figures are made of: series of numbers, by the runs they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from a2tgpo.report.run_data import RunData

Kind = Literal["steps", "boxes", "histogram", "parts", "matrix"]


@dataclass(frozen=True)
class Series:
    """Hold one line, row of boxes, bars or row of a matrix. `arm` is the index of the runs it belongs to.

    `low` and `high`, where given, bound a band that the figure's caption explains, of a box its quartiles. `least`
    and `most` are the ends of a box's whiskers, `mean` the mean beside its median `y`, `n` how many values a box or bar
    holds. None is a gap.
    """

    arm: int
    label: str
    x: list[Any]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    least: list[float | None] | None = None
    most: list[float | None] | None = None
    n: list[int] | None = None
    mean: list[float | None] | None = None


@dataclass(frozen=True)
class Figure:
    """Hold a figure. `kind`: lines over steps, boxes over turns, a histogram, seconds by part, or a matrix of turns.

    `x` and `y` name the axes, `y` with its unit.
    """

    id: str
    title: str
    caption: str
    kind: Kind
    x: str
    y: str
    series: list[Series] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """Hold runs of one recipe that differ in their seed."""

    name: str
    runs: list[RunData]


_NOT_THE_RECIPE = ("seed", "data_seed", "output_dir", "resume_from_checkpoint", "run_name")


def arms_of(runs: list[RunData]) -> list[Arm]:
    """Group `runs` by recipe; without a recipe a run stands alone."""
    grouped: dict[Any, list[RunData]] = {}
    for number, run in enumerate(runs):
        recipe = {key: value for key, value in run.config.items() if key not in _NOT_THE_RECIPE}
        grouped.setdefault(repr(sorted(recipe.items())) if recipe else number, []).append(run)
    return [
        Arm(members[0].name if len(members) == 1 else f"{members[0].name} ({len(members)} seeds)", members)
        for members in grouped.values()
    ]
