"""Compare methods on several tasks: each task in a folder of its own, pilots first, one task after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from a2tgpo.compare.learning_rates import ChosenRate, check_choice, choose_rates, pilots_of, read_choices
from a2tgpo.compare.matrix import Cell, Matrix
from a2tgpo.compare.matrix_plan import Plan, plan_matrix
from a2tgpo.compare.schedule import run_cells
from a2tgpo.errors import RecipeError


@dataclass(frozen=True)
class Tuning:
    """Hold the learning rates that every method tries, and on how many pilot seeds."""

    rates: tuple[str, ...]
    n_seeds: int


@dataclass(frozen=True)
class ComparedTask:
    """Hold the runs of one task; `chosen` by method, once its pilots have run."""

    name: str
    plan: Plan
    chosen: dict[str, ChosenRate] | None = None

    @property
    def matrix(self) -> Matrix:
        """Return the runs beside the pilots, each with the learning rate of its method."""
        if self.chosen is None:
            return self.plan.matrix
        return replace(self.plan.matrix, learning_rates={name: choice.rate for name, choice in self.chosen.items()})

    @property
    def choice(self) -> Path:
        """Return the file that holds the learning rates chosen so far."""
        return self.plan.matrix.root / "learning_rates.json"

    def check(self, tuning: Tuning | None) -> None:
        """Refuse what learning rates chosen earlier, or runs made without, do not go with.

        Raises:
            RecipeError: see `check_choice`.
        """
        check_choice(self.choice, self.plan.matrix, None if tuning is None else tuning.rates)

    def run(
        self, tuning: Tuning | None, jobs: int, console: Console, program: Sequence[str]
    ) -> tuple[ComparedTask, list[Cell]]:
        """Run what is missing; return the task with its learning rates, and the runs that failed.

        Pilots are run of methods without a learning rate; where one fails nothing is chosen and nothing else is run.
        Without `tuning` a choice that stands is kept to.
        """
        matrix = self.plan.matrix
        undecided = [name for name in matrix.methods if name not in read_choices(self.choice)]
        if tuning is not None and undecided:
            pilots = pilots_of(replace(matrix, methods=tuple(undecided)), tuning.rates, tuning.n_seeds)
            if failed := run_cells(pilots, jobs, console, program):
                return self, failed
            choose_rates(pilots, self.choice)
        chosen = read_choices(self.choice)
        task = replace(self, chosen={name: chosen[name] for name in matrix.methods}) if chosen else self
        return task, run_cells(task.matrix, jobs, console, program)


def plan_tasks(
    recipe: str | None,
    tasks: str | None,
    methods: str | None,
    n_seeds: int,
    root: Path,
    overrides: Sequence[str],
    varied: Sequence[str],
) -> list[ComparedTask]:
    """Plan the comparison of one recipe in `root`, or of several recipes in folders there named after them.

    Args:
        recipe, tasks: one of the two: a recipe, or several by commas.
        methods, n_seeds, overrides, varied: of every task, see `plan_matrix`.

    Raises:
        RecipeError: neither or both of recipe and tasks, two tasks of one name, or what `plan_matrix` refuses.
    """
    if (recipe is None) == (tasks is None):
        raise RecipeError("give one recipe, or several as --tasks A.yaml,B.yaml")
    if recipe is not None:
        return [ComparedTask(Path(recipe).stem, plan_matrix(recipe, methods, n_seeds, root, overrides, varied))]
    assert tasks is not None
    recipes = [name.strip() for name in tasks.split(",")]
    names = [Path(name).stem for name in recipes]
    if "" in names or len(set(names)) < len(names):
        raise RecipeError(f"--tasks {tasks!r}: give recipes by commas, each with a file name of its own")
    return [
        ComparedTask(name, plan_matrix(path, methods, n_seeds, root / name, overrides, varied))
        for name, path in zip(names, recipes, strict=True)
    ]
