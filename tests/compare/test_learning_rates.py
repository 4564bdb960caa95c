"""Learning rates chosen on pilot seeds, several tasks, and the tests that were named beforehand."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from a2tgpo.cli import main
from a2tgpo.compare.comparison import Comparison
from a2tgpo.compare.comparison_table import as_markdown
from a2tgpo.compare.learning_rates import ChosenRate, check_choice, choose_rates, pilots_of, read_choices, read_rates
from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.measured import AREA, COLLAPSED
from a2tgpo.compare.primary_tests import run_tests
from a2tgpo.errors import RecipeError
from tests.compare import stand_in
from tests.compare.runs import write_matrix, write_metrics, write_run
from tests.compare.test_schedule import PROGRAM
from tests.run.parts import write_recipe

RATES = ("1e-4", "3e-4", "1e-3")


def write_pilots(root: Path, right: dict[str, dict[str, str]]) -> Matrix:
    """Pilots of grpo and a2tgpo on two seeds; `right` has by method and rate what the second of them answered; the
    first answered nothing right."""
    pilots = pilots_of(Matrix(root, tuple(right), 3, 8), RATES, 2)
    for method, rates in right.items():
        for rate, answers in rates.items():
            for seed, given in zip(pilots.seeds, ("0000", answers), strict=True):
                cell = pilots.cell(f"{method},learning_rate={rate}", seed)
                write_run(cell, "after", given)
                write_metrics(cell, 0)
    return pilots


def test_each_method_gets_its_own_best_rate(tmp_path: Path) -> None:
    """By the mean over pilot seeds of greedy and sampled exact match (sampled, nothing is right here): 3 of 4 right on
    one of two seeds is 3/16. Of equal rates the smallest is taken. The pilots' seeds are no other run's."""
    pilots = write_pilots(
        tmp_path,
        {
            "grpo": {"1e-4": "1000", "3e-4": "1110", "1e-3": "0000"},
            "a2tgpo": {"1e-4": "0000", "3e-4": "1100", "1e-3": "1010"},
        },
    )
    choose_rates(pilots, tmp_path / "rates.json")
    chosen = read_choices(tmp_path / "rates.json")
    assert {name: choice.rate for name, choice in chosen.items()} == {"grpo": "3e-4", "a2tgpo": "3e-4"}
    assert chosen["grpo"].scores == pytest.approx({"1e-4": 1 / 16, "3e-4": 3 / 16, "1e-3": 0.0})
    assert [*pilots.seeds] == [1000, 1001] and not set(pilots.seeds) & set(Matrix(tmp_path, ("grpo",), 10, 8).seeds)


def test_other_rates_than_those_of_the_choice(tmp_path: Path) -> None:
    """They are refused for a method that was chosen for; without rates, a method that was not. A method that comes
    later may try others."""
    matrix, path = Matrix(tmp_path, ("grpo", "igpo"), 3, 8), tmp_path / "rates.json"
    check_choice(path, matrix, RATES)
    choose_rates(write_pilots(tmp_path, {"grpo": dict.fromkeys(RATES, "1000")}), path)
    check_choice(path, matrix, [*reversed(RATES)])
    with pytest.raises(RecipeError, match="a choice of grpo's learning rate among 1e-4, 3e-4, 1e-3; give those"):
        check_choice(path, matrix, RATES[:2])
    with pytest.raises(RecipeError, match="no learning rate of igpo: give --learning_rates as before"):
        check_choice(path, matrix, None)
    check_choice(path, replace(matrix, methods=("igpo",)), RATES[:2])
    choose_rates(write_pilots(tmp_path, {"igpo": dict.fromkeys(RATES, "1000")}), path)
    check_choice(path, matrix, None)
    assert list(read_choices(path)) == ["grpo", "igpo"]


def test_methods_with_rates_of_their_own(tmp_path: Path) -> None:
    """The table has a column for every rate, and no number where a method did not try it."""
    chosen = {"grpo": ChosenRate.of({"1e-4": 0.5, "3e-4": 0.25}), "igpo": ChosenRate.of({"3e-4": 0.5, "1e-3": 1.0})}
    text = as_markdown(Comparison.of(Matrix(tmp_path, ("grpo", "igpo"), 1, 8)), chosen)
    assert "| grpo | 0.500 | 0.250 | – | 1e-4 |" in text and "| igpo | – | 0.500 | 1.000 | 1e-3 |" in text


def test_runs_have_their_methods_rate(tmp_path: Path) -> None:
    """A run is given its method's rate as a flag; its warm start is shared, and has none."""
    cell = Matrix(tmp_path, ("grpo", "igpo"), 1, 8, learning_rates={"grpo": "3e-4"}).cell("grpo", 0)
    assert cell.flags == ("--method", "grpo", "--seed", "0", "--learning_rate", "3e-4")
    assert cell.start is not None and "--learning_rate" not in cell.start.flags


