"""Render scores of policies, and the paired comparison of two runs, for the terminal, in Markdown and as JSON.

The first table of scores is laid out as the paper's Table 1: a row is a policy; the columns are the multi-hop
benchmarks, the single-hop ones, any others, and both averages. In a comparison the two runs are A and B.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from rich.console import Group
from rich.markup import escape

from a2tgpo.evaluate.benchmarks import in_order, place
from a2tgpo.evaluate.paired_comparison import PairedComparison
from a2tgpo.evaluate.scores import ALL, Average, Estimates, Measures, Scores, averaged
from a2tgpo.evaluate.statistics import RESAMPLES
from a2tgpo.evaluate.table_parts import (
    LEGEND,
    Column,
    Fitted,
    Part,
    Style,
    cell,
    heading,
    inline,
    label,
    markdown,
    notes,
    stacked,
)
from a2tgpo.rollout.types import Termination


def as_terminal(scores: Mapping[str, Scores]) -> Group:
    """Return tables for a rich console; `scores` by policy name. A wide table is split between groups of columns."""
    return Group(*map(Fitted, _parts(scores, stacked)), *map(escape, notes(scores)))


def as_markdown(scores: Mapping[str, Scores]) -> str:
    """Return the same tables whole, then every measure by benchmark, notes and a legend."""
    parts = [*_parts(scores, inline), *(_by_benchmark(scores, name) for name in _benchmarks(scores))]
    remarks = [f"* {note}\n" for note in notes(scores)]
    return "\n".join([*map(markdown, parts), *(["".join(remarks)] if remarks else []), LEGEND])


def as_json(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Return every number of every policy, as strict JSON: shares in [0, 1], null where there is no bound."""
    return {
        "policies": {name: of.as_json() for name, of in scores.items()},
        "interval": {"kind": "percentile bootstrap over questions", "level": 0.95, "resamples": RESAMPLES},
        "notes": notes(scores),
    }


def _parts(scores: Mapping[str, Scores], style: Style) -> Iterator[Part]:
    policies, benchmarks = list(scores), _benchmarks(scores)
    groups = averaged(benchmarks)
    overall = groups.pop(ALL)
    columns = [_benchmark(scores, name, style) for name in benchmarks]
    if len(overall) > 1:
        columns += _average_columns(scores, "average", overall, style)
    yield Part(label(_measure(scores), _mean_at(scores)), policies, columns)
    if groups:
        columns = [column for of in groups.items() for column in _average_columns(scores, *of, style)]
        yield Part(label(_measure(scores), f"{_mean_at(scores)} by group"), policies, columns)
    means = [average.over_questions if average else {} for average in _averages(scores, overall)]
    others = [column for column in _measures(scores, means, style) if column.heading != heading(_measure(scores))]
    yield Part("other measures, average over questions", policies, others)
    yield Part("how rollouts ended", policies, _endings([_summed(of.endings) for of in scores.values()]))


def _measure(scores: Mapping[str, Scores]) -> str:
    return next(iter(scores.values())).measure


def _benchmark(scores: Mapping[str, Scores], name: str, style: Style) -> Column:
    group, short = place(name)
    found = [of.estimates.benchmarks.get(name, {}) for of in scores.values()]
    sizes = {len(of.questions[name]) for of in scores.values() if name in of.questions}
    measure = _measure(scores)
    return Column((group, short, _n(sizes)), [cell(measure, of.get(measure), style) for of in found])


def _average_columns(scores: Mapping[str, Scores], top: str, names: tuple[str, ...], style: Style) -> list[Column]:
    averages = _averages(scores, names)
    sizes = {average.n_questions for average in averages if average}
    measure = _measure(scores)
    questions = [average.over_questions.get(measure) if average else None for average in averages]
    benchmarks = [average.over_benchmarks.get(measure) if average else None for average in averages]
    return [
        Column((top, "over questions", _n(sizes)), [cell(measure, mean, style) for mean in questions]),
        Column((top, "over benchmarks", _n({len(names)})), [cell(measure, mean, style) for mean in benchmarks]),
    ]


def _averages(scores: Mapping[str, Scores], names: tuple[str, ...]) -> list[Average | None]:
    """Return each policy's average over just these benchmarks: one over fewer would not compare."""
    found = [of.estimates.averages.values() for of in scores.values()]
    return [next((average for average in averages if average.benchmarks == names), None) for averages in found]


def _measures(scores: Mapping[str, Scores], means: Sequence[Measures], style: Style) -> list[Column]:
    """Return a column for each measure of any policy: with more samples there are more pass@k."""
    names = dict.fromkeys(name for of in scores.values() for name in of.measures)
    return [Column(heading(name), [cell(name, of.get(name), style) for of in means]) for name in names]


