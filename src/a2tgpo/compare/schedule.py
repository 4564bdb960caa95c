"""Run what a comparison lacks, several runs at a time."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from a2tgpo.compare.cell import Cell
from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.process import RunProcess
from a2tgpo.compare.progress import Board

_PROGRAM = (sys.executable, "-m", "a2tgpo.cli")
_SECONDS_BETWEEN_LOOKS = 0.2


def run_cells(matrix: Matrix, jobs: int, console: Console, program: Sequence[str] = _PROGRAM) -> list[Cell]:
    """Run all cells that have not finished, in order, `jobs` at a time; the failed ones.

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
        """Pass Ctrl-C on to the runs started here, and wait."""
        ours = [run.process for run in self.running if run.process is not None]
        while any(process.poll() is None for process in ours):
            try:
                for process in ours:
                    process.send_signal(signal.SIGINT)
                for process in ours:
                    process.wait()
            except KeyboardInterrupt:
                continue
