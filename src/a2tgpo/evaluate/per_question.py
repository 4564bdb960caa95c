"""Outcomes as a matrix: one row a question, one column a measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from a2tgpo.errors import DataError
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.pass_at_k import pass_at_k
from a2tgpo.rollout.types import Termination

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

EXACT_MATCH, F1, CONTAINS, FORMAT = "exact_match", "f1", "contains", "format_rate"
SEARCHES, POLICY_TOKENS, TOTAL_TOKENS = "searches", "policy_tokens", "total_tokens"
SHARES = (EXACT_MATCH, F1, CONTAINS, FORMAT)
COUNTS = (SEARCHES, POLICY_TOKENS, TOTAL_TOKENS)


@dataclass(frozen=True)
class PerQuestion:
    """The questions of one benchmark.

    Attributes:
        questions: the samples of each question, by id and in the order of ids, so that the order in which a run
            finished its questions changes no number.
        measures: `SHARES` in [0, 1], `COUNTS`, then `pass@k` in [0, 1] for some k above 1.
        values: a question's mean over its samples in every measure. The question, not the sample, is what there are
            independent ones of.
    """

    questions: dict[str, list[Outcome]]
    measures: tuple[str, ...]
    values: Float[ndarray, "Q M"]

    @classmethod
    def of(cls, questions: dict[str, list[Outcome]], ks: Sequence[int] = ()) -> PerQuestion:
        """With pass@k for `ks`, none above the number of samples of any question."""
        ordered = {name: questions[name] for name in sorted(questions)}
        rows = [
            [*np.mean([_measured(outcome) for outcome in samples], axis=0), *_passes(samples, ks)]
            for samples in ordered.values()
        ]
        return cls(ordered, (*SHARES, *COUNTS, *(f"pass@{k}" for k in ks)), np.asarray(rows, dtype=float))


def by_benchmark(outcomes: Iterable[Outcome]) -> dict[str, dict[str, list[Outcome]]]:
    """Benchmark -> question id -> its samples.

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
    """Samples that every question has at least."""
    return min(len(samples) for questions in benchmarks for samples in questions.values())


def passes_up_to(samples: int) -> tuple[int, ...]:
    """The k of pass@k to tell: powers of 2 below `samples`, then `samples`; not 1, whose pass@1 is exact match."""
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i < samples]
    return (*powers, samples) if samples > 1 else ()


def _measured(outcome: Outcome) -> tuple[float, ...]:
    shares = (outcome.correct, outcome.f1, outcome.contains, outcome.termination == Termination.ANSWERED.value)
    return *map(float, shares), outcome.searches, outcome.policy_tokens, outcome.total_tokens


def _passes(samples: Sequence[Outcome], ks: Sequence[int]) -> list[float]:
    correct = sum(outcome.correct for outcome in samples)
    return [pass_at_k(len(samples), correct, k) for k in ks]
