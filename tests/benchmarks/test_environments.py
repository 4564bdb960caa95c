"""The benchmark of environments runs from end to end at a small size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.smoke import POLICY, run_benchmark


def test_smoke(tmp_path: Path) -> None:
    """Our loop and TRL's give the same greedy rollouts of the shipped policy, and pure generation the same tokens (the
    script stops where they do not); both sizes are timed, and the JSON holds the busy shares and the steps taken."""
    written, _ = run_benchmark("environments", tmp_path / "out.json", "--smoke", "--policy", POLICY)
    slow, fast = written["cases"]
    assert set(slow["seconds"]) == {"TRL's tool loop", "EnvironmentPool, KV-cache reuse"}
    assert set(fast["seconds"]) == {"environments that answer at once", "pure generation"}
    for name in slow["seconds"]:
        assert 0 < slow["facts"]["busy shares"][name][0] <= 1 and slow["facts"]["environment steps"][name][0] > 0
