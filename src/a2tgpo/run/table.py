"""The final table: exact match before and after, by hop count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from a2tgpo.evaluate.intervals import Proportion
from a2tgpo.evaluate.questions import Summary

Rows = list[list[str]]

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


def terminal_table(title: str, header: Sequence[str], rows: Rows) -> Table:
    """A table that is narrow and has no frame; the first column names the rows."""
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table; the first column names the rows."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _format(template: str, share: Proportion) -> str:
    return template.format(share.value, *share.interval)
