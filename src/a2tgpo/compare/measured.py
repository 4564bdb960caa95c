"""Measure one run: what its policy answers, what its updates took, and what they did to the reward."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from a2tgpo.compare.depth import depth_measures
from a2tgpo.evaluate.outcome import Key, Measure, Outcome, measure_of, read_outcomes
from a2tgpo.run.directory import MODES, RunDirectory

SECONDS, GAIN_SHARE = "seconds_per_step", "gain_share_of_seconds"
AREA, COLLAPSED = "training/reward", "collapsed"


@dataclass(frozen=True)
class Measured:
    """Hold the numbers of one run.

    Attributes:
        values: `MODE/exact_match` (of an environment's recipe what `measure` says), `MODE/exact_match/N_hops`,
            `MODE/searches`, `MODE/policy_tokens`, `MODE/total_tokens` (means over held-out questions, MODE greedy or
            sampled); `seconds_per_step` and `gain_share_of_seconds`, in [0, 1], of the updates; those of
            `depth_measures`; `training/reward`, the mean reward over all generation batches, which is the area under
            the learning curve; `collapsed`, 1 where the policy answers fewer than half as many questions, greedy, as
            before its updates.
        scores: mode -> question or episode -> `Outcome.score`, such as 1 for a right answer.
        measure: what the scores are.
    """

    values: dict[str, float]
    scores: dict[str, dict[Key, float]]
    measure: Measure = "exact_match"


def measure(directory: RunDirectory, when: str) -> Measured:
    """Read a finished run's evaluation `when` ("before" or "after" its updates), and what its updates took."""
    values: dict[str, float] = {}
    scores: dict[str, dict[Key, float]] = {}
    measures: set[Measure] = set()
    for mode in MODES:
        outcomes = read_outcomes(directory.evaluation(f"{when}_{mode}"))
        values |= {f"{mode}/{name}": value for name, value in _of_outcomes(outcomes).items()}
        scores[mode] = _by_question(outcomes)
        measures.add(measure_of(outcomes))
    told: Measure = next((name for name in _MOST_TELLING if name in measures), "exact_match")
    if when == "after":
        values |= _of_updates(read_metrics(directory.metrics)) | depth_measures(directory.rollouts)
        before = directory.evaluation(f"before_{MODES[0]}")
        if before.exists() and told != "reward":  # which may be negative
            n_before = sum(outcome.score for outcome in read_outcomes(before))
            values[COLLAPSED] = float(2 * sum(scores[MODES[0]].values()) < n_before)
    return Measured(values, scores, told)


_MOST_TELLING: tuple[Measure, ...] = ("success", "reward", "exact_match")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a finished run's `metrics.jsonl` that tell of updates, and not of TRL's evaluation; none where
    it logged nothing, as with few steps."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if not any(name.startswith("eval_") for name in row)]


def _by_question(outcomes: Sequence[Outcome]) -> dict[Key, float]:
    """Return the scores; data sets may number their questions alike, and one id that repeats counts as samples."""
    seen: Counter[tuple[str, str]] = Counter()
    scores: dict[Key, float] = {}
    for outcome in outcomes:
        name = outcome.dataset, outcome.id
        scores[*name, seen[name]] = outcome.score
        seen[name] += 1
    return scores


def _of_outcomes(outcomes: Sequence[Outcome]) -> dict[str, float]:
    hops = sorted({outcome.hops for outcome in outcomes if outcome.hops is not None})
    return {
        "exact_match": fmean(outcome.score for outcome in outcomes),
        **{f"exact_match/{n}_hops": fmean(o.correct for o in outcomes if o.hops == n) for n in hops},
        "searches": fmean(outcome.searches for outcome in outcomes),
        "policy_tokens": fmean(outcome.policy_tokens for outcome in outcomes),
        "total_tokens": fmean(outcome.total_tokens for outcome in outcomes),
    }


def _of_updates(metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return seconds, where steps were timed, and the area under the learning curve, where rewards were logged.

    `step_time` is a mean over the steps since the last line that has one, `seconds/gain` their sum. A number that was
    not finite is null.
    """
    values: dict[str, float] = {}
    if timed := [row for row in metrics if row.get("step_time") is not None]:
        ends = [row["step"] for row in timed]
        steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        seconds = sum(row["step_time"] * n for row, n in zip(timed, steps, strict=True))
        gain = sum(row.get("seconds/gain") or 0.0 for row in timed)
        values = {SECONDS: seconds / ends[-1], GAIN_SHARE: gain / seconds}
    if rewards := [row["reward"] for row in metrics if row.get("reward") is not None]:
        values[AREA] = fmean(rewards)
    return values
