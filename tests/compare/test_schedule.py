"""A comparison runs each cell once, in a balanced order, whatever kills it on the way; a stand-in plays the runs."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from a2tgpo.compare.matrix import Cell, Matrix
from a2tgpo.compare.schedule import run_cells
from tests.compare import stand_in

PROGRAM = (sys.executable, stand_in.__file__)


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Matrix]:
    """Two methods on two seeds; the stand-in's desk is `tmp_path`, where nothing is held any longer after the test."""
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setattr("a2tgpo.compare.schedule._SECONDS_BETWEEN_LOOKS", 0.01)
    matrix = Matrix(tmp_path / "all", ("grpo", "a2tgpo"), 2, stand_in.N_STEPS)
    matrix.root.mkdir()
    matrix.recipe.write_text("{}")
    yield matrix
    (tmp_path / "hold").unlink(missing_ok=True)


def run(matrix: Matrix, jobs: int = 1) -> tuple[list[Cell], str]:
    """Failed cells, and what was said."""
    console = Console(file=io.StringIO(), record=True, width=200)
    return run_cells(matrix, jobs, console, PROGRAM), console.export_text()


def in_another_process(matrix: Matrix, jobs: int) -> multiprocessing.process.BaseProcess:
    """The comparison in a process that can be killed, and that ends with this one."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(matrix, jobs), daemon=True)
    process.start()
    return process


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def notes(matrix: Matrix, file: str = "started") -> list[str]:
    """Lines on the stand-in's desk."""
    path = matrix.root.parent / file
    return path.read_text().splitlines() if path.exists() else []


def updates(cell: Cell) -> list[dict[str, int]]:
    """Steps a run has taken."""
    metrics = cell.directory.metrics
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def two_under_way(matrix: Matrix) -> list[str]:
    """The two runs that have taken their first step, once there are two."""
    cells = [matrix.cell(method, seed) for method in matrix.methods for seed in (0, 1)]
    wait_for(lambda: sum(bool(updates(cell)) for cell in cells) == 2)
    return sorted(cell.name for cell in cells if updates(cell))


ORDER = [f"{method}/seed_{seed}" for seed in (0, 1) for method in ("warm_start", "grpo", "a2tgpo")]


def test_seed_by_seed_over_all_methods(matrix: Matrix) -> None:
    """One at a time, runs start in the order of the matrix, and every run finds the warm start of its seed."""
    assert [cell.name for cell in matrix.cells()] == ORDER
    failed, said = run(matrix)
    assert failed == [] and notes(matrix) == ORDER
    assert all(f"{name}: finished" in said for name in ORDER)
    assert run(matrix)[0] == [] and notes(matrix) == ORDER


def test_two_at_a_time(matrix: Matrix) -> None:
    """With two jobs two runs are under way at once, never three. The other seed's warm start takes the place that is
    free while a seed's methods wait for theirs; which of the two seeds goes on first is up to the machine."""
    hold = matrix.root.parent / "hold"
    hold.touch()
    process = in_another_process(matrix, 2)
    running = two_under_way(matrix)
    time.sleep(0.3)
    assert set(notes(matrix)[:2]) == {ORDER[0], ORDER[3]} and sorted(notes(matrix)[2:]) == running
    hold.unlink()
    process.join()
    assert sorted(notes(matrix)) == sorted(ORDER)


def test_killed_with_its_runs(matrix: Matrix) -> None:
    """After kill -9 of the comparison and its run, the next one leaves finished runs alone, resumes the one that was
    cut, which takes each step once, and runs the rest."""
    (matrix.root.parent / "hold").touch()
    process = in_another_process(matrix, 1)
    cut = matrix.cell("grpo", 0)
    wait_for(lambda: bool(updates(cut)))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    os.kill(updates(cut)[0]["pid"], signal.SIGKILL)
    process.join()
    (matrix.root.parent / "hold").unlink()
    assert run(matrix)[0] == []
    assert notes(matrix) == [*ORDER[:2], f"{ORDER[1]} again", *ORDER[2:]]
    assert [update["step"] for update in updates(cut)] == [1, 2, 3]


