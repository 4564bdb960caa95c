"""What the bars of a comparison show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.schedule import Board, last_step
from tests.compare.runs import write_metrics


@pytest.mark.parametrize(
    ("written", "step"),
    [
        ("", 0),
        ('{"step": 1, "rew', 0),
        ('{"step": 1}\n', 1),
        ('{"step": 1}\n{"step": 2}\n{"step": 3, "rew', 2),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}', 2),
    ],
)
def test_the_last_step_logged(tmp_path: Path, written: str, step: int) -> None:
    """The step of the last whole line: one that is still being written does not count. Without a file it is 0."""
    metrics = tmp_path / "metrics.jsonl"
    assert last_step(metrics) == 0
    metrics.write_text(written)
    assert last_step(metrics) == step


def test_bars_say_how_far_runs_are(tmp_path: Path) -> None:
    """A run under way has a bar with its updates of all, a warm start one of a single step, and one that has ended
    none; the comparison's own bar counts runs."""
    matrix = Matrix(tmp_path, ("grpo", "a2tgpo"), 1, 8)
    running = [matrix.start(0), matrix.cell("grpo", 0)]
    matrix.cell("grpo", 0).directory.root.mkdir(parents=True)
    write_metrics(matrix.cell("grpo", 0), 0, range(1, 6))

    def shown(*looks: int) -> list[str]:
        """The bars that stand after `looks`, numbers of runs still under way."""
        console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
        with Board(console, 3, matrix.max_steps) as board:
            for n in looks:
                board.show(running[2 - n :], 1)
            return [" ".join((str(t.description), f"{t.completed:g}/{t.total:g}")) for t in board._progress.tasks]

    assert shown(2) == ["runs 1/3", "warm_start/seed_0 0/1", "grpo/seed_0 5/8"]
    assert shown(2, 1) == ["runs 1/3", "grpo/seed_0 5/8"]
