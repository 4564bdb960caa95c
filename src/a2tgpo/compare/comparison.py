"""Compare finished runs: per arm means over seeds, and paired differences from a baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

from a2tgpo.compare.matrix import BASELINE, Cell, Matrix
from a2tgpo.compare.measured import AREA, Measured, measure
from a2tgpo.evaluate.outcome import Key
from a2tgpo.evaluate.statistics import Difference, Mean, holm
from a2tgpo.run.directory import MODES


@dataclass(frozen=True)
class Row:
    """Hold one arm's finished runs by seed, of `n_seeds` it should have; means only where all have finished."""

    n_seeds: int
    runs: dict[int, Measured]

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.n_seeds

    @property
    def means(self) -> dict[str, Mean]:
        """Return mean and interval over seeds of every value that all have; empty for an arm that is incomplete."""
        if not self.complete:
            return {}
        runs = [run.values for run in self.runs.values()]
        return {name: Mean.of([run[name] for run in runs]) for name in runs[0] if all(name in run for run in runs)}


@dataclass(frozen=True)
class Against:
    """Hold a measure of an arm minus its baseline's, tested in two ways.

    Attributes:
        baseline: the row it is compared with.
        seeds: a pair per seed. Training is what varies from seed to seed, so this is the test of the methods.
        p_holm: its p, adjusted for all comparisons of this measure.
        questions: a pair per question, each the mean over the seeds. It tells these trained policies apart on
            other questions, and says nothing about other seeds; None where not all runs were asked the same questions,
            or the measure is not of questions.
    """

    baseline: str
    seeds: Difference
    p_holm: float | None
    questions: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Hold `rows` by arm, ReAct first, and differences from their baselines.

    Attributes:
        against: exact match, by mode and arm.
        area: the area under the learning curve, by arm.
    """

    rows: dict[str, Row]
    against: dict[str, dict[str, Against]]
    area: dict[str, Against]

    @classmethod
    def of(cls, matrix: Matrix) -> Comparison:
        """Read every finished run."""
        seeds = matrix.seeds
        starts = {name: {seed: matrix.start(seed, values) for seed in seeds} for name, values in matrix.starts.items()}
        arms = {name: {seed: matrix.cell(name, seed) for seed in seeds} for name in matrix.arms}
        rows = {name: _row(cells, "before") for name, cells in starts.items()}
        rows |= {name: _row(cells, "after") for name, cells in arms.items()}
        measures = [f"{mode}/exact_match" for mode in MODES]
        greedy, sampled, area = (_against(rows, matrix.baselines, measure) for measure in (*measures, AREA))
        return cls(rows, dict(zip(MODES, (greedy, sampled), strict=True)), area)

    @property
    def measured(self) -> str:
        """Say what is told of held-out questions or episodes: exact match, success or reward."""
        measures = [run.measure for row in self.rows.values() for run in row.runs.values()]
        return (measures or ["exact_match"])[-1].replace("_", " ")

    def as_json(self) -> str:
        """Return strict JSON: means, every run's values, differences."""
        arms = {
            name: {
                "complete": row.complete,
                "seeds_finished": sorted(row.runs),
                "mean": {key: asdict(mean) for key, mean in row.means.items()},
                "runs": {seed: run.values for seed, run in row.runs.items()},
            }
            for name, row in self.rows.items()
        }
        against = {mode: {name: asdict(tests) for name, tests in of.items()} for mode, of in self.against.items()}
        others = {test.baseline for of in self.against.values() for test in of.values()} - {BASELINE}
        minus = "minus_baseline" if others else f"minus_{BASELINE}"
        area = {name: asdict(test) for name, test in self.area.items()}
        found = {"methods": arms, minus: against, f"area_{minus}": area}
        return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _row(cells: Mapping[int, Cell], when: str) -> Row:
    return Row(len(cells), {seed: measure(cell.directory, when) for seed, cell in cells.items() if cell.finished})


def _against(rows: Mapping[str, Row], baselines: Mapping[str, str], measure: str) -> dict[str, Against]:
    """Compare complete arms with their baselines, where these are complete."""
    pairs = {
        name: (row, rows[baselines[name]])
        for name, row in rows.items()
        if name in baselines and row.complete and rows[baselines[name]].complete
    }
    pairs = {name: pair for name, pair in pairs.items() if all(measure in row.means for row in pair)}
    found = {name: Difference.between(*(by_seed(row, measure) for row in pair)) for name, pair in pairs.items()}
    adjusted = holm({name: difference.p for name, difference in found.items()})
    mode, _, of = measure.partition("/")
    return {
        name: Against(
            baselines[name],
            found[name],
            adjusted[name],
            _over_questions(*pair, mode) if of == "exact_match" else None,
        )
        for name, pair in pairs.items()
    }


def by_seed(row: Row, measure: str) -> list[float]:
    """Return a measure of each run, in the order of the seeds."""
    return [run.values[measure] for _, run in sorted(row.runs.items())]


def _over_questions(row: Row, baseline: Row, mode: str) -> Difference | None:
    """Pair questions, or episodes, by the mean score over the seeds: the share that answered each right."""
    ours, theirs = ([run.scores[mode] for run in each.runs.values()] for each in (row, baseline))
    if any(run.keys() != ours[0].keys() for run in [*ours, *theirs]):
        return None

    def means(runs: list[dict[Key, float]]) -> list[float]:
        return [fmean(run[question] for run in runs) for question in sorted(ours[0])]

    return Difference.between(means(ours), means(theirs))