def test_killed_without_its_runs(matrix: Matrix) -> None:
    """After kill -9 of the comparison alone, its run goes on; the next comparison waits for it instead of starting a
    second one in its folder."""
    (matrix.root.parent / "hold").touch()
    process = in_another_process(matrix, 1)
    left = matrix.cell("grpo", 0)
    wait_for(lambda: bool(updates(left)))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process = in_another_process(matrix, 1)
    time.sleep(0.3)
    assert notes(matrix) == ORDER[:2]
    (matrix.root.parent / "hold").unlink()
    process.join()
    assert notes(matrix) == ORDER and len({update["pid"] for update in updates(left)}) == 1


def test_a_failed_run_stops_no_other(matrix: Matrix) -> None:
    """It is reported with the end of its log; the next comparison tries it, and only it, again."""
    (matrix.root.parent / "fail").write_text("grpo/seed_0")
    failed, said = run(matrix)
    assert failed == [matrix.cell("grpo", 0)] and notes(matrix) == ORDER
    assert "grpo/seed_0: failed, exit status 1" in said and "RuntimeError: the stand-in was told to" in said
    (matrix.root.parent / "fail").unlink()
    failed, said = run(matrix)
    assert failed == [] and notes(matrix) == [*ORDER, ORDER[1]]


def test_a_killed_run_is_said_to_be_killed(matrix: Matrix) -> None:
    """A run that a signal ends, as where memory runs out, has failed by that signal, and stops no other."""
    (matrix.root.parent / "kill").write_text("grpo/seed_0")
    failed, said = run(matrix)
    killed = matrix.cell("grpo", 0)
    assert failed == [killed] and notes(matrix) == ORDER
    assert f"grpo/seed_0: failed, killed by signal 9, {killed.log}:\na line before\n" in said


def test_a_failed_warm_start_fails_its_seed(matrix: Matrix) -> None:
    """The runs of that seed are not started and count as failed; the other seed is run."""
    (matrix.root.parent / "fail").write_text("warm_start/seed_0")
    failed, said = run(matrix)
    assert [cell.name for cell in failed] == ORDER[:3] and notes(matrix) == [ORDER[0], *ORDER[3:]]
    assert "a2tgpo/seed_0: not run, as its warm start failed" in said


def test_ctrl_c_reaches_a_run_once(matrix: Matrix) -> None:
    """The runs under way are told once, so that they keep a checkpoint, and the comparison ends after them."""
    (matrix.root.parent / "hold").touch()
    process = in_another_process(matrix, 2)
    running = two_under_way(matrix)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert sorted(notes(matrix, "interrupted")) == running


def test_a_second_ctrl_c_reaches_a_run_again(matrix: Matrix) -> None:
    """Runs that go on after the first are waited for; a second one is passed on to each, and ends them at once."""
    for file in ("hold", "stubborn"):
        (matrix.root.parent / file).touch()
    process = in_another_process(matrix, 2)
    running = two_under_way(matrix)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: len(notes(matrix, "interrupted")) == 2)
    time.sleep(0.3)
    assert process.is_alive() and sorted(notes(matrix, "interrupted")) == running
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert sorted(notes(matrix, "interrupted")) == sorted(running * 2)
    assert sorted(notes(matrix)[2:]) == running == two_under_way(matrix)


def test_a_seed_has_one_warm_start(matrix: Matrix) -> None:
    """Warm start and evaluation before are links to those of the seed, and hold when the whole folder is moved."""
    run(matrix)
    matrix.root.rename(matrix.root.with_name("moved"))
    start = matrix.root.with_name("moved") / "warm_start"
    for seed in (0, 1):
        for method in matrix.methods:
            root = matrix.root.with_name("moved") / method / f"seed_{seed}"
            for shared in ("warm_start/losses.json", "eval/before_greedy.jsonl", "eval/before_sampled.jsonl"):
                assert (root / shared).resolve() == (start / f"seed_{seed}" / shared).resolve(strict=True)
