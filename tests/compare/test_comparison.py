"""The numbers of a comparison, against hand-computed ones, and the tables they stand in."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from a2tgpo import A2TGPOConfig
from a2tgpo.compare.comparison import Comparison
from a2tgpo.compare.comparison_table import as_markdown, as_tables
from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.measured import AREA, COLLAPSED, GAIN_SHARE, SECONDS, _of_updates, measure, read_metrics
from a2tgpo.evaluate.outcome import write_outcomes
from tests.compare.runs import write_matrix, write_metrics, write_run
from tests.evaluate.outcomes import outcome

T_975_DF2 = 4.302652729911275
"""97.5 % point of Student's t with 2 degrees of freedom, from a table."""


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    """Three seeds; IGPO lacks one."""
    return write_matrix(tmp_path)


def found(matrix: Matrix) -> dict[str, Any]:
    """`summary.json`, refusing what is not strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(Comparison.of(matrix).as_json(), parse_constant=refuse)


def test_means_over_seeds(matrix: Matrix) -> None:
    """GRPO answered 1, 2 and 3 of 4: mean 0.5, s = 0.25, interval 0.5 ± t·s/√3. By hops, searches, tokens and seconds
    are means over questions, then over seeds; where seeds agree there is a mean and no interval."""
    grpo = found(matrix)["methods"]["grpo"]
    half = T_975_DF2 * 0.25 / math.sqrt(3)
    mean = grpo["mean"]["greedy/exact_match"]
    assert mean == {"value": 0.5, "low": pytest.approx(0.5 - half), "high": pytest.approx(0.5 + half)}
    values = {name: mean["value"] for name, mean in grpo["mean"].items()}
    assert values["greedy/exact_match/2_hops"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert values["greedy/exact_match/3_hops"] == pytest.approx((0 + 0 + 0.5) / 3)
    assert values["sampled/exact_match"] == 0.0
    assert values["greedy/searches"] == 1.5
    assert values["greedy/policy_tokens"] == 15.0 and values["greedy/total_tokens"] == 100.0
    assert values["seconds_per_step"] == 2.0
    assert values["gain_share_of_seconds"] == 4 * 0.5 / 16.0
    assert grpo["mean"]["greedy/searches"]["low"] is None
    assert grpo["runs"]["2"]["greedy/exact_match"] == 0.75


def test_seconds_where_some_steps_are_logged(tmp_path: Path) -> None:
    """With a log every third step and at the last, a line's `step_time` is the mean of the steps since the one before
    and its `seconds/gain` their sum: (3·2 + 3·4 + 1·9)/7 seconds a step, and a third of them for the gain."""
    path = tmp_path / "metrics.jsonl"
    lines = [(3, 2.0, 2.0), (6, 4.0, 4.0), (7, 9.0, 3.0)]
    path.write_text("".join(f'{{"step": {s}, "step_time": {t}, "seconds/gain": {g}}}\n' for s, t, g in lines))
    assert _of_updates(read_metrics(path)) == pytest.approx({SECONDS: 27 / 7, GAIN_SHARE: 1 / 3})


def test_a_run_that_logged_nothing(tmp_path: Path) -> None:
    """With `logging_steps` above the steps of a run there is no log: the run is compared without seconds and area, and
    a line of an evaluation, which times no step, changes neither."""
    assert read_metrics(tmp_path / "metrics.jsonl") == [] and _of_updates([]) == {}
    timed = {"step": 2, "step_time": 1.5, "reward": 0.5}
    assert _of_updates([timed]) == _of_updates([{"step": 1, "eval_reward": 0.1}, timed])
    matrix = write_matrix(tmp_path)
    for seed in matrix.seeds:
        matrix.cell("a2tgpo", seed).directory.metrics.unlink()
    comparison = Comparison.of(matrix)
    assert "a2tgpo" in comparison.against["greedy"] and "a2tgpo" not in comparison.area
    assert "| a2tgpo | 0.667 [0.308, 1.025] | 0.000 | 1.50 | 15.0 | – | – | 3 |" in as_markdown(comparison)


def test_batches_without_a_reward(tmp_path: Path) -> None:
    """A batch of which no rollout had a reward is logged as null; the area is the mean over the others."""
    path = tmp_path / "metrics.jsonl"
    rewards = ("0.5", "null", "1.0")
    path.write_text("".join(f'{{"step": {k}, "step_time": 1.0, "reward": {r}}}\n' for k, r in enumerate(rewards, 1)))
    assert _of_updates(read_metrics(path))[AREA] == 0.75


def test_data_sets_may_number_alike(tmp_path: Path) -> None:
    """Of two data sets with the same ids, and of a question that is asked twice, each is a question of its own: five
    before and five after, of which three are right; that is no collapse."""
    matrix = Matrix(tmp_path, ("grpo",), 1, 8)
    cell = matrix.cell("grpo", 0)
    cell.directory.root.mkdir(parents=True)
    write_metrics(cell, 0)
    asked = [("nq", "test_0"), ("nq", "test_1"), ("popqa", "test_0"), ("popqa", "test_1"), ("popqa", "test_1")]
    for when, right in (("before", "11111"), ("after", "11100")):
        rows = [outcome(dataset=d, id=i, correct=r == "1") for (d, i), r in zip(asked, right, strict=True)]
        for mode in ("greedy", "sampled"):
            write_outcomes(cell.directory.evaluation(f"{when}_{mode}"), rows)
    found = measure(cell.directory, "after")
    assert list(found.scores["greedy"].values()) == [1, 1, 1, 0, 0]
    assert found.values["greedy/exact_match"] == 0.6 and found.values[COLLAPSED] == 0.0


def test_react_is_the_evaluation_before(matrix: Matrix) -> None:
    """Its row holds the seeds' evaluations before the updates, and no seconds."""
    react = found(matrix)["methods"]["react"]
    assert react["mean"]["greedy/exact_match"]["value"] == pytest.approx(1 / 12)
    assert "seconds_per_step" not in react["mean"] and react["complete"]


