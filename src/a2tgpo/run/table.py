"""The final table: exact match before and after, by hop count."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.tables import Rows, markdown_table, terminal_table

_INLINE, _STACKED = "{:.3f} [{:.2f}, {:.2f}]", "{:.3f}\n{:.2f}–{:.2f}"


def summary_rows(summaries: Mapping[str, Summary], share: str = _INLINE) -> tuple[list[str], Rows]:
    """Header and rows, one row a summary: exact match overall and by hops (95 % interval), searches, format rate.

    `share` formats a proportion and the two ends of its interval.
    """
    hops = sorted({hop for summary in summaries.values() for hop in summary.by_hops})
    header = ["", "exact match", *(f"{hop} hop" + "s" * (hop > 1) for hop in hops), "searches", "format"]
    rows = [
        [
            name,
            _format(share, summary.exact_match),
            *(_format(share, summary.by_hops[hop]) if hop in summary.by_hops else "" for hop in hops),
            f"{summary.searches:.2f}",
            f"{summary.format_rate:.3f}",
        ]
        for name, summary in summaries.items()
    ]
    return header, rows


def as_table(summaries: Mapping[str, Summary], title: str) -> Table:
    """For the terminal: intervals below their shares, so that three hop counts fit into 80 columns."""
    return terminal_table(title, *summary_rows(summaries, _STACKED))


def as_markdown(summaries: Mapping[str, Summary]) -> str:
    """For `summary.md`."""
    return markdown_table(*summary_rows(summaries))


def _format(template: str, share: Proportion) -> str:
    return template.format(share.value, *share.interval)
