"""The numbers behind the figures, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from a2tgpo.pipeline.rollout_log import LoggedCall, LoggedSegment
from a2tgpo.report.figures import figures_of
from a2tgpo.report.logged_rollout import Batch, Rollout
from a2tgpo.report.run_data import RunData, read_runs
from a2tgpo.report.series import Figure, arms_of
from a2tgpo.report.step_figures import every_metric
from a2tgpo.report.terms import add_terms
from a2tgpo.report.turn_figures import turn_similarity
from tests.report.runs import FIGURES, write_run


def rollout(gain: list[float], ids: list[list[int]], **changes: object) -> Rollout:
    """A rollout of process turns that read `ids`, then answer."""
    segments = [
        s for t, seen in enumerate(ids) for s in (LoggedSegment(t, "", seen[:1]), LoggedSegment(-1, "", seen[1:]))
    ]
    turns = len(gain) + 1
    made = Rollout(
        group=0,
        id="q",
        question="?",
        answer=["a"],
        segments=[*segments, LoggedSegment(len(ids), "", [9])],
        termination="answered",
        reason="",
        prediction="a",
        calls=[LoggedCall("q", []) for _ in ids],
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
    assert list(figures(runs)) == FIGURES
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
    """A box at each depth over the valid rollouts that reach it: of 0, 0.1 … 1 the quartiles are 0.25 and 0.75, the
    middle 90 % ends at 0.05 and 0.95. Gains that are no numbers are left out."""
    rollouts = [rollout([k / 10, 0.5], [[1], [2]]) for k in range(11)]
    rollouts += [rollout([float("nan")], [[1]]), rollout([9.0], [[1]], valid=False)]
    (series,) = figures([RunData(tmp_path, "r", batches=[Batch(1, rollouts)])])["gain_raw"].series
    assert series.x == [1, 2] and series.n == [11, 11]
    box = [
        values[0] for values in (series.least, series.low, series.y, series.high, series.most, series.mean) if values
    ]
    assert box == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95, 0.5])


def test_signals_by_their_name(tmp_path: Path) -> None:
    """Where likelihoods were scored the figures speak of gains; without any, of the turn signal, or of the step reward
    that the recipe asked for. Runs of two kinds have a common name."""
    scored = RunData(tmp_path, "scored", batches=[Batch(1, [rollout([0.1], [[1]])])])
    bare = RunData(tmp_path, "bare", batches=[Batch(1, [rollout([0.1], [[1]], likelihood=[])])])
    judged = replace(bare, name="judged", config={"process_signal": "reward_model"})
    titles = [figures([run])["gain_raw"].title for run in (scored, bare, judged)]
    assert titles == ["Gain, raw", "Turn signal, raw", "Step reward, raw"]
    assert figures([scored, judged])["gain_raw"].title == "Turn signal, raw"


def test_tool_calls(tmp_path: Path) -> None:
    """Of ten batches the first two and the last two are shown: one call each at first, then none or two."""
    one, none, two = rollout([0.0], [[1]]), rollout([], []), rollout([0.0, 0.0], [[1], [2]])
    batches = [Batch(step, [one, one] if step < 5 else [none, two]) for step in range(10)]
    first, last = figures([RunData(tmp_path, "r", batches=batches)])["searches"].series
    assert (first.label, first.x, first.y, first.n) == ("first fifth", [0, 1], [0.0, 1.0], [0, 4])
    assert (last.label, last.x, last.y, last.n) == ("last fifth", [0, 1, 2], [0.5, 0.0, 0.5], [2, 0, 2])
    foreign = rollout([0.0, 0.0], [[1], [2]], termination=None, calls=[])
    (all_of_them,) = figures([RunData(tmp_path, "r", batches=[Batch(1, [foreign])])])["searches"].series
    assert all_of_them.label == "all" and all_of_them.y == [0.0, 0.0, 1.0]


def test_depth_by_hops(tmp_path: Path) -> None:
    """Right answers and tool calls of each batch by the hops of the question; questions without hops are left out."""
    one, three = rollout([0.0], [[1]], hops=1), rollout([0.0, 0.0], [[1], [2]], hops=3, prediction="b")
    batches = [Batch(1, [one, three, rollout([], [])]), Batch(2, [three])]
    drawn = figures([RunData(tmp_path, "r", batches=batches)])
    right, searches = drawn["right_by_hops"].series, drawn["searches_by_hops"].series
    assert [(line.label, line.x, line.y) for line in right] == [("1 hop", [1], [1.0]), ("3 hops", [1, 2], [0.0, 0.0])]
    assert [line.y for line in searches] == [[1.0], [2.0, 2.0]]
    assert "right_by_hops" not in figures([RunData(tmp_path, "r", batches=[Batch(1, [rollout([], [])])])])


def test_rewards_are_the_rollouts(tmp_path: Path) -> None:
    """The reward is the mean of the rollouts that have one, whatever was logged; without rollouts it is the log's."""
    rollouts = [rollout([], [], reward=reward) for reward in (1.0, 0.0, 0.5, None, float("nan"))]
    metrics = [{"step": 1, "reward": 9.0}]
    assert figures([RunData(tmp_path, "r", {}, metrics, [Batch(1, rollouts)])])["reward"].series[0].y == [0.5]
    assert figures([RunData(tmp_path, "r", {}, metrics)])["reward"].series[0].y == [9.0]


