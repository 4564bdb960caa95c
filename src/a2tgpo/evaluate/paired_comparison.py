"""Compare two runs, paired by question, on the questions that both answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.errors import DataError
from a2tgpo.evaluate.outcome import Outcome, measure_of
from a2tgpo.evaluate.scores import Estimates, PerQuestion, Scores, by_benchmark, fewest_samples, in_order, passes_up_to
from a2tgpo.evaluate.statistics import subtract

_Key = tuple[str, str]


@dataclass(frozen=True)
class PairedComparison:
    """Hold two runs on their shared questions.

    Attributes:
        first, second: what each scored on the shared questions alone.
        difference: `first` minus `second`, question by question. Its intervals resample questions, each with both its
            scores, so that what makes a question hard for both cancels out.
        only_first, only_second: benchmark -> number of questions that one run alone answered; nothing above counts
            them.
    """

    first: Scores
    second: Scores
    difference: Estimates
    only_first: dict[str, int]
    only_second: dict[str, int]


def compare(first: Sequence[Outcome], second: Sequence[Outcome]) -> PairedComparison:
    """Compare two runs, finished or not, on the questions (benchmark and id) that both have.

    Questions that one run alone has can be paired with nothing. They are left out and counted, and every rendering of
    the comparison says how many they are.

    Raises:
        DataError: no question is shared, or the runs differ in the text or the answers of one, or a sample is in a run
            twice.
    """
    keys, other_keys = set(map(_key, first)), set(map(_key, second))
    shared = keys & other_keys
    if not shared:
        raise DataError(
            f"no question is in both runs: the first has {_described(keys)}, the second {_described(other_keys)}; "
            "compare runs on the same benchmarks"
        )
    runs = [[outcome for outcome in run if _key(outcome) in shared] for run in (first, second)]
    _check_same_questions(*runs)
    found, other = by_benchmark(runs[0]), by_benchmark(runs[1])
    ks = passes_up_to(fewest_samples([*found.values(), *other.values()]))
    measure = measure_of([*runs[0], *runs[1]])
    tables = {
        name: (PerQuestion.of(found[name], ks, measure), PerQuestion.of(other[name], ks, measure))
        for name in in_order(found)
    }
    measures = next(iter(tables.values()))[0].measures
    return PairedComparison(
        Scores.of(runs[0], measure),
        Scores.of(runs[1], measure),
        Estimates.of({name: subtract(one.values, two.values) for name, (one, two) in tables.items()}, measures),
        _counted(keys - shared),
        _counted(other_keys - shared),
    )


def _key(outcome: Outcome) -> _Key:
    return outcome.dataset, outcome.id


def _check_same_questions(first: Sequence[Outcome], second: Sequence[Outcome]) -> None:
    twins = {_key(outcome): outcome for outcome in second}
    for one in first:
        two = twins[_key(one)]
        # An environment reveals its answer after the episode, and not where it failed.
        differ = one.answer and two.answer and set(one.answer) != set(two.answer)
        if one.question != two.question or differ:
            raise DataError(
                f'{one.dataset}, question "{one.id}": the first run answered {one.question!r} with the answers '
                f"{one.answer}, the second {two.question!r} with {two.answer}; compare runs on the same questions"
            )


def _counted(keys: set[_Key]) -> dict[str, int]:
    counts = Counter(benchmark for benchmark, _ in keys)
    return {benchmark: counts[benchmark] for benchmark in in_order(counts)}


def _described(keys: set[_Key]) -> str:
    return ", ".join(f"{count} of {benchmark}" for benchmark, count in _counted(keys).items()) or "none"
