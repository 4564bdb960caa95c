"""A broken run looks broken, and the rollout to read first is one that teaches something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from a2tgpo.report.health import endings, findings
from a2tgpo.report.logged_rollout import Batch, Rollout
from a2tgpo.report.opening import choose_opening
from a2tgpo.report.run_data import RunData, read_runs
from a2tgpo.report.turn_groups import normalises_in_turn_groups, turn_groups
from tests.report.runs import write_run
from tests.report.test_figures import rollout


def said(run: RunData, level: str) -> list[str]:
    return [finding.text for finding in findings(run) if finding.level == level]


def test_a_whole_run_has_nothing_to_say(tmp_path: Path) -> None:
    """A finished run of rollouts that differ has no finding, a run still going on one: that it is not finished."""
    path = write_run(tmp_path / "run", max_steps=6)
    (run,) = read_runs([path])
    assert said(run, "bad") == [] and said(run, "note") == ["all 6 steps are logged, and there is no final table"]
    (path / "summary.json").write_text("{}")
    assert findings(run) == []
    (run,) = read_runs([write_run(tmp_path / "going", max_steps=100)])
    assert said(run, "bad") == ["not finished: step 6 of 100 was logged last, and there is no final table"]


def test_losses_that_are_no_numbers(tmp_path: Path) -> None:
    """NaN, null and text in place of a logged number are counted with the first step; a loss that never was a number
    too. Values that no step logged as a number are texts by nature."""
    rows = [
        {"step": 1, "kl": 0.1, "loss": None, "note": "a"},
        {"step": 2, "kl": "x", "loss": float("nan"), "note": "b"},
    ]
    run = RunData(tmp_path, "r", {}, [*rows, {"step": 3, "kl": None}])
    assert said(run, "bad")[:2] == [
        "kl is not a number at 2 of 3 logged steps, first at step 2",
        "loss is not a number at 2 of 2 logged steps, first at step 1",
    ]


def test_rollouts_that_failed(tmp_path: Path) -> None:
    """Failed tools with the reason, a bad ending of most rollouts, numbers that are none, excluded rollouts and batches
    that are cut off are each said with their counts."""
    failed = rollout([], [], termination="tool_failed", reason="timed out", valid=False)
    batches = [
        Batch(1, [failed, *[rollout([], [], termination="malformed")] * 3]),
        Batch(2, [rollout([float("nan")], [[1]])]),
    ]
    run = RunData(tmp_path, "r", {}, [], [batches[0], batches[0], batches[1]])
    assert said(run, "bad") == [
        "the tool failed in 2 of 9 rollouts: timed out",
        "6 of 9 rollouts ended malformed",
        "a gain, likelihood, advantage or reward is not a number in 1 of 9 rollouts",
        "the batch of step 2 holds 1 rollouts, others 4: cut off",
    ]
    assert "2 of 9 rollouts were excluded from the loss" in said(run, "note")
    assert endings(run) == {"malformed": 6, "tool_failed": 2, "answered": 1}


def test_noise_is_counted_by_turns(tmp_path: Path) -> None:
    """Of four process turns two lie in a group whose gains are 0.001 apart: half of the turns. The spread of a signal
    without likelihoods has another scale and is not called noise."""
    quiet = [rollout([0.5], [[1]], group=0), rollout([0.501], [[1]], group=0)]
    loud = [rollout([0.0], [[1]], group=1), rollout([0.9], [[1]], group=1)]
    run = RunData(tmp_path, "r", batches=[Batch(1, quiet + loud)])
    assert any(text.startswith("50.0% of the process turns") for text in said(run, "note"))
    judged = [replace(one, likelihood=[]) for one in quiet + loud]
    assert not any("noise" in text for text in said(RunData(tmp_path, "r", batches=[Batch(1, judged)]), "note"))


def test_turn_groups_by_hand() -> None:
    """Number, mean and population deviation of each depth; an excluded rollout and a NaN are in no group."""
    batch = Batch(1, [rollout([0.0, 0.2], [[1], [1]]), rollout([1.0], [[1]]), rollout([9.0], [[1]], valid=False)])
    first, second = turn_groups(batch)[0]
    assert (first.n, first.mean, first.std, first.noise) == (2, 0.5, 0.5, False)
    assert (second.n, second.mean, second.std, second.noise) == (1, 0.2, 0.0, False)
    nan = turn_groups(Batch(1, [rollout([float("nan")], [[1]])]))[0][0]
    assert (nan.n, nan.mean, nan.std) == (0, 0.0, 0.0)


def test_other_normalisations_are_told(tmp_path: Path) -> None:
    """Scores of the turn group are recognised; gains divided by something else are not."""
    (run,) = read_runs([write_run(tmp_path / "run", batches=1)])
    assert normalises_in_turn_groups(run)
    file = tmp_path / "run" / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        record["normalized_gain"] = [value * 1.5 for value in record["normalized_gain"]]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert not normalises_in_turn_groups(read_runs([tmp_path / "run"])[0])


def group(*gains: list[float], **changes: object) -> list[Rollout]:
    """Rollouts of a question with these gains, the first of them right."""
    return [
        rollout(gain, [[1]] * len(gain), normalized_gain=gain, prediction="b" if k else "a", **changes)
        for k, gain in enumerate(gains)
    ]


def test_the_opening_teaches_something() -> None:
    """Of a group without spread, one all answer alike and one whose turns differ, the last is opened, at its rollout
    that found the answer, with the numbers of its turn group."""
    noise = group([0.9], [0.9001], [0.9])
    alike = [replace(one, prediction="a") for one in group([0.2], [0.5], [0.8])]
    told = group([-0.2, 0.9], [0.5, 0.1], [0.3, -0.4])
    told[0] = replace(told[0], likelihood=[0.3, 0.1, 1.0], advantage=[-0.5, 1.5, 1.0])
    opening = choose_opening([Batch(1, noise), Batch(2, alike), Batch(3, told)])
    assert opening is not None and (opening.step, opening.row) == (3, 0)
    assert opening.why[0] == (
        "Turn 2 took p(gold answer) from 0.10 to 1.00; the 3 rollouts at this depth gained +0.20 ± 0.54. "
        "Its advantage is +1.50."
    )
    assert (
        opening.why[1].startswith("Turn 1 took")
        and opening.why[2] == "1 of the question's 3 rollouts are right; this one is."
    )


def test_noise_in_the_opening_is_called_so() -> None:
    """Where nothing better is there, what the numbers cannot say is said."""
    opening = choose_opening([Batch(1, group([0.9], [0.9001], [0.9]))])
    assert opening is not None and "what normalisation leaves is noise" in opening.why[0]


@pytest.mark.parametrize("gains", [[], [float("nan")]])
def test_an_opening_without_gains(gains: list[float]) -> None:
    """A method without gains, and a rollout whose numbers are none, are opened with their outcome alone."""
    opening = choose_opening([Batch(1, group(gains, gains))])
    assert opening is not None and opening.why == ["1 of the question's 2 rollouts are right; this one is."]
    assert choose_opening([]) is None


def test_a_failing_run_opens_on_a_failure() -> None:
    """Where most rollouts ended badly the first of those is opened, with its reason."""
    rollouts = [rollout([], []), *[rollout([], [], termination="malformed", reason="no tag")] * 2]
    opening = choose_opening([Batch(4, rollouts)])
    assert opening is not None and (opening.step, opening.row) == (4, 1)
    assert opening.why == ["2 of 3 rollouts ended malformed: this is one of them.", "The reason given: no tag"]