@pytest.mark.parametrize(
    "listed", ["1e-4", "1e-4,1e-4", "1e-4,0.0001", "1e-4,x", "1e-4,-1", "1e-4,nan", "1e-4,,1e-3", "1,2"]
)
def test_rates_that_are_none(listed: str) -> None:
    """One rate is no choice; a rate is a number between 0 and 1, given once."""
    with pytest.raises(RecipeError, match="give at least two different rates"):
        read_rates(listed)


def test_area_and_collapse(tmp_path: Path) -> None:
    """Rewards .1, .3, .5, .7 above the seed make the area .4 + seed. A run has collapsed where it answers fewer than
    half as many questions as the policy that it began with: 1 of 3 has, 2 of 3 and 1 of 2 have not."""
    matrix = Matrix(tmp_path, ("grpo",), 3, 8)
    for seed, (before, after) in enumerate((("1110", "1000"), ("1110", "1100"), ("1100", "0100"))):
        write_run(matrix.start(seed), "before", before)
        cell = matrix.cell("grpo", seed)
        cell.prepare()
        write_run(cell, "after", after)
        write_metrics(cell, seed)
    runs = Comparison.of(matrix).rows["grpo"].runs
    assert [run.values[COLLAPSED] for run in runs.values()] == [1.0, 0.0, 0.0]
    assert [run.values[AREA] for run in runs.values()] == pytest.approx([0.4, 1.4, 2.4])
    assert "| grpo | 1.400 [-1.084, 3.884] | 1 of 3 |" in as_markdown(Comparison.of(matrix))


def test_primary_tests_are_one_family(tmp_path: Path) -> None:
    """Two pairs on two tasks are four tests, and Holm multiplies the smallest p by four, also where three of the four
    have not all their runs. A²TGPO − GRPO by seed is 1/4, 1/4, 0: p = 1 − t/√(t² + 2) with t = 2."""
    whole = Comparison.of(write_matrix(tmp_path / "a"))
    part = Comparison.of(write_matrix(tmp_path / "b", {"grpo": {0: "10"}, "a2tgpo": {0: "11"}, "igpo": {0: "11"}}))
    tests = run_tests({"a": whole, "b": part}, [("a2tgpo", "grpo"), ("a2tgpo", "igpo")])
    assert [(test.task, test.second, test.difference is None) for test in tests] == [
        ("a", "grpo", False),
        ("a", "igpo", True),
        ("b", "grpo", True),
        ("b", "igpo", True),
    ]
    p = 1 - 2 / math.sqrt(6)
    assert tests[0].difference is not None and tests[0].difference.p == pytest.approx(p)
    assert tests[0].p_holm == pytest.approx(4 * p) and tests[1].p_holm is None


