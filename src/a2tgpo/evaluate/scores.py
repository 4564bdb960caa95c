"""Score a policy: per question, per benchmark, and averaged in the two ways that are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from a2tgpo.errors import DataError
from a2tgpo.evaluate.benchmarks import GROUPS, in_order
from a2tgpo.evaluate.outcome import Measure, Outcome, measure_of
from a2tgpo.evaluate.statistics import Mean, pass_at_k, percentile_interval, resampled_means
from a2tgpo.rollout.types import Termination

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

EXACT_MATCH, F1, CONTAINS, FORMAT = "exact_match", "f1", "contains", "format_rate"
SUCCESS, REWARD = "success", "reward"
SEARCHES, POLICY_TOKENS, TOTAL_TOKENS = "searches", "policy_tokens", "total_tokens"
OF_ANSWERS = (F1, CONTAINS)
COUNTS = (SEARCHES, POLICY_TOKENS, TOTAL_TOKENS)


@dataclass(frozen=True)
class PerQuestion:
    """Hold the questions of one benchmark as a matrix: a row is a question, a column a measure.

    Attributes:
        questions: the samples of each question, by id and in the order of ids, so that the order in which a run
            finished its questions changes no number.
        measures: what `measure_of` says the score is, `OF_ANSWERS` beside exact match, the share in the protocol's
            form, `COUNTS`, then `pass@k` in [0, 1] for some k above 1, except of rewards. All but rewards and counts
            lie in [0, 1].
        values: a question's mean over its samples in every measure. The question, not the sample, is what there are
            independent ones of.
    """

    questions: dict[str, list[Outcome]]
    measures: tuple[str, ...]
    values: Float[ndarray, "Q M"]

    @classmethod
    def of(
        cls, questions: dict[str, list[Outcome]], ks: Sequence[int] = (), measure: Measure = "exact_match"
    ) -> PerQuestion:
        """Measure every question, with pass@k for `ks`, none above the number of samples of any question."""
        ordered = {name: questions[name] for name in sorted(questions)}
        ks = () if measure == REWARD else ks
        rows = [
            [*np.mean([_measured(outcome, measure) for outcome in samples], axis=0), *_passes(samples, ks)]
            for samples in ordered.values()
        ]
        names = (measure, *(OF_ANSWERS if measure == EXACT_MATCH else ()), FORMAT, *COUNTS, *(f"pass@{k}" for k in ks))
        return cls(ordered, names, np.asarray(rows, dtype=float))


def by_benchmark(outcomes: Iterable[Outcome]) -> dict[str, dict[str, list[Outcome]]]:
    """Group outcomes: benchmark -> question id -> its samples.

    Raises:
        DataError: one sample of a question is there twice.
    """
    found: dict[str, dict[str, dict[int, Outcome]]] = {}
    for outcome in outcomes:
        samples = found.setdefault(outcome.dataset, {}).setdefault(outcome.id, {})
        if outcome.sample in samples:
            raise DataError(
                f'{outcome.dataset}: sample {outcome.sample} of question "{outcome.id}" is there twice; '
                "give the outcomes of one run, each once"
            )
        samples[outcome.sample] = outcome
    return {
        benchmark: {name: [samples[k] for k in sorted(samples)] for name, samples in questions.items()}
        for benchmark, questions in found.items()
    }


def fewest_samples(benchmarks: Iterable[dict[str, list[Outcome]]]) -> int:
    """Return how many samples every question has at least."""
    return min(len(samples) for questions in benchmarks for samples in questions.values())


def passes_up_to(samples: int) -> tuple[int, ...]:
    """Return the k of pass@k to tell: powers of 2 below `samples`, then `samples`; not 1, which is exact match."""
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i < samples]
    return (*powers, samples) if samples > 1 else ()


def _measured(outcome: Outcome, measure: Measure) -> tuple[float, ...]:
    of_answers = (outcome.f1, outcome.contains) if measure == EXACT_MATCH else ()
    shares = (outcome.score, *of_answers, outcome.termination == Termination.ANSWERED.value)
    return *map(float, shares), outcome.searches, outcome.policy_tokens, outcome.total_tokens


def _passes(samples: Sequence[Outcome], ks: Sequence[int]) -> list[float]:
    correct = sum(outcome.correct for outcome in samples)
    return [pass_at_k(len(samples), correct, k) for k in ks]


ALL = "all"

Measures = dict[str, Mean]


@dataclass(frozen=True)
class Average:
    """Average over several benchmarks.

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
    """Hold means with bootstrap intervals.

    Attributes:
        benchmarks: of each benchmark.
        averages: over `ALL` benchmarks, and over each group of `GROUPS` that has at least two of them but not all.
    """

    benchmarks: dict[str, Measures]
    averages: dict[str, Average]

    @classmethod
    def of(cls, values: Mapping[str, Float[ndarray, "Q M"]], measures: Sequence[str]) -> Estimates:
        """Average each benchmark's `values` by question and measure; the benchmark's name seeds its resamples."""
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
        """Return plain numbers; null for a bound that there is none of."""
        return asdict(self)


def averaged(benchmarks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return what of `benchmarks`, in their order, is averaged: group -> benchmarks, `ALL` last."""
    groups = {group: tuple(name for name in names if name in benchmarks) for group, names in GROUPS.items()}
    kept = {group: names for group, names in groups.items() if 2 <= len(names) < len(benchmarks)}
    return {**kept, ALL: tuple(benchmarks)}


@dataclass(frozen=True)
class Scores:
    """Hold what a policy scored.

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
    def of(cls, outcomes: Sequence[Outcome], measure: Measure | None = None) -> Scores:
        """Score a run, finished or not, in any order, by what `measure_of` says or another measure.

        Raises:
            DataError: no outcomes, or one sample of a question twice.
        """
        if not outcomes:
            raise DataError("no outcomes: nothing has been evaluated yet; run the evaluation first")
        found = by_benchmark(outcomes)
        fewest = fewest_samples(found.values())
        ks = passes_up_to(fewest)
        told = measure_of(outcomes) if measure is None else measure
        tables = {name: PerQuestion.of(found[name], ks, told) for name in in_order(found)}
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

    @property
    def measure(self) -> str:
        """Return what the score is: exact match, success or reward."""
        return self.measures[0]

    def as_json(self) -> dict[str, Any]:
        """Return everything but the ids."""
        return {
            "n_questions": {name: len(ids) for name, ids in self.questions.items()},
            "samples": {"fewest": self.samples[0], "most": self.samples[1]},
            **self.estimates.as_json(),
            "endings": self.endings,
        }


def _endings(table: PerQuestion) -> dict[str, int]:
    ended = Counter(Termination(outcome.termination) for samples in table.questions.values() for outcome in samples)
    return {ending.value: ended[ending] for ending in Termination}
