"""The benchmark of a step runs from end to end at a small size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.smoke import run_benchmark


def test_smoke(tmp_path: Path) -> None:
    """Both trainers take their steps on the same rollouts and find the same old log-probabilities, or generate the same
    rollouts (the script stops where they do not), and the JSON holds every repeat and the peak of an update."""
    written, _ = run_benchmark("step_cost", tmp_path / "out.json", "--smoke")
    cases = written["cases"]
    assert len(cases) == 6
    for case in cases:
        assert set(case["seconds"]) == {"GRPO (TRL)", "A²TGPO"}
        assert all(taken > 0 for repeats in case["seconds"].values() for taken in repeats)
    for case in cases[:4]:
        assert all(peak > 0 for peak in case["facts"]["peak bytes"].values())
    assert all(case["facts"]["old log-probabilities differ by"] < 1e-3 for case in cases[:2])
