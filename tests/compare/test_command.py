"""`a2tgpo compare` with real runs of a tiny random policy, and every way to ask for what cannot be compared."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from a2tgpo.cli import main
from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.schedule import run_cells
from tests.run.parts import save_policy, write_recipe

METHODS = ("grpo", "a2tgpo")


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
    assert run_cells(Matrix(matrix.root, (), 1, 2), 1, Console(file=io.StringIO())) == []
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
    """No method makes a warm start or an evaluation before of its own: the log of none speaks of one, and the files
    are the seed's."""
    for method in METHODS:
        run = compared.cell(method, 0).directory
        assert run.warm_start.samefile(compared.start(0).directory.warm_start)
        for mode in ("greedy", "sampled"):
            shared = compared.start(0).directory.evaluation(f"before_{mode}")
            assert run.evaluation(f"before_{mode}").samefile(shared)


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


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "grpo,a2tpgo"], "unknown method 'a2tpgo': did you mean 'a2tgpo'?"),
        (["--methods", "react"], "ReAct, the policy before its updates, always has a row"),
        (["--methods", "grpo,grpo"], "grpo is given twice"),
        (["--methods", "grpo,tree-grpo"], "method 'tree-grpo': num_generations=2: Tree("),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--seed", "3"], "--seed: a comparison sets it for each run; use --seeds"),
        (["--method=grpo"], "--method: a comparison sets it for each run; use --methods"),
        (["--resume_from_checkpoint", "true"], "the same command again goes on by itself"),
        (["--max_steps", "0"], "max_steps=0: nothing would be trained"),
        (["--gain_alpha", "0.3"], "method 'grpo' has no such parameter"),
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


def test_another_recipe_is_refused(compared: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder holds one recipe: another value is named with the one that is there, and nothing changes."""
    assert compare(compared, "--learning_rate", "3e-4") == 2
    error = capsys.readouterr().err
    assert "differs in learning_rate (there '1e-4', now 0.0003): choose another folder" in error
    assert yaml.safe_load(compared.recipe.read_text())["learning_rate"] == "1e-4"