def test_no_gold_no_exact_match(tmp_path: Path) -> None:
    """Rollouts without a gold answer do not enter exact match; where no rollout has one there is no such figure."""
    gold, bare = rollout([], [], prediction="b"), rollout([], [], answer=[])
    assert figures([RunData(tmp_path, "r", batches=[Batch(1, [gold, bare])])])["exact_match"].series[0].y == [0.0]
    assert "exact_match" not in figures([RunData(tmp_path, "r", batches=[Batch(1, [bare])])])


def test_every_metric_is_a_curve(tmp_path: Path) -> None:
    """Whatever number a run logged has a curve by its name; text, truth values and NaN have none. A log of more than
    2,000 points is averaged over neighbours."""
    rows = [
        {"step": step, "mine/own": step % 2, "text": "a", "flag": True, "nan": float("nan")} for step in range(5000)
    ]
    curves = every_metric(arms_of([RunData(tmp_path, "r", {}, rows)]))
    assert list(curves) == ["mine/own"]
    (line,) = curves["mine/own"]
    assert len(line.x) == 1667 and line.y[0] == pytest.approx(1 / 3) and line.y[1] == pytest.approx(2 / 3)


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


def test_turn_similarity_by_hand() -> None:
    """A turn is what was written and read in it, without the turns before, and turns are compared between rollouts of
    one prompt only."""
    batch = [
        rollout([0.0, 0.0], [[1, 2], [3, 4]]),
        rollout([0.0], [[1, 3, 4]]),
        rollout([0.0], [[7, 8]], group=1),
    ]
    matrix = turn_similarity([Batch(1, batch)])
    # {1, 2} and {1, 3, 4} share one of four; {3, 4} and {1, 3, 4} two of three.
    assert matrix[0][0] == pytest.approx(1 / 4)
    assert matrix[0][1] == matrix[1][0] == pytest.approx(2 / 3)
    assert matrix[1][1] is None


def test_exact_match_and_length(tmp_path: Path) -> None:
    """Training exact match counts matching answers; lengths are the policy's tokens and all of them, in a band from
    the shortest to the longest."""
    wrong = rollout([0.0], [[1, 2, 3]], prediction="b")
    drawn = figures([RunData(tmp_path, "r", batches=[Batch(1, [rollout([], []), wrong])])])
    assert drawn["exact_match"].series[0].y == [0.5]
    policy, whole = drawn["length"].series
    assert (policy.y, policy.low, policy.high) == ([1.5], [1], [2])
    assert (whole.y, whole.low, whole.high) == ([2.5], [1], [4])