def test_differences_from_grpo(matrix: Matrix) -> None:
    """A²TGPO − GRPO by seed: 1/4, 1/4, 0. Mean 1/6, s = √3/12, t = 2, and with 2 degrees of freedom
    p = 1 − t/√(t² + 2). By question, means over seeds differ by 0, 1/3, 1/3, 0: mean 1/6, t = √3."""
    tests = found(matrix)["minus_grpo"]["greedy"]["a2tgpo"]
    half = T_975_DF2 / 12
    expected = {"value": pytest.approx(1 / 6), "low": pytest.approx(1 / 6 - half), "high": pytest.approx(1 / 6 + half)}
    assert tests["seeds"] == {"mean": expected, "p": pytest.approx(1 - 2 / math.sqrt(6))}
    assert tests["questions"]["mean"]["value"] == pytest.approx(1 / 6)
    # With 3 degrees of freedom and x = t/√3 the tail is 1/2 − (x/(1 + x²) + atan x)/π; here x = 1.
    assert tests["questions"]["p"] == pytest.approx(1 - 2 * (0.5 + math.pi / 4) / math.pi)


def test_p_is_adjusted_for_every_comparison(matrix: Matrix) -> None:
    """ReAct − GRPO by seed is −1/4, −1/4, −3/4: t = −5/2. Of the two comparisons the smaller p doubles, and the larger
    keeps at least that."""
    tests = found(matrix)["minus_grpo"]["greedy"]
    react, a2tgpo = 1 - 2.5 / math.sqrt(2.5**2 + 2), 1 - 2 / math.sqrt(6)
    assert tests["react"]["seeds"]["p"] == pytest.approx(react)
    assert tests["react"]["p_holm"] == pytest.approx(2 * react)
    assert tests["a2tgpo"]["p_holm"] == pytest.approx(max(2 * react, a2tgpo))


