"""The benchmark of the gain runs from end to end at a small size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.smoke import run_benchmark


def test_the_smallest_size_runs_from_check_to_json(tmp_path: Path) -> None:
    """The command checks equality, times both ways, prints its table, and its JSON names hardware and command."""
    record, printed = run_benchmark("gain_cost", tmp_path / "out.json", "--device", "cpu", "--smoke")
    assert "gain, KV cache" in printed and "fewest FLOPs" in printed
    (case,) = record["cases"]
    assert case["facts"]["errors"]["cached to rows, largest"] < 1e-4
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in case["seconds"].values())
    assert "gain_cost.py" in record["environment"]["command"] and record["environment"]["torch"]
