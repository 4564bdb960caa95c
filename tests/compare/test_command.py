"""`a2tgpo compare` with real runs of a tiny random policy, with runs that fail or are interrupted, and every way to ask
for what cannot be compared."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from a2tgpo.cli import main
from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.schedule import run_cells
from a2tgpo.run.recipe_file import load_recipe
from tests.compare import stand_in
from tests.compare.test_schedule import PROGRAM, notes, updates, wait_for
from tests.run.parts import save_policy, write_recipe

METHODS = ("grpo", "a2tgpo")
A2TGPO = (sys.executable, "-m", "a2tgpo.cli")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy."""
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Matrix:
    """Two methods on one seed, two updates each: the warm start as a process of its own, as `compare` runs it, and
    the methods in this process, to save their start."""
    folder = tmp_path_factory.mktemp("compared")
    write_recipe(folder / "recipe.yaml", policy)
    matrix = Matrix(folder / "all", METHODS, 1, 2)
    matrix.root.mkdir()
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    matrix.recipe.write_text(yaml.safe_dump({key: recipe[key] for key in recipe if key != "output_dir"}))
    assert run_cells(Matrix(matrix.root, (), 1, 2), 1, Console(file=io.StringIO()), A2TGPO) == []
    for method in METHODS:
        cell = matrix.cell(method, 0)
        cell.prepare()
        assert main(cell.arguments(matrix.recipe)) == 0
    return matrix


def compare(matrix: Matrix, *flags: str) -> int:
    """The command that made `matrix`, with more flags."""
    command = ["compare", str(matrix.root.parent / "recipe.yaml"), "--methods", ",".join(matrix.methods)]
    return main([*command, "--seeds", str(matrix.n_seeds), "--output_dir", str(matrix.root), *flags])


# --- real runs -------------------------------------------------------------------------------------------------------


def test_the_warm_start_ends_before_the_updates(compared: Matrix) -> None:
    """With max_steps 0 a run has its warm start and its evaluation before, and neither updates nor a model after."""
    run = compared.start(0).directory
    assert run.finished and (run.warm_start / "losses.json").exists()
    assert sorted(path.name for path in (run.root / "eval").iterdir()) == [
        "before_greedy.jsonl",
        "before_sampled.jsonl",
    ]
    assert not run.metrics.exists() and not run.model.exists()


def test_methods_start_alike(compared: Matrix) -> None:
    """No method makes a warm start or an evaluation before of its own, or makes the seed's again: the files are the
    seed's, and were all written before the method began."""
    start = compared.start(0).directory
    shared = [path for folder in (start.warm_start, start.root / "eval") for path in folder.rglob("*")]
    newest = max(path.stat().st_mtime_ns for path in shared)
    for method in METHODS:
        run = compared.cell(method, 0).directory
        assert run.warm_start.samefile(start.warm_start)
        for mode in ("greedy", "sampled"):
            assert run.evaluation(f"before_{mode}").samefile(start.evaluation(f"before_{mode}"))
        assert newest < run.config.stat().st_mtime_ns


def test_methods_see_the_same_prompts_in_the_same_order(compared: Matrix) -> None:
    """Batch by batch, the questions of every method's rollouts are those of GRPO's; the batches differ among
    themselves, so the order is one that could have differed."""

    def prompts(method: str) -> list[list[str]]:
        files = sorted(compared.cell(method, 0).directory.rollouts.glob("step_??????.jsonl"))
        return [[json.loads(line)["id"] for line in file.read_text().splitlines()] for file in files]

    first = prompts("grpo")
    assert len(first) == 2 and first[0] != first[1]
    assert all(prompts(method) == first for method in METHODS)


def test_methods_differ_in_nothing_else(compared: Matrix) -> None:
    """Every run's recipe is the common one with its own method and folder; the first batch, sampled by the same policy
    with the same seed, is the same to the token."""
    common = yaml.safe_load(compared.recipe.read_text())
    first = []
    for method in METHODS:
        run = compared.cell(method, 0).directory
        own = {"method": method, "seed": 0, "output_dir": str(run.root)}
        assert yaml.safe_load(run.config.read_text()) == common | own
        lines = (run.rollouts / "step_000000.jsonl").read_text().splitlines()
        first.append([json.loads(line)["segments"] for line in lines])
    assert first[0] == first[1]