def test_an_incomplete_method_is_not_averaged(matrix: Matrix) -> None:
    """IGPO, with two of three seeds, has its runs and no mean, no difference and no p; both tables say so."""
    comparison = found(matrix)
    igpo = comparison["methods"]["igpo"]
    assert igpo["complete"] is False and igpo["seeds_finished"] == [0, 1]
    assert igpo["mean"] == {} and igpo["runs"]["1"]["greedy/exact_match"] == 1.0
    assert "igpo" not in comparison["minus_grpo"]["greedy"]
    row = next(line for line in as_markdown(Comparison.of(matrix)).splitlines() if line.startswith("| igpo"))
    assert row == "| igpo | incomplete |  |  |  |  |  | 2 of 3 |"


def test_without_the_baseline_nothing_is_compared(tmp_path: Path) -> None:
    """Where GRPO lacks a seed, or is not asked for, there are means and no differences."""
    matrix = write_matrix(tmp_path, {"grpo": {0: "10"}, "a2tgpo": {0: "10", 1: "10", 2: "11"}})
    comparison = found(matrix)
    assert comparison["minus_grpo"] == {"greedy": {}, "sampled": {}}
    assert comparison["methods"]["a2tgpo"]["mean"]["greedy/exact_match"]["value"] == pytest.approx(2 / 3)
    assert "minus grpo" not in as_markdown(Comparison.of(matrix)).split("Means over seeds")[0]


def test_equal_runs_have_no_p(matrix: Matrix) -> None:
    """Sampled, every answer is wrong: the difference is 0 with neither interval nor p, not a division by zero."""
    tests = found(matrix)["minus_grpo"]["sampled"]["a2tgpo"]
    assert tests["seeds"] == {"mean": {"value": 0.0, "low": None, "high": None}, "p": None}
    assert tests["p_holm"] is None


def test_each_value_has_its_baseline(tmp_path: Path) -> None:
    """With two methods on two values GRPO of the same value is the baseline, of ReAct too where the values reach the
    warm start; with one method it is its first value."""
    values = ((("hops", "[1,2]"),), (("hops", "3"),))
    both = Matrix(tmp_path, ("grpo", "a2tgpo"), 1, 8, values)
    assert both.baselines == {
        "react,hops=1-2": "grpo,hops=1-2",
        "react,hops=3": "grpo,hops=3",
        "a2tgpo,hops=1-2": "grpo,hops=1-2",
        "a2tgpo,hops=3": "grpo,hops=3",
    }
    assert Matrix(tmp_path, ("igpo",), 1, 8, values).baselines == {"igpo,hops=3": "igpo,hops=1-2"}
    assert Matrix(tmp_path, ("igpo", "mica"), 1, 8).baselines == {}


def test_values_that_reach_the_warm_start_have_their_own(tmp_path: Path) -> None:
    """Runs that differ in the learning rate share a seed's warm start; runs that differ in the questions do not, and
    theirs is told the value, a list as several words."""
    rates = Matrix(tmp_path, ("grpo",), 1, 8, tuple((("learning_rate", rate),) for rate in ("1e-4", "2e-4")))
    assert [cell.name for cell in rates.cells()] == [
        "warm_start/seed_0",
        "grpo,learning_rate=1e-4/seed_0",
        "grpo,learning_rate=2e-4/seed_0",
    ]
    hops = Matrix(tmp_path, ("grpo",), 1, 8, tuple((("hops", value),) for value in ("[1, 2]", "3")))
    start = hops.cell("grpo,hops=1-2", 0).start
    assert start is not None and start.name == "warm_start,hops=1-2/seed_0"
    assert start.flags == ("--seed", "0", "--hops", "1", "2", "--max_steps", "0")


def test_no_option_of_credit_reaches_the_warm_start(tmp_path: Path) -> None:
    """What a configuration of ours adds to TRL's says how the policy is updated, and not how it begins: runs that
    differ in it share a seed's warm start."""
    ours = sorted(A2TGPOConfig.__annotations__.keys() - {"method", "rollouts_dir"})
    assert "turn_baseline" in ours
    for key in ours:
        assert list(Matrix(tmp_path, ("grpo",), 1, 8, (((key, "1"),), ((key, "2"),))).starts) == ["react"], key


