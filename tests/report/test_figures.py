"""The numbers behind the figures, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from a2tgpo.report.figures import SECTIONS, figures_of
from a2tgpo.report.logged_rollout import Batch, Rollout, Segment
from a2tgpo.report.run_data import RunData, read_runs
from a2tgpo.report.series import Figure, arms_of
from a2tgpo.report.terms import add_terms
from a2tgpo.report.turn_figures import context_similarity
from tests.report.runs import write_run


def rollout(gain: list[float], ids: list[list[int]], **changes: object) -> Rollout:
    """A rollout of process turns that read `ids`, then answer."""
    segments = [s for t, seen in enumerate(ids) for s in (Segment(t, "", seen[:1]), Segment(-1, "", seen[1:]))]
    turns = len(gain) + 1
    made = Rollout(
        group=0,
        id="q",
        question="?",
        answer=["a"],
        segments=[*segments, Segment(len(ids), "", [9])],
        termination="answered",
        reason="",
        prediction="a",
        queries=[],
        reward=1.0,
        valid=True,
        likelihood=[0.0] * turns,
        gain=gain,
        normalized_gain=gain,
        advantage=[0.0] * turns,
        clip_low=[0.9] * turns,
        clip_high=[1.1] * turns,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def figures(runs: list[RunData]) -> dict[str, Figure]:
    return {figure.id: figure for figure in figures_of(arms_of(runs))}


def test_every_figure_of_a_whole_run(tmp_path: Path) -> None:
    """A run with everything has every figure, each in its place."""
    runs = read_runs([write_run(tmp_path / "run")])
    add_terms(runs[0])
    assert list(figures(runs)) == [id for ids in SECTIONS.values() for id in ids]
    assert figures([RunData(tmp_path, "empty")]) == {}


def test_seeds_are_a_band(tmp_path: Path) -> None:
    """Runs that differ in the seed alone are one arm: mean, lowest, highest; another recipe is another arm."""
    runs = [RunData(tmp_path, str(seed), {"lr": 1, "seed": seed}, [{"step": 1, "reward": seed}]) for seed in (0, 1, 5)]
    other = RunData(tmp_path, "other", {"lr": 2}, [{"step": 1, "reward": 7.0}, {"step": 2, "reward": float("nan")}])
    first, second = figures([*runs, other])["reward"].series
    assert (first.x, first.y, first.low, first.high) == ([1], [2.0], [0], [5])
    assert (second.arm, second.x, second.y, second.low) == (1, [1], [7.0], None)
    assert [arm.name for arm in arms_of([*runs, other])] == ["0 (3 seeds)", "other"]


def test_gain_by_turn(tmp_path: Path) -> None:
    """Mean ± population standard deviation at each depth, over the valid rollouts that reach it."""
    rollouts = [rollout([0.1, 0.5], [[1], [2]]), rollout([0.3], [[1]]), rollout([9.0], [[1]], valid=False)]
    (series,) = figures([RunData(tmp_path, "r", batches=[Batch(1, rollouts)])])["gain_raw"].series
    assert series.x == [1, 2] and series.y == pytest.approx([0.2, 0.5])
    assert series.low == pytest.approx([0.1, 0.5]) and series.high == pytest.approx([0.3, 0.5])


def test_advantage_envelope(tmp_path: Path) -> None:
    """The mean of all turns and the bounds of the middle 90 %: of 0 … 100, these are 50, 5 and 95."""
    spread = rollout([], [], advantage=[float(a) for a in range(101)])
    (series,) = figures([RunData(tmp_path, "r", batches=[Batch(4, [spread])])])["advantage"].series
    assert (series.x, series.y, series.low, series.high) == ([4], [50.0], [5.0], [95.0])


def test_step_time(tmp_path: Path) -> None:
    """Seconds per optimizer step: parts are sums since the last log, step times are means and lack the optimizer."""
    row = {"step": 10, "step_time": 2.0, "seconds/generation": 12.0, "seconds/update": 6.0, "seconds/optimizer": 1.0}
    (series,) = figures([RunData(tmp_path, "r", metrics=[row])])["step_time"].series
    seconds = dict(zip(series.x, series.y, strict=True))
    assert seconds["generation"] == pytest.approx(1.2) and seconds["update"] == pytest.approx(0.6)
    assert seconds["optimizer"] == pytest.approx(0.1) and seconds["rest"] == pytest.approx(0.2)


def test_context_similarity_by_hand() -> None:
    """Contexts grow turn by turn and are compared between rollouts of one prompt only."""
    batch = [
        rollout([0.0, 0.0], [[1, 2], [3, 4]]),
        rollout([0.0], [[1, 5]]),
        rollout([0.0], [[7, 8]], group=1),
    ]
    matrix = context_similarity([batch])
    # {1, 2} and {1, 5} share one of three; {1, 2, 3, 4} and {1, 5} one of five.
    assert matrix[0][0] == pytest.approx(1 / 3)
    assert matrix[0][1] == matrix[1][0] == pytest.approx(1 / 5)
    assert matrix[1][1] is None


def test_exact_match_and_length(tmp_path: Path) -> None:
    """Training exact match counts matching answers; lengths count the policy's tokens and all of them."""
    wrong = rollout([0.0], [[1, 2, 3]], prediction="b")
    drawn = figures([RunData(tmp_path, "r", batches=[Batch(1, [rollout([], []), wrong])])])
    assert drawn["exact_match"].series[0].y == [0.5]
    assert [series.y for series in drawn["length"].series] == [[1.5], [2.5]]