# --- the command, with runs that a stand-in plays --------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in keeps its notes; two recipes."""
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setattr("a2tgpo.compare.schedule._SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr("a2tgpo.compare.compare_command._program", lambda launcher: PROGRAM)
    for name in ("one", "two"):
        write_recipe(tmp_path / f"{name}.yaml", tmp_path / "policy", max_steps=stand_in.N_STEPS)
    return tmp_path


def compare(desk: Path, *flags: str) -> int:
    """Two tasks, two methods, one seed."""
    tasks = ["--tasks", f"{desk / 'one.yaml'},{desk / 'two.yaml'}"]
    return main(
        ["compare", *tasks, "--methods", "grpo,a2tgpo", "--seeds", "1", "--output_dir", str(desk / "all"), *flags]
    )


def test_tasks_one_after_the_other_pilots_first(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of the first task's runs come before the second's, its pilots (seed 1000) before the others (seed 0), which
    get the chosen rate; the command again runs nothing, and writes tables by task and the primary tests."""
    flags = ("--learning_rates", "1e-4,3e-4", "--pilot_seeds", "1", "--primary", "a2tgpo:grpo")
    assert compare(desk, *flags) == 0
    started = [line.split("--output_dir ")[1].split()[0] for line in (desk / "flags").read_text().splitlines()]
    names = [str(Path(path).relative_to(desk / "all")) for path in started]
    rates = ("learning_rate=1e-4", "learning_rate=3e-4")
    runs = [
        f"pilots/{name}/seed_1000" for name in ("warm_start", *(f"{m},{r}" for m in ("grpo", "a2tgpo") for r in rates))
    ]
    runs += [f"{name}/seed_0" for name in ("warm_start", "grpo", "a2tgpo")]
    assert names == [f"{task}/{run}" for task in ("one", "two") for run in runs]
    last = (desk / "flags").read_text().splitlines()[-1]
    assert "--method a2tgpo --seed 0 --learning_rate 1e-4" in last
    assert json.loads((desk / "all" / "one" / "learning_rates.json").read_text())["grpo"] == {
        "rate": "1e-4",
        "scores": {"1e-4": 1.0, "3e-4": 1.0},
    }
    (desk / "flags").unlink()
    assert compare(desk, *flags) == 0 and not (desk / "flags").exists()
    # Without the rates the choice stands: nothing is run with the recipe's own, and a method without one is refused.
    assert compare(desk, *flags[4:]) == 0 and not (desk / "flags").exists()
    assert compare(desk, "--methods", "igpo,grpo", "--primary", "igpo:grpo") == 2
    assert not (desk / "flags").exists()
    tests = json.loads((desk / "all" / "primary.json").read_text())
    assert [(test["task"], test["first"], test["second"]) for test in tests] == [
        ("one", "a2tgpo", "grpo"),
        ("two", "a2tgpo", "grpo"),
    ]
    assert "| grpo | 1.000 | 1.000 | 1e-4 |" in (desk / "all" / "two" / "summary.md").read_text()
    assert "primary tests" in capsys.readouterr().out


def test_a_choice_stands(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its pilots are not run again, though they are gone; a method that comes later has pilots of its own; other rates
    are refused before anything runs."""
    flags = ("--learning_rates", "1e-4,3e-4", "--pilot_seeds", "1")
    assert compare(desk, *flags) == 0
    for name in ("one", "two"):
        shutil.rmtree(desk / "all" / name / "pilots")
    (desk / "flags").unlink()
    assert compare(desk, *flags) == 0 and not (desk / "flags").exists()
    assert compare(desk, *flags, "--methods", "grpo,igpo") == 0
    lines = (desk / "flags").read_text().splitlines()
    assert {line.split("--method ")[1].split()[0] for line in lines if "--method" in line} == {"igpo"}
    (desk / "flags").unlink()
    assert compare(desk, "--learning_rates", "1e-4,1e-3") == 2
    assert "choice of grpo's learning rate among 1e-4, 3e-4" in capsys.readouterr().err
    assert not (desk / "flags").exists()


def test_a_methods_pilots_are_its_own(desk: Path) -> None:
    """Methods compared one at a time in one folder each have pilots, and none is judged by another's."""
    flags = ("--learning_rates", "1e-4,3e-4", "--pilot_seeds", "1")
    for method in ("grpo", "igpo"):
        assert compare(desk, *flags, "--methods", method) == 0
    started = (desk / "started").read_text().splitlines()
    rates = [f"learning_rate={rate}" for rate in ("1e-4", "3e-4")]
    assert {f"{m},{r}/seed_1000" for m in ("grpo", "igpo") for r in rates} <= set(started)


def test_runs_made_without_a_choice(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that have the recipe's own learning rate are not taken for runs with a chosen one."""
    assert compare(desk) == 0
    (desk / "flags").unlink()
    assert compare(desk, "--learning_rates", "1e-4,3e-4") == 2
    assert "holds runs of grpo with the recipe's own learning rate" in capsys.readouterr().err
    assert not (desk / "flags").exists()


def test_a_failed_pilot_chooses_nothing(desk: Path) -> None:
    """The task's other runs wait for the next command, and the other task is run."""
    (desk / "fail").write_text("grpo,learning_rate=3e-4/seed_1000")
    flags = ("--learning_rates", "1e-4,3e-4", "--pilot_seeds", "1")
    assert compare(desk, *flags) == 1
    assert not (desk / "all" / "one" / "learning_rates.json").exists() and not (desk / "all" / "one" / "grpo").exists()
    (desk / "fail").unlink()
    assert compare(desk, *flags) == 0
    assert (desk / "all" / "one" / "grpo" / "seed_0" / "summary.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rates", "1e-4"], "give at least two different rates"),
        (
            ["--learning_rates", "1e-4,3e-4", "--vary", "clip_beta=0,.1"],
            "--learning_rates and --vary cannot be combined",
        ),
        (["--learning_rates", "1e-4,3e-4", "--learning_rate", "1e-4"], "--learning_rates sets it for each run"),
        (["--learning_rates", "1e-4,3e-4", "--learning-rate=1e-4"], "--learning_rates sets it for each run"),
        (["--learning_rates", "1e-4,3e-4", "--pilot_seeds", "0"], "--pilot_seeds 0: must be at least 1"),
        (["--primary", "a2tgpo-grpo"], "give pairs of methods by commas"),
        (["--primary", "a2tgpo:a2tgpo"], "give pairs of methods by commas"),
        (["--primary", "a2tgpo:igpo"], "igpo is not compared; there are grpo, a2tgpo"),
        (["--tasks", "one.yaml,one.yaml"], "each with a file name of its own"),
    ],
)
def test_bad_input_runs_nothing(desk: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    """A mistake exits 2 with one sentence before anything runs, and leaves no folder behind."""
    assert compare(desk, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (desk / "all").exists()


def test_one_recipe_or_several(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither and both are refused; a second recipe that is wrong leaves nothing of the first behind."""
    rest = ["--methods", "grpo", "--seeds", "1", "--output_dir", str(desk / "all")]
    assert main(["compare", *rest]) == 2 and "give one recipe, or several" in capsys.readouterr().err
    assert main(["compare", str(desk / "one.yaml"), "--tasks", "x.yaml", *rest]) == 2
    wrong = yaml.safe_load((desk / "two.yaml").read_text()) | {"max_serches": 1}
    (desk / "two.yaml").write_text(yaml.safe_dump(wrong))
    assert compare(desk) == 2 and not (desk / "all").exists()


def test_the_smallest_of_equal_rates() -> None:
    """As numbers, not as text; scores are equal that rounding alone tells apart: one and two right of ten, on two
    seeds, and none and three."""
    assert ChosenRate.of({"1e-3": 0.5, "3e-4": 0.5, "0.0002": 0.5, "1e-5": 0.4}).rate == "0.0002"
    one_two, none_three = fmean([0.1, 0.2]), fmean([0.0, 0.3])
    assert one_two > none_three and ChosenRate.of({"1e-4": none_three, "3e-4": one_two}).rate == "1e-4"
