"""Show a comparison as tables, for the terminal and for `summary.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.table import Table

from a2tgpo.compare.comparison import GAIN_SHARE, SECONDS, Against, Comparison
from a2tgpo.compare.depth import STRETCHES
from a2tgpo.evaluate.statistics import Mean
from a2tgpo.tables import Rows, markdown_table, terminal_table

_MAIN = {
    "greedy": ("greedy/exact_match", ".3f"),
    "sampled": ("sampled/exact_match", ".3f"),
    "searches": ("greedy/searches", ".2f"),
    "tokens": ("greedy/policy_tokens", ".1f"),
    "s/step": (SECONDS, ".2f"),
    "gain": (GAIN_SHARE, ".1%"),
}
"""Column -> value, format."""

_SHORTER = {".3f": ".2f", "+.3f": "+.2f", ".2f": ".1f", ".1f": ".0f", ".1%": ".0%"}
"""Format of a mean -> of the ends of its interval where space is short."""

_DEPTH = {
    "right": ("right answers in training by hops, first and last fifth of the batches", ".2f"),
    "searches": ("searches per rollout in training by hops, first and last fifth of the batches", ".2f"),
}
"""Measure -> title, format."""

Style = Callable[[float, float, float, str], str]

_NOTES = """\
Means over seeds with 95 % t intervals. Exact match is on held-out questions after the last update; searches and tokens
(written by the policy) per question are those of the greedy evaluation; gain is its share of the seconds of a step.
ReAct is the policy before its updates.

A difference from a baseline pairs the runs of a seed (same warm start, prompts in the same order): the paired t test
over seeds is the test of the methods, and "Holm" is its p adjusted for all comparisons of that table. The p over
questions pairs questions: it is about these trained policies only, and does not know how much another seed would
change.
"""


@dataclass(frozen=True)
class _Part:
    title: str
    header: list[str]
    rows: Rows


def as_tables(comparison: Comparison) -> list[Table]:
    """Make tables for the terminal: intervals below their means."""
    return [terminal_table(part.title, part.header, part.rows) for part in _parts(comparison, _stacked)]


def as_markdown(comparison: Comparison) -> str:
    """Write the text of `summary.md`."""
    parts = [f"## {part.title}\n\n{markdown_table(part.header, part.rows)}" for part in _parts(comparison, _inline)]
    return "\n".join([*parts, _NOTES])


def _parts(comparison: Comparison, style: Style) -> Iterator[_Part]:
    yield _Part("held-out exact match and cost", ["", *_MAIN, "seeds"], _values(comparison, _MAIN, style))
    for mode, against in comparison.against.items():
        prefix = f"{mode}/exact_match/"
        keys = {key for row in comparison.rows.values() for key in row.means if key.startswith(prefix)}
        hops = sorted(int(key.removeprefix(prefix).removesuffix("_hops")) for key in keys)
        columns = {f"{n} hop" + "s" * (n > 1): (f"{prefix}{n}_hops", ".3f") for n in hops}
        if columns:
            header = ["", *columns, "seeds"]
            yield _Part(f"exact match by hops, {mode}", header, _values(comparison, columns, style))
        if against:
            yield _differences(against, mode, style)
    for measure, (title, form) in _DEPTH.items():
        if (part := _depth(comparison, measure, title, form)).rows:
            yield part


def _differences(against: dict[str, Against], mode: str, style: Style) -> _Part:
    baselines = {test.baseline for test in against.values()}
    several = len(baselines) > 1
    rows = [
        [
            name,
            *([test.baseline] if several else []),
            _mean(test.seeds.mean, "+.3f", style),
            _p(test.seeds.p),
            _p(test.p_holm),
            _p(test.questions.p if test.questions else None),
        ]
        for name, test in against.items()
    ]
    header = ["", *(["minus"] if several else []), "difference", "p", "Holm", "p over questions"]
    whose = "its baseline's" if several else f"{baselines.pop()}'s"
    return _Part(f"exact match minus {whose}, {mode}", header, rows)


def _depth(comparison: Comparison, measure: str, title: str, form: str) -> _Part:
    """Tell a measure of training rollouts by hops, from the first to the last fifth of the batches."""
    prefix = f"training/{measure}/"
    means = {name: row.means for name, row in comparison.rows.items()}
    keys = {key.removeprefix(prefix) for of in means.values() for key in of if key.startswith(prefix)}
    hops = sorted({int(key.split("_")[0]) for key in keys})
    rows = []
    for name, of in means.items():
        ends = [[of.get(f"{prefix}{n}_hops/{stretch}") for stretch in STRETCHES] for n in hops]
        told = [" → ".join("–" if end is None else format(end.value, form) for end in pair) for pair in ends]
        if any(pair != [None, None] for pair in ends):
            rows.append([name, *told])
    return _Part(title, ["", *(f"{n} hop" + "s" * (n > 1) for n in hops)], rows)


def _values(comparison: Comparison, columns: dict[str, tuple[str, str]], style: Style) -> Rows:
    rows = []
    for name, row in comparison.rows.items():
        if row.complete:
            cells = [_mean(row.means.get(key), form, style) for key, form in columns.values()]
            rows.append([name, *cells, str(row.n_seeds)])
        else:
            rows.append([name, "incomplete", *[""] * (len(columns) - 1), f"{len(row.runs)} of {row.n_seeds}"])
    return rows


def _mean(mean: Mean | None, form: str, style: Style) -> str:
    if mean is None:
        return "–"
    if mean.low is None or mean.high is None:
        return format(mean.value, form)
    return style(mean.value, mean.low, mean.high, form)


def _inline(value: float, low: float, high: float, form: str) -> str:
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _stacked(value: float, low: float, high: float, form: str) -> str:
    short, between = _SHORTER[form], " to " if "+" in form else "–"
    return f"{value:{form}}\n{low:{short}}{between}{high:{short}}"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
