"""Ask about a table that only a server can read: rows, who answers them, and the server, which speaks MCP.

    tools: [{mcp: [python, -m, a2tgpo.environments.table_questions]}]
    rows: a2tgpo.environments.table_questions:rows
    demonstrations: a2tgpo.environments.table_questions:demonstrate

The table is SQLite, the same in every process: `stock(item, shelf, amount, price)`.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from a2tgpo.errors import DataError, needs_extra

ITEMS = (
    *("apple", "bean", "carrot", "date", "egg", "fig", "grape", "honey", "ice", "jam", "kiwi", "lemon", "melon", "nut"),
    *("olive", "pear", "quince", "rice", "salt", "tea", "vanilla", "wheat", "yam", "corn", "plum", "onion", "leek"),
)
SHELVES = ("A", "B", "C", "D")

MOST_ROWS = 20
"""Of a result that is shown."""


def open_table() -> sqlite3.Connection:
    """Return the table in memory; nothing that is asked of it can change it."""
    drawn = random.Random(0)
    table = sqlite3.connect(":memory:", check_same_thread=False)
    table.execute("CREATE TABLE stock (item TEXT, shelf TEXT, amount INTEGER, price INTEGER)")
    stock = [(item, drawn.choice(SHELVES), drawn.randint(2, 60), drawn.randint(1, 30)) for item in ITEMS]
    table.executemany("INSERT INTO stock VALUES (?, ?, ?, ?)", stock)
    table.commit()
    table.execute("PRAGMA query_only = ON")
    return table


def answer_query(table: sqlite3.Connection, sql: str) -> str:
    """Return the result as lines of values, cut to `MOST_ROWS`.

    Raises:
        ValueError: SQLite refuses the query.
    """
    try:
        found = table.execute(sql).fetchmany(MOST_ROWS)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ValueError(str(error)) from error
    return "\n".join(", ".join(map(str, row)) for row in found) or "no rows"


def _questions() -> Iterator[tuple[str, str]]:
    """Yield every question with the query that answers it."""
    for item in ITEMS:
        of = f"FROM stock WHERE item = '{item}'"
        yield f"How many of {item} are there?", f"SELECT amount {of}"
        yield f"On which shelf is {item}?", f"SELECT shelf {of}"
        for number in range(2, 10):
            yield f"What do {number} of {item} cost?", f"SELECT {number} * price {of}"
    for shelf in SHELVES:
        yield f"How many things are on shelf {shelf}?", f"SELECT sum(amount) FROM stock WHERE shelf = '{shelf}'"


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Return `n` different questions with their answers.

    Raises:
        DataError: there are fewer.
    """
    made = list(_questions())
    if n > len(made):
        raise DataError(f"there are {len(made)} questions about the table, not {n}; ask for fewer")
    table = open_table()
    random.Random(seed).shuffle(made)
    return [{"question": asked, "answer": answer_query(table, sql)} for asked, sql in made[:n]]


def demonstrate(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """Ask the table, then give what it answered."""
    if len(said) > 1:
        return rf"<think> I now know the answer. </think> <answer> \boxed{{{said[-1]}}} </answer>"
    return f"<think> The table knows. </think> <query> {dict(_questions())[row['question']]} </query>"


def serve() -> None:
    """Serve the table over standard input and output.

    Raises:
        MissingExtra: the `mcp` package is not installed.
    """
    with needs_extra("mcp", "a server of tools"):
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    server, table = MCPServer("table", log_level="CRITICAL"), open_table()

    @server.tool()
    def query(sql: str) -> str:
        """Query the table stock(item, shelf, amount, price) in SQL."""
        try:
            return answer_query(table, sql)
        except ValueError as error:
            raise ToolError(str(error)) from error

    server.run("stdio")


if __name__ == "__main__":
    serve()
