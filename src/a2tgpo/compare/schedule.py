"""Run what a comparison lacks, several runs at a time, and show how far each is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from a2tgpo.compare.matrix import Cell, Matrix
from a2tgpo.compare.run_process import RunProcess

_SECONDS_BETWEEN_LOOKS = 0.2


def run_cells(matrix: Matrix, jobs: int, console: Console, program: Sequence[str]) -> list[Cell]:
    """Run all cells that have not finished, in order, `jobs` at a time; return the failed ones.

    Ctrl-C asks each run to keep a checkpoint and waits for that; a second one stops them at once.

    Args:
        program: called with the arguments of `a2tgpo`.
    """
    cells = list(matrix.cells())
    with Board(console, len(cells), matrix.max_steps) as board:
        schedule = _Schedule(matrix, program, board, [cell for cell in cells if not cell.finished])
        try:
            while schedule.waiting or schedule.running:
                schedule.collect()
                schedule.fill(jobs)
                board.show([run.cell for run in schedule.running], sum(cell.finished for cell in cells))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            schedule.interrupt()
            raise
    return schedule.failed


@dataclass
class _Schedule:
    matrix: Matrix
    program: Sequence[str]
    board: Board
    waiting: list[Cell]
    running: list[RunProcess] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)

    def fill(self, jobs: int) -> None:
        """Start cells whose start is there; give up those whose start failed."""
        for cell in list(self.waiting):
            if cell.start in self.failed:
                self.waiting.remove(cell)
                self.failed.append(cell)
                self.board.say(f"{cell.name}: not run, as its warm start failed", "red")
            elif len(self.running) < jobs and (cell.start is None or cell.start.finished):
                self.waiting.remove(cell)
                run = RunProcess.start(cell, [*self.program, *cell.arguments(self.matrix.recipe)])
                self.running.append(run)
                if run.process is None:
                    self.board.say(f"{cell.name}: still running from an earlier comparison, waiting for it")

    def collect(self) -> None:
        """Take note of the runs that have ended."""
        for run in [run for run in self.running if run.ended]:
            self.running.remove(run)
            if run.cell.finished:
                self.board.say(f"{run.cell.name}: finished after {run.seconds:.0f} s")
            elif run.process is None:
                self.waiting.insert(0, run.cell)
            else:
                self.failed.append(run.cell)
                self.board.say(f"{run.cell.name}: failed, {run.ending()}", "red")

    def interrupt(self) -> None:
        """Ask the runs started here to stop, and wait.

        By SIGTERM, whatever came: a command that a shell starts in the background ignores Ctrl-C, and so does all that
        it starts.
        """
        ours = [run.process for run in self.running if run.process is not None]
        while any(process.poll() is None for process in ours):
            try:
                for process in ours:
                    process.terminate()
                for process in ours:
                    process.wait()
            except KeyboardInterrupt:
                continue


class Board:
    """Show a bar for the comparison and one for each run; where output is no terminal, only what `say` says."""

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
        """Print a line that stays."""
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
    """Return how many updates a run has logged so far."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").split("\n")
    return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0
