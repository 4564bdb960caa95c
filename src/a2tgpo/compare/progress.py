"""The live lines of a comparison, and the lines that stay."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from a2tgpo.compare.matrix import Cell


class Board:
    """One bar for the comparison and one for each run under way; where output is no terminal, only what `say` says."""

    def __init__(self, console: Console, n_cells: int, max_steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._all = self._progress.add_task("runs", total=n_cells)
        self._bars: dict[str, TaskID] = {}
        self._max_steps = max_steps if max_steps > 0 else None

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str, style: str | None = None) -> None:
        """A line that stays."""
        self._progress.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def show(self, running: list[Cell], n_done: int) -> None:
        """Bring the bars up to date."""
        self._progress.update(self._all, completed=n_done)
        names = {cell.name for cell in running}
        for name in self._bars.keys() - names:
            self._progress.remove_task(self._bars.pop(name))
        for cell in running:
            total = self._max_steps if cell.start is not None else 1
            if cell.name not in self._bars:
                self._bars[cell.name] = self._progress.add_task(cell.name, total=total)
            self._progress.update(self._bars[cell.name], completed=last_step(cell.directory.metrics))


def last_step(metrics: Path) -> int:
    """Updates a run has logged so far."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").split("\n")
    return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0
