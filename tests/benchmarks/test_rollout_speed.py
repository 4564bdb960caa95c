"""The benchmark of rollouts runs from end to end at a small size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.smoke import POLICY, run_benchmark


def test_smoke(tmp_path: Path) -> None:
    """TRL's real tool loop, that of our trainer and both backends give the same greedy rollouts of the shipped policy
    (the script stops where they do not), every way is timed, and the JSON holds the equality checks."""
    written, _ = run_benchmark("rollout_speed", tmp_path / "out.json", "--smoke", "--policy", POLICY)
    rollouts, turn, states = written["cases"]
    reused_in_trl = "TRL's tool loop in A2TGPOTrainer, KV-cache reuse"
    assert set(rollouts["seconds"]) == {"TRL's tool loop", reused_in_trl, "generate", "KV-cache reuse"}
    assert set(turn["seconds"]) == {"generate", "generate_batch", "KV-cache reuse"}
    assert set(states["seconds"]) == {"generate", "KV-cache reuse"}
    assert rollouts["facts"]["greedy turns compared"] > 0
    assert sum("p-value" in name for name in rollouts["facts"]) == 6
