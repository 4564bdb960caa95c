"""Scores of a policy: per benchmark, and averaged in the two ways that are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from a2tgpo.errors import DataError
from a2tgpo.evaluate.bootstrap import percentile_interval, resampled_means
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.paired import Mean
from a2tgpo.evaluate.per_question import PerQuestion, by_benchmark, fewest_samples, passes_up_to
from a2tgpo.rollout.types import Termination

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

GROUPS: dict[str, dict[str, str]] = {
    "multi-hop": {
        "hotpotqa": "HotpotQA",
        "2wikimultihopqa": "2Wiki",
        "musique": "MuSiQue",
        "bamboogle": "Bamboogle",
    },
    "single-hop": {"nq": "NQ", "triviaqa": "TriviaQA", "popqa": "PopQA"},
}
"""The paper's benchmarks: group -> name -> heading, in the order of its Table 1."""

ALL = "all"

Measures = dict[str, Mean]


@dataclass(frozen=True)
class Average:
    """Averages over several benchmarks.

    With n_b questions in benchmark b and their mean m_b, `over_questions` is Σ n_b·m_b / Σ n_b, the paper's, in which
    large benchmarks decide; `over_benchmarks` is the plain mean of the m_b. A resample draws n_b questions from each
    benchmark: the benchmarks were chosen, not drawn.
    """

    benchmarks: tuple[str, ...]
    n_questions: int
    over_questions: Measures
    over_benchmarks: Measures


@dataclass(frozen=True)
class Estimates:
    """Means with bootstrap intervals.

    Attributes:
        benchmarks: of each benchmark.
        averages: over `ALL` benchmarks, and over each group of `GROUPS` that has at least two of them but not all.
    """

    benchmarks: dict[str, Measures]
    averages: dict[str, Average]

    @classmethod
    def of(cls, values: Mapping[str, Float[ndarray, "Q M"]], measures: Sequence[str]) -> Estimates:
        """From each benchmark's `values` by question and measure; the benchmark's name seeds its resamples."""
        means = {name: of_questions.mean(axis=0) for name, of_questions in values.items()}
        draws = {name: resampled_means(of_questions, name) for name, of_questions in values.items()}

        def weighted(weights: Mapping[str, float]) -> Measures:
            value = sum(weight * means[name] for name, weight in weights.items())
            drawn = sum(weight * draws[name] for name, weight in weights.items())
            columns = zip(measures, np.asarray(value).tolist(), np.transpose(drawn), strict=True)
            return {measure: percentile_interval(mean, column) for measure, mean, column in columns}

        averages = {}
        for group, names in averaged(values).items():
            n = sum(len(values[name]) for name in names)
            over_questions = weighted({name: len(values[name]) / n for name in names})
            over_benchmarks = weighted({name: 1 / len(names) for name in names})
            averages[group] = Average(names, n, over_questions, over_benchmarks)
        return cls({name: weighted({name: 1.0}) for name in values}, averages)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; null for a bound that there is none of."""
        return asdict(self)


def averaged(benchmarks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What of `benchmarks`, in their order, is averaged: group -> benchmarks, `ALL` last."""
    groups = {group: tuple(name for name in names if name in benchmarks) for group, names in GROUPS.items()}
    kept = {group: names for group, names in groups.items() if 2 <= len(names) < len(benchmarks)}
    return {**kept, ALL: tuple(benchmarks)}


@dataclass(frozen=True)
class Scores:
    """What a policy scored.

    Attributes:
        questions: benchmark -> ids of its questions. Benchmarks are in the order of `GROUPS`, then by name.
        samples: fewest and most samples of a question.
        estimates: means over questions, each the mean over its samples: with k samples `exact_match` is mean@k.
        endings: benchmark -> `Termination` -> number of rollouts that ended so. A rollout that gave no answer, for
            whatever reason, scores 0 and is in every mean.
    """

    questions: dict[str, tuple[str, ...]]
    samples: tuple[int, int]
    estimates: Estimates
    endings: dict[str, dict[str, int]]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Scores:
        """Score a run, finished or not, in any order.

        Raises:
            DataError: no outcomes, or one sample of a question twice.
        """
        if not outcomes:
            raise DataError("no outcomes: nothing has been evaluated yet; run the evaluation first")
        found = by_benchmark(outcomes)
        fewest = fewest_samples(found.values())
        ks = passes_up_to(fewest)
        tables = {name: PerQuestion.of(found[name], ks) for name in in_order(found)}
        measures = next(iter(tables.values())).measures
        return cls(
            {name: tuple(table.questions) for name, table in tables.items()},
            (fewest, max(len(samples) for questions in found.values() for samples in questions.values())),
            Estimates.of({name: table.values for name, table in tables.items()}, measures),
            {name: _endings(table) for name, table in tables.items()},
        )

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(self.estimates.averages[ALL].over_questions)

    def as_json(self) -> dict[str, Any]:
        """Everything but the ids."""
        return {
            "n_questions": {name: len(ids) for name, ids in self.questions.items()},
            "samples": {"fewest": self.samples[0], "most": self.samples[1]},
            **self.estimates.as_json(),
            "endings": self.endings,
        }


def place(benchmark: str) -> tuple[str, str]:
    """Its group, "others" for an unknown one, and what it is called in tables."""
    known = ((group, names[benchmark]) for group, names in GROUPS.items() if benchmark in names)
    return next(known, ("others", benchmark))


def in_order(benchmarks: Collection[str]) -> list[str]:
    """Benchmarks in the order of `GROUPS`, unknown ones after them by name."""
    known = [name for names in GROUPS.values() for name in names if name in benchmarks]
    return known + sorted(set(benchmarks) - set(known))


def _endings(table: PerQuestion) -> dict[str, int]:
    ended = Counter(Termination(outcome.termination) for samples in table.questions.values() for outcome in samples)
    return {ending.value: ended[ending] for ending in Termination}
