"""Measure finished runs and compare them: per method means over seeds, and paired differences from GRPO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from a2tgpo.compare.matrix import Cell, Matrix
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
            `gain_share_of_seconds`, in [0, 1], of the updates.
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
        values |= _of_updates(read_metrics(directory.metrics))
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


REACT, BASELINE = "react", "grpo"


@dataclass(frozen=True)
class Row:
    """Hold one method's finished runs by seed, of `n_seeds` it should have; means only where all have finished."""

    n_seeds: int
    runs: dict[int, Measured]

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.n_seeds

    @property
    def means(self) -> dict[str, Mean]:
        """Return mean and interval over seeds of every value; empty for a method that is incomplete."""
        if not self.complete:
            return {}
        names = next(iter(self.runs.values())).values
        return {name: Mean.of([run.values[name] for run in self.runs.values()]) for name in names}


@dataclass(frozen=True)
class Against:
    """Hold exact match of a method minus the baseline's, tested in two ways.

    Attributes:
        seeds: a pair per seed. Training is what varies from seed to seed, so this is the test of the methods.
        p_holm: its p, adjusted for all methods compared with the baseline in this mode.
        questions: a pair per question, each the mean over the seeds. It tells these trained policies apart on
            other questions, and says nothing about other seeds.
    """

    seeds: Difference
    p_holm: float | None
    questions: Difference


@dataclass(frozen=True)
class Comparison:
    """Hold `rows` by method, ReAct first, and `against`, by mode and method, differences from `BASELINE`."""

    rows: dict[str, Row]
    against: dict[str, dict[str, Against]]

    @classmethod
    def of(cls, matrix: Matrix) -> Comparison:
        """Read every finished run."""
        seeds = range(matrix.n_seeds)
        rows = {REACT: _row({seed: matrix.start(seed) for seed in seeds}, "before")}
        rows |= {name: _row({seed: matrix.cell(name, seed) for seed in seeds}, "after") for name in matrix.methods}
        return cls(rows, {mode: _against(rows, mode) for mode in MODES})

    def as_json(self) -> str:
        """Return strict JSON: means, every run's values, differences."""
        methods = {
            name: {
                "complete": row.complete,
                "seeds_finished": sorted(row.runs),
                "mean": {key: asdict(mean) for key, mean in row.means.items()},
                "runs": {seed: run.values for seed, run in row.runs.items()},
            }
            for name, row in self.rows.items()
        }
        against = {mode: {name: asdict(tests) for name, tests in of.items()} for mode, of in self.against.items()}
        return json.dumps({"methods": methods, f"minus_{BASELINE}": against}, indent=1, allow_nan=False) + "\n"


def _row(cells: Mapping[int, Cell], when: str) -> Row:
    return Row(len(cells), {seed: measure(cell.directory, when) for seed, cell in cells.items() if cell.finished})


def _against(rows: Mapping[str, Row], mode: str) -> dict[str, Against]:
    """Compare complete methods with the baseline; nothing where the baseline is not complete."""
    baseline = rows.get(BASELINE)
    if baseline is None or not baseline.complete:
        return {}
    others = {name: row for name, row in rows.items() if name != BASELINE and row.complete}
    by_seed = {name: Difference.between(_by_seed(row, mode), _by_seed(baseline, mode)) for name, row in others.items()}
    adjusted = holm({name: difference.p for name, difference in by_seed.items()})
    return {
        name: Against(
            by_seed[name], adjusted[name], Difference.between(_by_question(row, mode), _by_question(baseline, mode))
        )
        for name, row in others.items()
    }


def _by_seed(row: Row, mode: str) -> list[float]:
    return [run.values[f"{mode}/exact_match"] for _, run in sorted(row.runs.items())]


def _by_question(row: Row, mode: str) -> list[float]:
    """Return per question, in the order of ids, the share of seeds that answered it right."""
    runs = [run.correct[mode] for run in row.runs.values()]
    assert all(run.keys() == runs[0].keys() for run in runs), "seeds were evaluated on different questions"
    return [fmean(run[question] for run in runs) for question in sorted(runs[0])]
