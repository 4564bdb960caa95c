"""A paired comparison as tables: for the terminal, in Markdown and as JSON. The two runs are A and B there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from rich.console import Group
from rich.markup import escape

from a2tgpo.evaluate.aggregate import ALL, Estimates, Measures, place
from a2tgpo.evaluate.bootstrap import RESAMPLES
from a2tgpo.evaluate.cells import Style, cell, heading, inline, stacked
from a2tgpo.evaluate.columns import Column, Fitted, Part, markdown
from a2tgpo.evaluate.compare import PairedComparison
from a2tgpo.evaluate.notes import LEGEND, notes
from a2tgpo.evaluate.per_question import EXACT_MATCH

_PAIRED = "The interval of a difference resamples questions, each with the scores of both runs.\n"


def difference_as_terminal(comparison: PairedComparison, first: str, second: str) -> Group:
    """To print on a rich console; `first` and `second` name the runs."""
    parts = map(Fitted, _parts(comparison, stacked))
    return Group(*parts, *map(escape, _notes(comparison, first, second)))


def difference_as_markdown(comparison: PairedComparison, first: str, second: str) -> str:
    """The same tables, notes and a legend."""
    remarks = "".join(f"* {note}\n" for note in _notes(comparison, first, second))
    return "\n".join([*map(markdown, _parts(comparison, inline)), remarks, LEGEND + _PAIRED])


def difference_as_json(comparison: PairedComparison, first: str, second: str) -> dict[str, Any]:
    """Every number, as strict JSON: shares in [0, 1], null where there is no bound."""
    return {
        "first": {"name": first, "only": comparison.only_first, **comparison.first.as_json()},
        "second": {"name": second, "only": comparison.only_second, **comparison.second.as_json()},
        "first_minus_second": comparison.difference.as_json(),
        "interval": {"kind": "paired percentile bootstrap over questions", "level": 0.95, "resamples": RESAMPLES},
        "notes": _notes(comparison, first, second),
    }


def _notes(comparison: PairedComparison, first: str, second: str) -> list[str]:
    runs = {"A": comparison.only_first, "B": comparison.only_second}
    left_out = [
        f"Only {run} has {', '.join(f'{n:,} of {name}' for name, n in counts.items())}: left out here."
        for run, counts in runs.items()
        if counts
    ]
    return [f"A is {first}; B is {second}.", *left_out, *notes({"A": comparison.first, "B": comparison.second})]


def _parts(comparison: PairedComparison, style: Style) -> Iterator[Part]:
    rows = [place(name)[1] for name in comparison.difference.benchmarks]
    sizes = [len(ids) for ids in comparison.first.questions.values()]
    for group, average in comparison.difference.averages.items():
        top = "average" if group == ALL else group
        rows += [f"{top} over questions", f"{top} over benchmarks"]
        sizes += [average.n_questions] * 2
    first, second, difference = map(
        _by_row, (comparison.first.estimates, comparison.second.estimates, comparison.difference)
    )
    exact = [
        Column(("questions", "n"), [f"{n:,}" for n in sizes]),
        Column(("exact match, %", "A"), _cells(EXACT_MATCH, first, style)),
        Column(("exact match, %", "B"), _cells(EXACT_MATCH, second, style)),
        Column(("exact match, %", "A − B"), _cells(EXACT_MATCH, difference, style, sign="+")),
    ]
    yield Part("exact match of A minus B, paired by question", rows, exact)
    others = [name for name in difference[0] if name != EXACT_MATCH]
    columns = [Column(heading(name), _cells(name, difference, style, sign="+")) for name in others]
    yield Part("A minus B in other measures", rows, columns)


def _by_row(estimates: Estimates) -> list[Measures]:
    """The benchmarks, then each average in both ways."""
    averages = ((average.over_questions, average.over_benchmarks) for average in estimates.averages.values())
    return [*estimates.benchmarks.values(), *chain.from_iterable(averages)]


def _cells(measure: str, rows: Sequence[Measures], style: Style, sign: str = "") -> list[str]:
    return [cell(measure, of[measure], style, sign) for of in rows]