def _endings(counts: Sequence[Mapping[str, int]]) -> list[Column]:
    met = [kind for kind in Termination if any(of[kind] for of in counts)]
    return [Column(("rollouts", kind.replace("_", " ")), [f"{of[kind]:,}" for of in counts]) for kind in met]


def _summed(endings: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {kind: sum(of[kind] for of in endings.values()) for kind in Termination}


def _by_benchmark(scores: Mapping[str, Scores], name: str) -> Part:
    have = {policy: of for policy, of in scores.items() if name in of.questions}
    measures = _measures(have, [of.estimates.benchmarks[name] for of in have.values()], inline)
    endings = _endings([of.endings[name] for of in have.values()])
    return Part(place(name)[1], list(have), [*measures, *endings])


def _n(sizes: Collection[int]) -> str:
    """Return one number where all policies have it, else the least and the largest."""
    return f"n = {'–'.join(f'{n:,}' for n in sorted({min(sizes), max(sizes)}))}" if sizes else ""


def _mean_at(scores: Mapping[str, Scores]) -> str:
    """Say that a question's score is the mean of its samples; where policies differ in that, notes say it of each."""
    samples = {of.samples for of in scores.values()}
    (fewest, most), *others = samples
    return f" (mean@{most})" if not others and fewest == most > 1 else ""


def _benchmarks(scores: Mapping[str, Scores]) -> list[str]:
    return in_order({name for of in scores.values() for name in of.questions})


_PAIRED = "The interval of a difference resamples questions, each with the scores of both runs.\n"


def difference_as_terminal(comparison: PairedComparison, first: str, second: str) -> Group:
    """Return tables for a rich console; `first` and `second` name the runs."""
    parts = map(Fitted, _difference_parts(comparison, stacked))
    return Group(*parts, *map(escape, _difference_notes(comparison, first, second)))


def difference_as_markdown(comparison: PairedComparison, first: str, second: str) -> str:
    """Return the same tables, notes and a legend."""
    remarks = "".join(f"* {note}\n" for note in _difference_notes(comparison, first, second))
    return "\n".join([*map(markdown, _difference_parts(comparison, inline)), remarks, LEGEND + _PAIRED])


def difference_as_json(comparison: PairedComparison, first: str, second: str) -> dict[str, Any]:
    """Return every number, as strict JSON: shares in [0, 1], null where there is no bound."""
    return {
        "first": {"name": first, "only": comparison.only_first, **comparison.first.as_json()},
        "second": {"name": second, "only": comparison.only_second, **comparison.second.as_json()},
        "first_minus_second": comparison.difference.as_json(),
        "interval": {"kind": "paired percentile bootstrap over questions", "level": 0.95, "resamples": RESAMPLES},
        "notes": _difference_notes(comparison, first, second),
    }


def _difference_notes(comparison: PairedComparison, first: str, second: str) -> list[str]:
    runs = {"A": comparison.only_first, "B": comparison.only_second}
    left_out = [
        f"Only {run} has {', '.join(f'{n:,} of {name}' for name, n in counts.items())}: left out here."
        for run, counts in runs.items()
        if counts
    ]
    return [f"A is {first}; B is {second}.", *left_out, *notes({"A": comparison.first, "B": comparison.second})]


def _difference_parts(comparison: PairedComparison, style: Style) -> Iterator[Part]:
    rows = [place(name)[1] for name in comparison.difference.benchmarks]
    sizes = [len(ids) for ids in comparison.first.questions.values()]
    for group, average in comparison.difference.averages.items():
        top = "average" if group == ALL else group
        rows += [f"{top} over questions", f"{top} over benchmarks"]
        sizes += [average.n_questions] * 2
    first, second, difference = map(
        _by_row, (comparison.first.estimates, comparison.second.estimates, comparison.difference)
    )
    measure = comparison.first.measure
    scored = [
        Column(("questions", "n"), [f"{n:,}" for n in sizes]),
        Column((label(measure), "A"), _cells(measure, first, style)),
        Column((label(measure), "B"), _cells(measure, second, style)),
        Column((label(measure), "A − B"), _cells(measure, difference, style, sign="+")),
    ]
    yield Part(f"{heading(measure)[1]} of A minus B, paired by question", rows, scored)
    others = [name for name in difference[0] if name != measure]
    columns = [Column(heading(name), _cells(name, difference, style, sign="+")) for name in others]
    yield Part("A minus B in other measures", rows, columns)


def _by_row(estimates: Estimates) -> list[Measures]:
    """Return the measures of the benchmarks, then of each average in both ways."""
    averages = ((average.over_questions, average.over_benchmarks) for average in estimates.averages.values())
    return [*estimates.benchmarks.values(), *chain.from_iterable(averages)]


def _cells(measure: str, rows: Sequence[Measures], style: Style, sign: str = "") -> list[str]:
    return [cell(measure, of[measure], style, sign) for of in rows]