def test_no_two_values_share_a_folder(tmp_path: Path) -> None:
    """A sign is told, and so is a letter of any alphabet; what a path cannot hold becomes a dash. Methods that were
    compared one after the other in one folder have folders of their own."""
    values = ("-1", "1", "é", "[1, 2]", "a/../b", "/", "1e-4")
    names = list(Matrix(tmp_path, ("grpo",), 1, 8, tuple((("beta", value),) for value in values)).arms)
    told = ("-1", "1", "é", "1-2", "a-..-b", "-", "1e-4")
    assert names == [f"grpo,beta={value}" for value in told]
    assert list(Matrix(tmp_path, ("igpo",), 1, 8, ((("beta", "1"),),)).arms) == ["igpo,beta=1"]


def test_other_questions_are_not_paired(tmp_path: Path) -> None:
    """Arms that were asked different questions are compared by seed and not by question."""
    matrix = Matrix(tmp_path, ("grpo",), 2, 8, tuple((("hops", value),) for value in ("2", "3")))
    for seed in (0, 1):
        for name, right in (("grpo,hops=2", "10"), ("grpo,hops=3", "110")):
            write_run(matrix.cell(name, seed), "after", right)
            write_metrics(matrix.cell(name, seed), seed)
    tests = found(matrix)["minus_baseline"]["greedy"]["grpo,hops=3"]
    assert tests["questions"] is None and tests["seeds"]["mean"]["value"] == pytest.approx(2 / 3 - 1 / 2)


def test_questions_that_changed_between_seeds(tmp_path: Path) -> None:
    """Where somebody added a question to the file between two runs of an arm there is no test over questions either."""
    matrix = write_matrix(tmp_path)
    write_run(matrix.cell("a2tgpo", 1), "after", "11100")
    tests = found(matrix)["minus_grpo"]["greedy"]["a2tgpo"]
    assert tests["questions"] is None and tests["seeds"]["p"] is not None


def test_depth_by_hand(tmp_path: Path) -> None:
    """Of six batches the first and the last two are measured: questions of three hops are right half the time at first
    and never at last, with two searches and then one. A log without hops has no such measure."""
    matrix = write_matrix(tmp_path)
    record = dict(step=0, group=0, segments=[], advantage=[], clip_low=[], clip_high=[], answer=["a"], hops=3)
    for seed in range(3):
        folder = matrix.cell("grpo", seed).directory.rollouts
        folder.mkdir()
        for step in range(6):
            early = step < 2
            calls = [{"query": "q", "passage_ids": []}] * (2 if early else 1)
            lines = [record | {"calls": calls, "prediction": "A" if early and k else "b"} for k in (0, 1)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"step_{step:06d}.jsonl").write_text(text)
    mean = {name: value["value"] for name, value in found(matrix)["methods"]["grpo"]["mean"].items()}
    assert mean["training/right/3_hops/first"] == 0.5 and mean["training/right/3_hops/last"] == 0.0
    assert mean["training/searches/3_hops/first"] == 2.0 and mean["training/searches/3_hops/last"] == 1.0
    text = as_markdown(Comparison.of(matrix))
    assert "| grpo | 0.50 → 0.00 |" in text and "| grpo | 2.00 → 1.00 |" in text
    assert "| a2tgpo | 0.50" not in text


def test_markdown(matrix: Matrix) -> None:
    """Three kinds of tables, each with rows as long as its header; the numbers are those above."""
    text = as_markdown(Comparison.of(matrix))
    assert "| a2tgpo | 0.667 [0.308, 1.025] | 0.000 | 1.50 | 15.0 | 2.00 | 12.5% | 3 |" in text
    assert "| a2tgpo | +0.167 [-0.192, +0.525] | 0.1835 | 0.2592 | 0.1817 |" in text
    assert "|  | 2 hops | 3 hops | seeds |" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_it_fits_a_terminal(matrix: Matrix) -> None:
    """80 columns show every number whole, each interval below its mean."""
    console = Console(width=80, record=True, file=io.StringIO())
    for table in as_tables(Comparison.of(matrix)):
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    for cell in ("0.667", "0.31–1.03", "12.5%", "incomplete", "2 of 3", "+0.167", "-0.19 to +0.53", "0.1835"):
        assert cell in text
