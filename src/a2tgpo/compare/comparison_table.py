"""Show a comparison as tables, for the terminal and for `summary.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from a2tgpo.compare.comparison import Against, Comparison
from a2tgpo.compare.depth import STRETCHES
from a2tgpo.compare.learning_rates import ChosenRate
from a2tgpo.compare.measured import AREA, COLLAPSED, GAIN_SHARE, SECONDS
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
Means over seeds with 95 % t intervals. Exact match, or an environment's success or reward, is on held-out questions or
episodes after the last update; searches and tokens (written by the policy) per question are those of the greedy
evaluation; gain is its share of the seconds of a step. ReAct is the policy before its updates. The area under the
learning curve is the mean reward over a run's generation batches; a run has collapsed where the policy answers fewer
than half as many questions, greedy, as before its updates.

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


Chosen = Mapping[str, ChosenRate]
"""Methods with their learning rates, where pilots chose them."""


def as_tables(comparison: Comparison, chosen: Chosen | None = None) -> list[Table]:
    """Make tables for the terminal: intervals below their means."""
    parts = [*_parts(comparison, stacked), *_rates(chosen)]
    return [terminal_table(part.title, part.header, part.rows) for part in parts]


def as_markdown(comparison: Comparison, chosen: Chosen | None = None) -> str:
    """Write the text of `summary.md`."""
    parts = [*_parts(comparison, inline), *_rates(chosen)]
    texts = [f"## {part.title}\n\n{markdown_table(part.header, part.rows)}" for part in parts]
    return "\n".join([*texts, _NOTES])


def _rates(chosen: Chosen | None) -> Iterator[_Part]:
    """Tell what the pilots of each learning rate scored."""
    if chosen:
        rates = sorted({rate for choice in chosen.values() for rate in choice.scores}, key=float)
        rows = [[name, *(_score(choice, rate) for rate in rates), choice.rate] for name, choice in chosen.items()]
        yield _Part("learning rates: exact match of the pilots, greedy and sampled", ["", *rates, "chosen"], rows)


def _score(choice: ChosenRate, rate: str) -> str:
    return f"{choice.scores[rate]:.3f}" if rate in choice.scores else "–"


def _parts(comparison: Comparison, style: Style) -> Iterator[_Part]:
    told = comparison.measured
    yield _Part(f"held-out {told} and cost", ["", *_MAIN, "seeds"], _values(comparison, _MAIN, style))
    for mode, against in comparison.against.items():
        prefix = f"{mode}/exact_match/"
        keys = {key for row in comparison.rows.values() for key in row.means if key.startswith(prefix)}
        hops = sorted(int(key.removeprefix(prefix).removesuffix("_hops")) for key in keys)
        columns = {f"{n} hop" + "s" * (n > 1): (f"{prefix}{n}_hops", ".3f") for n in hops}
        if columns:
            header = ["", *columns, "seeds"]
            yield _Part(f"exact match by hops, {mode}", header, _values(comparison, columns, style))
        if against:
            yield _differences(against, f"{told} minus {{}}, {mode}", style)
    yield from _learning(comparison, style)
    for measure, (title, form) in _DEPTH.items():
        if (part := _depth(comparison, measure, title, form)).rows:
            yield part


def _learning(comparison: Comparison, style: Style) -> Iterator[_Part]:
    """Tell the area under the learning curve, and how many runs collapsed."""
    rows = [
        [name, as_interval(of[AREA], ".3f", style), f"{round(of[COLLAPSED].value * row.n_seeds)} of {row.n_seeds}"]
        for name, row in comparison.rows.items()
        if {AREA, COLLAPSED} <= (of := row.means).keys()
    ]
    if rows:
        yield _Part("learning", ["", "area under the curve", "collapsed runs"], rows)
    if comparison.area:
        yield _differences(comparison.area, "area under the learning curve minus {}", style)


def _differences(against: dict[str, Against], title: str, style: Style) -> _Part:
    """Tell differences; `title` names whose are taken away at its {}."""
    baselines = {test.baseline for test in against.values()}
    several = len(baselines) > 1
    asked = any(test.questions for test in against.values())
    rows = [
        [
            name,
            *([test.baseline] if several else []),
            as_interval(test.seeds.mean, "+.3f", style),
            as_p(test.seeds.p),
            as_p(test.p_holm),
            *([as_p(test.questions.p if test.questions else None)] if asked else []),
        ]
        for name, test in against.items()
    ]
    header = ["", *(["minus"] if several else []), "difference", "p", "Holm", *(["p over questions"] if asked else [])]
    whose = "its baseline's" if several else f"{baselines.pop()}'s"
    return _Part(title.format(whose), header, rows)


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
            cells = [as_interval(row.means.get(key), form, style) for key, form in columns.values()]
            rows.append([name, *cells, str(row.n_seeds)])
        else:
            rows.append([name, "incomplete", *[""] * (len(columns) - 1), f"{len(row.runs)} of {row.n_seeds}"])
    return rows


def as_interval(mean: Mean | None, form: str, style: Style) -> str:
    if mean is None:
        return "–"
    if mean.low is None or mean.high is None:
        return format(mean.value, form)
    return style(mean.value, mean.low, mean.high, form)


def inline(value: float, low: float, high: float, form: str) -> str:
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def stacked(value: float, low: float, high: float, form: str) -> str:
    short, between = _SHORTER[form], " to " if "+" in form else "–"
    return f"{value:{form}}\n{low:{short}}{between}{high:{short}}"


def as_p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