def test_a_finished_comparison_is_only_shown(compared: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    """The command again runs nothing, exits 0 and writes table, numbers and curves."""
    before = {path: path.stat().st_mtime_ns for path in compared.root.rglob("*/*")}
    assert compare(compared) == 0
    assert {path: path.stat().st_mtime_ns for path in compared.root.rglob("*/*")} == before
    shown = capsys.readouterr().out
    assert "held-out exact match and cost" in shown and "everything is in" in shown
    summary = json.loads((compared.root / "summary.json").read_text())
    assert list(summary["methods"]) == ["react", *METHODS]
    assert summary["methods"]["a2tgpo"]["mean"]["seconds_per_step"]["value"] > 0
    assert "| a2tgpo |" in (compared.root / "summary.md").read_text()
    assert (compared.root / "curves.svg").exists() == (find_spec("matplotlib") is not None)


# --- runs that a stand-in plays --------------------------------------------------------------------------------------


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """A comparison that has not begun, of a recipe with a seed of its own; the stand-in's desk is `tmp_path`."""
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setattr("a2tgpo.compare.schedule._SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr("a2tgpo.compare.compare_command._program", lambda launcher: PROGRAM)
    write_recipe(tmp_path / "recipe.yaml", tmp_path / "policy", seed=7, max_steps=stand_in.N_STEPS)
    return Matrix(tmp_path / "all", METHODS, 1, stand_in.N_STEPS)


def test_a_comparison_begins_with_its_recipe(
    played: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder gets the recipe and the flags, without what the comparison sets for each run. Runs that fail make it
    exit 1, with every row incomplete in the tables and nothing to draw."""
    (tmp_path / "fail").write_text("warm_start/seed_0")
    flags = ["--learning_rate", "3e-4"]
    assert compare(played, *flags) == 1
    given = load_recipe(str(tmp_path / "recipe.yaml"), flags).given
    assert {"seed", "output_dir"} <= given.keys() and given["learning_rate"] == 3e-4
    ours = {"method", "seed", "output_dir", "resume_from_checkpoint"}
    assert yaml.safe_load(played.recipe.read_text()) == {key: given[key] for key in given.keys() - ours}
    shown = capsys.readouterr().out
    assert "warm_start/seed_0: failed, exit status 1" in shown and "a2tgpo/seed_0: not run" in shown
    rows = json.loads((played.root / "summary.json").read_text())["methods"]
    assert list(rows) == ["react", *METHODS]
    assert not any(row["complete"] or row["seeds_finished"] or row["mean"] for row in rows.values())
    assert (played.root / "summary.md").read_text().count("| incomplete |") == len(rows)
    assert not (played.root / "curves.svg").exists()


def test_values_of_a_key_are_compared(played: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --methods the recipe's own method is run with each value; each run is given its value, the recipe of the
    comparison has none, and the rows are the values, compared with the first."""
    command = ["compare", str(tmp_path / "recipe.yaml"), "--seeds", "2", "--output_dir", str(played.root)]
    assert main([*command, "--vary", "clip_beta=0,.1,.3"]) == 0
    folders = sorted(path.name for path in played.root.iterdir() if path.is_dir())
    assert folders == [*(f"a2tgpo,clip_beta={value}" for value in (".1", ".3", "0")), "warm_start"]
    assert "clip_beta" not in yaml.safe_load(played.recipe.read_text())
    summary = json.loads((played.root / "summary.json").read_text())
    assert list(summary["methods"]) == ["react", *(f"a2tgpo,clip_beta={value}" for value in ("0", ".1", ".3"))]
    tests = summary["minus_baseline"]["greedy"]
    assert {name: test["baseline"] for name, test in tests.items()} == dict.fromkeys(
        ["a2tgpo,clip_beta=.1", "a2tgpo,clip_beta=.3"], "a2tgpo,clip_beta=0"
    )
    assert "exact match minus a2tgpo,clip_beta=0's, greedy" in (played.root / "summary.md").read_text()
    given = (tmp_path / "flags").read_text().splitlines()
    assert sum("--clip_beta .1" in line for line in given) == 2 and not any("--clip_beta" in line for line in given[:1])


def test_a_launcher_starts_the_runs(
    played: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words stand where python would, and our module follows."""
    monkeypatch.undo()
    launcher = tmp_path / "launch"
    launcher.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "launched"}\nexit 3\n')
    launcher.chmod(0o755)
    assert compare(played, "--launcher", f"{launcher} --num_processes 2") == 1
    line = (tmp_path / "launched").read_text().splitlines()[0]
    assert line.startswith(f"--num_processes 2 -m a2tgpo.cli train {played.recipe} --seed 0")
    assert "exit status 3" in capsys.readouterr().out


def test_a_secret_in_the_recipe_is_for_its_owner(played: Matrix, tmp_path: Path) -> None:
    """The recipe of a comparison, which its runs read, is readable by its owner alone where it holds a token."""
    (tmp_path / "fail").write_text("warm_start/seed_0")
    assert compare(played, "--hub_token", "hf_abcdefghijklmnopqrst") == 1
    assert played.recipe.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("signum", "in_background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_an_interrupt_says_how_to_go_on(
    played: Matrix, tmp_path: Path, capfd: pytest.CaptureFixture[str], signum: signal.Signals, in_background: bool
) -> None:
    """Exit 130 or 143 with one sentence, no run left behind, and no table of half a comparison; also where a shell
    started it in the background, so that it and its runs do not hear Ctrl-C."""
    (tmp_path / "hold").touch()
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(compare(played)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if in_background else signal.default_int_handler)
    process.start()
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: bool(updates(played.cell("grpo", 0))))
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join()
    assert process.exitcode == 128 + signum
    assert notes(played, "interrupted") == ["grpo/seed_0"]
    error = capfd.readouterr().err
    assert error == "\ninterrupted: runs keep their checkpoints; the same command goes on\n"
    assert not (played.root / "summary.json").exists()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "grpo,a2tpgo"], "unknown method 'a2tpgo': did you mean 'a2tgpo'?"),
        (["--methods", "react"], "ReAct, the policy before its updates, always has a row"),
        (["--methods", "grpo,grpo"], "grpo is given twice"),
        (["--vary", "learning_rate"], "--vary 'learning_rate': give a recipe key and its values"),
        (["--vary", "learning_rate=1e-4"], "--vary 'learning_rate=1e-4': give a recipe key and its values"),
        (["--vary", "learning_rate=1,,2"], "--vary 'learning_rate=1,,2': give a recipe key and its values"),
        (["--vary", "learning_rate=1e-4,1e-4"], "a value is given twice"),
        (["--vary", "beta=0,.1", "--vary", "beta=0,.2"], "--vary: beta is given twice"),
        (["--vary", "answer_scaffold=a b,a/b"], "two values have the same folder"),
        (["--vary", "seed=0,1"], "--seed: a comparison sets it for each run; use --seeds"),
        (["--vary", "method=grpo,igpo"], "--method: a comparison sets it for each run; use --methods"),
        (["--vary", "beta=0,.1", "--beta", "0.2"], "--beta: --vary sets it for each run; leave it out"),
        (["--vary", "max_serches=1,2"], "unknown recipe key 'max_serches': did you mean 'max_searches'?"),
        (["--vary", "max_steps=0,2"], "max_steps=0: nothing would be trained"),
        (["--vary", "gain_alpha=.1,.3"], "method 'grpo' has no such parameter"),
        (["--launcher", "no_such_launcher -n 2"], "--launcher 'no_such_launcher -n 2': no such program"),
        (["--launcher", "'open"], '--launcher "\'open": No closing quotation'),
        (["--launcher", " "], "--launcher ' ': no such program"),
        (["--methods", "grpo,tree-grpo"], "method 'tree-grpo': num_generations=2: Tree("),
        (["--vary", "clip_beta=0,.1", "--clip-beta=0.2"], "--clip_beta: --vary sets it for each run; leave it out"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--seed", "3"], "--seed: a comparison sets it for each run; use --seeds"),
        (["--resume-from-checkpoint=true"], "the same command again goes on by itself"),
        (["--method=grpo"], "--method: a comparison sets it for each run; use --methods"),
        (["--resume_from_checkpoint", "true"], "the same command again goes on by itself"),
        (["--max_steps", "0"], "max_steps=0: nothing would be trained"),
        (["--max_serches", "3"], "unknown recipe key 'max_serches': did you mean 'max_searches'?"),
    ],
)
def test_bad_input_runs_nothing(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """A mistake exits 2 with one sentence before anything runs, and leaves no folder behind."""
    recipe = write_recipe(tmp_path / "recipe.yaml", policy)
    command = [
        "compare",
        str(recipe),
        "--methods",
        "grpo,a2tgpo",
        "--seeds",
        "1",
        "--output_dir",
        str(tmp_path / "all"),
    ]
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "all").exists()


def test_nothing_to_compare(tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither methods nor values: there is nothing to compare."""
    recipe = write_recipe(tmp_path / "recipe.yaml", policy)
    assert main(["compare", str(recipe), "--seeds", "1", "--output_dir", str(tmp_path / "all")]) == 2
    assert "give --methods A,B, or --vary KEY=a,b" in capsys.readouterr().err


def test_another_recipe_is_refused(compared: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder holds one recipe: another value is named with the one that is there, and nothing changes."""
    assert compare(compared, "--learning_rate", "3e-4") == 2
    error = capsys.readouterr().err
    assert "differs in learning_rate (there '1e-4', now 0.0003): choose another folder" in error
    assert yaml.safe_load(compared.recipe.read_text())["learning_rate"] == "1e-4"
