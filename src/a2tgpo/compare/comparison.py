"""Measure finished runs and compare them: per arm means over seeds, and paired differences from a baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from a2tgpo.compare.depth import depth_measures
from a2tgpo.compare.matrix import BASELINE, Cell, Matrix
from a2tgpo.evaluate.outcome import Outcome, read_outcomes
from a2tgpo.evaluate.statistics import Difference, Mean, holm
from a2tgpo.run.directory import MODES, RunDirectory

SECONDS, GAIN_SHARE = "seconds_per_step", "gain_share_of_seconds"


@dataclass(frozen=True)
class Measured:
    """Hold the numbers of one run.

    Attributes:
        values: `MODE/exact_match`, `MODE/exact_match/N_hops`, `MODE/searches`, `MODE/policy_tokens`,
            `MODE/total_tokens` (means over the held-out questions, MODE greedy or sampled); `seconds_per_step` and
            `gain_share_of_seconds`, in [0, 1], of the updates; those of `depth_measures`.
        correct: mode -> question -> whether it was answered right.
    """

    values: dict[str, float]
    correct: dict[str, dict[str, bool]]


def measure(directory: RunDirectory, when: str) -> Measured:
    """Read a finished run's evaluation `when` ("before" or "after" its updates), and what its updates took."""
    values: dict[str, float] = {}
    correct = {}
    for mode in MODES:
        outcomes = read_outcomes(directory.evaluation(f"{when}_{mode}"))
        values |= {f"{mode}/{name}": value for name, value in _of_outcomes(outcomes).items()}
        correct[mode] = {outcome.id: outcome.correct for outcome in outcomes}
    if when == "after":
        values |= _of_updates(read_metrics(directory.metrics)) | depth_measures(directory.rollouts)
    return Measured(values, correct)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a finished run's `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _of_outcomes(outcomes: Sequence[Outcome]) -> dict[str, float]:
    hops = sorted({outcome.hops for outcome in outcomes if outcome.hops is not None})
    return {
        "exact_match": fmean(outcome.correct for outcome in outcomes),
        **{f"exact_match/{n}_hops": fmean(o.correct for o in outcomes if o.hops == n) for n in hops},
        "searches": fmean(outcome.searches for outcome in outcomes),
        "policy_tokens": fmean(outcome.policy_tokens for outcome in outcomes),
        "total_tokens": fmean(outcome.total_tokens for outcome in outcomes),
    }


def _of_updates(metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return seconds: `step_time` is a mean over the steps since the last line, `seconds/gain` their sum."""
    ends = [row["step"] for row in metrics]
    steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    seconds = sum(row["step_time"] * n for row, n in zip(metrics, steps, strict=True))
    return {SECONDS: seconds / ends[-1], GAIN_SHARE: sum(row.get("seconds/gain", 0.0) for row in metrics) / seconds}


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
    """Hold exact match of an arm minus its baseline's, tested in two ways.

    Attributes:
        baseline: the row it is compared with.
        seeds: a pair per seed. Training is what varies from seed to seed, so this is the test of the methods.
        p_holm: its p, adjusted for all comparisons of this mode.
        questions: a pair per question, each the mean over the seeds. It tells these trained policies apart on
            other questions, and says nothing about other seeds; None where the two were asked different questions.
    """

    baseline: str
    seeds: Difference
    p_holm: float | None
    questions: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Hold `rows` by arm, ReAct first, and `against`, by mode and arm, differences from its baseline."""

    rows: dict[str, Row]
    against: dict[str, dict[str, Against]]

    @classmethod
    def of(cls, matrix: Matrix) -> Comparison:
        """Read every finished run."""
        seeds = range(matrix.n_seeds)
        starts = {name: {seed: matrix.start(seed, values) for seed in seeds} for name, values in matrix.starts.items()}
        arms = {name: {seed: matrix.cell(name, seed) for seed in seeds} for name in matrix.arms}
        rows = {name: _row(cells, "before") for name, cells in starts.items()}
        rows |= {name: _row(cells, "after") for name, cells in arms.items()}
        return cls(rows, {mode: _against(rows, matrix.baselines, mode) for mode in MODES})

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
        return json.dumps({"methods": arms, minus: against}, indent=1, allow_nan=False) + "\n"


def _row(cells: Mapping[int, Cell], when: str) -> Row:
    return Row(len(cells), {seed: measure(cell.directory, when) for seed, cell in cells.items() if cell.finished})


def _against(rows: Mapping[str, Row], baselines: Mapping[str, str], mode: str) -> dict[str, Against]:
    """Compare complete arms with their baselines, where these are complete."""
    pairs = {
        name: (row, rows[baselines[name]])
        for name, row in rows.items()
        if name in baselines and row.complete and rows[baselines[name]].complete
    }
    by_seed = {name: Difference.between(*(_by_seed(row, mode) for row in pair)) for name, pair in pairs.items()}
    adjusted = holm({name: difference.p for name, difference in by_seed.items()})
    return {
        name: Against(baselines[name], by_seed[name], adjusted[name], _over_questions(*pair, mode))
        for name, pair in pairs.items()
    }


def _by_seed(row: Row, mode: str) -> list[float]:
    return [run.values[f"{mode}/exact_match"] for _, run in sorted(row.runs.items())]


def _over_questions(row: Row, baseline: Row, mode: str) -> Difference | None:
    ours, theirs = _by_question(row, mode), _by_question(baseline, mode)
    if ours.keys() != theirs.keys():
        return None
    return Difference.between([*ours.values()], [theirs[question] for question in ours])


def _by_question(row: Row, mode: str) -> dict[str, float]:
    """Return by question the share of seeds that answered it right."""
    runs = [run.correct[mode] for run in row.runs.values()]
    assert all(run.keys() == runs[0].keys() for run in runs), "seeds were evaluated on different questions"
    return {question: fmean(run[question] for run in runs) for question in sorted(runs[0])}
