"""Learning curves: what a point is, and what the picture says."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from a2tgpo.compare.learning_curves import curve, draw_curves
from a2tgpo.compare.matrix import Matrix
from tests.compare.runs import write_matrix, write_metrics


def test_a_point_is_a_mean_over_seeds_of_neighbouring_batches() -> None:
    """40 batches make 20 points: each of two batches of a run, then over runs, with the t interval of the runs. Steps
    that made no batch have no metric and no point."""
    runs = [
        [{"step": step} | ({"reward": step + seed} if step % 4 == 1 else {}) for step in range(1, 161)]
        for seed in (0, 1, 2)
    ]
    drawn = curve(runs, "reward")
    assert drawn is not None and len(drawn.points) == 20
    assert drawn.x[:2] == [3.0, 11.0]
    half = 4.302652729911275 / math.sqrt(3)
    first = drawn.points[0]
    assert first.value == 4.0 and first.low == pytest.approx(4 - half) and first.high == pytest.approx(4 + half)


def test_a_batch_without_the_metric_is_no_point() -> None:
    """A number that was not finite is logged as null."""
    drawn = curve([[{"step": step, "reward": None if step == 2 else step / 1} for step in (1, 2, 3)]], "reward")
    assert drawn is not None and [point.value for point in drawn.points] == [1.0, 3.0] and drawn.x == [1.0, 3.0]


def test_a_metric_nobody_logged_has_no_curve() -> None:
    """A run without updates, or no run at all, draws nothing."""
    assert curve([], "reward") is None
    assert curve([[{"step": 1}]], "reward") is None


def test_the_picture_names_every_method(tmp_path: Path) -> None:
    """Each method has a panel with its name in text, an incomplete one says how many seeds it shows, and the same runs
    give the same bytes."""
    pytest.importorskip("matplotlib")
    matrix = write_matrix(tmp_path)
    draw_curves(matrix, tmp_path / "one.svg")
    draw_curves(matrix, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    for words in ("grpo", "a2tgpo", "igpo (2 of 3 seeds)", "reward per rollout", "searches per rollout", "updates"):
        assert f">{words}" in text
    assert text == (tmp_path / "two.svg").read_text()


def test_nothing_to_draw(tmp_path: Path) -> None:
    """Before the first method has finished a run there is no picture, however many updates it has logged."""
    pytest.importorskip("matplotlib")
    matrix = Matrix(tmp_path, ("grpo",), 3, 8)
    matrix.cell("grpo", 0).directory.root.mkdir(parents=True)
    write_metrics(matrix.cell("grpo", 0), 0)
    draw_curves(matrix, tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
    (matrix.cell("grpo", 0).directory.root / "summary.json").write_text("{}")
    draw_curves(matrix, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").exists()


def test_the_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error is the import's own."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError):
        draw_curves(write_matrix(tmp_path), tmp_path / "curves.svg")
