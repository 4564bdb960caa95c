"""The benchmark of credit and loss runs at a small size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.smoke import run_benchmark


def test_smoke(tmp_path: Path) -> None:
    """Core agrees with the loops (else it exits with an error), the table is printed and the JSON holds all repeats."""
    written, printed = run_benchmark("loss_cost", tmp_path / "out.json", "--smoke")
    assert "loss and gradient" in printed
    cases = written["cases"]
    assert [sorted(case["seconds"]) for case in cases] == [["core", "loop"]] * 2
    assert all(len(taken) == 2 for case in cases for taken in case["seconds"].values())
    assert all(case["facts"]["error"] < 1e-4 for case in cases)
