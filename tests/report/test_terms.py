"""The parts of an advantage are core's, and are shown only where they add up to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2tgpo.report.run_data import RunData, read_runs
from a2tgpo.report.terms import CreditSettings, add_terms
from tests.report.runs import write_run


def by_hand(path: Path, advantage: list[list[float]], **recipe: float | str) -> RunData:
    """Two rollouts of one question: normalised gains (1, 0.5) and (−1), rewards 1 and 0."""
    write_run(path, batches=1, questions=1, rollouts=2, updates=False, **recipe)
    file = path / "rollouts" / "step_000000.jsonl"
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    first |= {"gain": [0.2, 0.1], "normalized_gain": [1.0, 0.5], "likelihood": [0.1, 0.3, 0.4], "reward": 1.0}
    second |= {"gain": [-0.2], "normalized_gain": [-1.0], "likelihood": [0.5, 0.3], "reward": 0.0}
    for record, values in zip((first, second), advantage, strict=True):
        record |= {"advantage": values, "clip_low": [0.9] * len(values), "clip_high": [1.1] * len(values)}
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    (run,) = read_runs([path])
    add_terms(run)
    return run


def test_terms_by_hand(tmp_path: Path) -> None:
    """(1 + 0.5)/√2, 0.5 and −1 on process turns; ±1 for the rewards; α and γ of the recipe enter."""
    root = 1.5 / 2**0.5
    run = by_hand(tmp_path / "a", [[root + 1, 1.5, 1.0], [-2.0, -1.0]])
    first, second = run.batches[0].rollouts
    assert first.terms is not None and second.terms is not None and run.notices == []
    assert first.terms.accumulated == pytest.approx([root, 0.5])
    assert first.terms.outcome == pytest.approx(1, abs=1e-4) and second.terms.outcome == pytest.approx(-1, abs=1e-4)
    discounted = (1 + 0.5 * 0.5) / 2**0.5
    run = by_hand(tmp_path / "b", [[0.3 * discounted + 1, 1.15, 1.0], [-1.3, -1.0]], gain_alpha=0.3, turn_gamma=0.5)
    assert run.batches[0].rollouts[0].terms is not None and run.notices == []


def test_terms_of_a_baseline_that_goes_on(tmp_path: Path) -> None:
    """Gains (0.2, 0.1) and (−0.2): with "absorbing" the second rollout has a 0 at depth 2. Both depths are then ±1, the
    second's last turn has −1 of process credit, its first (−1 − 1)/√2; by the method's row, and by the recipe's key."""
    root = 2**0.5
    for name, recipe in (("row", {"method": "a2tgpo-absorbing"}), ("key", {"turn_baseline": "absorbing"})):
        run = by_hand(tmp_path / name, [[root + 1, 2.0, 1.0], [-root - 1, -2.0]], **recipe)
        first, second = run.batches[0].rollouts
        assert first.terms is not None and second.terms is not None and run.notices == []
        assert first.terms.accumulated == pytest.approx([root, 1.0], abs=1e-4)
        assert second.terms.accumulated == pytest.approx([-root, -1.0], abs=1e-4)


def test_another_rule_has_no_terms(tmp_path: Path) -> None:
    """Advantages that the rule does not give are left without terms rather than with wrong ones, and counted."""
    run = by_hand(tmp_path / "run", [[0.7, 0.7, 0.7], [-2.0, -1.0]])
    assert [rollout.terms is None for rollout in run.batches[0].rollouts] == [True, False]
    assert "1 of 2 rollouts" in run.notices[0]


def test_a_group_cut_off_has_no_terms(tmp_path: Path) -> None:
    """Half a group gives other statistics: its terms are left out, those of whole groups stand."""
    path = write_run(tmp_path / "run", batches=1, questions=2, rollouts=4)
    file = path / "rollouts" / "step_000000.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    (run,) = read_runs([path])
    add_terms(run)
    known = [rollout.terms is not None for rollout in run.batches[0].rollouts]
    assert known[:4] == [True] * 4 and not all(known[4:])


def test_null_leaves_a_key_to_the_method() -> None:
    """`turn_gamma: null` is a recipe's way to say nothing; the method's row holds then, its standard deviation too:
    GRPO's is the sample's. Text in place of a number says nothing either."""
    assert CreditSettings.of({"turn_gamma": None, "gain_alpha": None}) == CreditSettings.of({})
    assert CreditSettings.of({"turn_gamma": 0.5, "gain_alpha": 0.3}) == CreditSettings(0.5, 0.3, True, "population")
    assert CreditSettings.of({"method": "grpo"}).std == "sample"
    assert CreditSettings.of({"turn_gamma": "fast"}) == CreditSettings.of({})


def test_outcome_terms_of_the_sample(tmp_path: Path) -> None:
    """Rewards 1 and 0 are ±1/√2 of the sample's standard deviation, as GRPO's row divides: its advantages, which have
    no other term, are explained."""
    path = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, updates=False, method="grpo")
    file = path / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record, sign in zip(records, (1, -1), strict=True):
        for name in ("gain", "normalized_gain", "likelihood"):
            del record[name]
        record["advantage"] = [sign / 2**0.5] * len(record["advantage"])
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (run,) = read_runs([path])
    add_terms(run)
    first, second = run.batches[0].rollouts
    assert run.notices == [] and first.terms is not None and second.terms is not None
    assert first.terms.outcome == pytest.approx(2**-0.5, abs=1e-4) and first.terms.accumulated == []
