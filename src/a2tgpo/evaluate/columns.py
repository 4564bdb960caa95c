"""Tables made of columns, for a terminal of any width and for Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from a2tgpo.tables import markdown_table, terminal_table

_NAME_WIDTH = 18


@dataclass(frozen=True)
class Column:
    """A heading of one or more lines, and a cell for each row. Columns whose first lines agree belong together."""

    heading: tuple[str, ...]
    cells: list[str]


@dataclass(frozen=True)
class Part:
    """A table with named rows."""

    title: str
    rows: list[str]
    columns: list[Column]


@dataclass(frozen=True)
class Fitted:
    """A part for the terminal: as few tables as its width allows, and no break between columns that belong together."""

    part: Part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(width=10 * options.max_width)
        columns: list[Column] = []
        for _, together in groupby(self.part.columns, key=lambda column: column.heading[0]):
            longer = [*columns, *together]
            if columns and Measurement.get(console, unbounded, _table(self.part, longer)).maximum > options.max_width:
                yield _table(self.part, columns)
                longer = longer[len(columns) :]
            columns = longer
        yield _table(self.part, columns)
        yield ""


def markdown(part: Part) -> str:
    """The part as a section."""
    header = ["", *("<br>".join(map(_plain, column.heading)) for column in part.columns)]
    rows = [[_plain(name), *cells] for name, cells in zip(part.rows, _by_row(part.columns), strict=True)]
    return f"## {_plain(part.title)}\n\n{markdown_table(header, rows)}"


def _table(part: Part, columns: Sequence[Column]) -> Table:
    header = ["", *(escape("\n".join(column.heading)) for column in columns)]
    names = (escape("\n".join(textwrap.wrap(name, _NAME_WIDTH))) for name in part.rows)
    rows = [[name, *map(escape, cells)] for name, cells in zip(names, _by_row(columns), strict=True)]
    return terminal_table(escape(part.title), header, rows)


def _by_row(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _plain(text: str) -> str:
    """Text that ends no cell and starts no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")
