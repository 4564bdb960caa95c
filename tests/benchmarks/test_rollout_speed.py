"""The benchmark of rollouts runs from end to end at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_smoke(tmp_path: Path) -> None:
    """TRL's real tool loop, that of our trainer and both backends give the same greedy rollouts of the shipped policy
    (the script stops where they do not), every way is timed, and the JSON holds the equality checks."""
    output = tmp_path / "rollout_speed.json"
    policy = ROOT / "src/a2tgpo/assets/hops-tiny"
    subprocess.run(
        [sys.executable, "benchmarks/rollout_speed.py", "--smoke", "--policy", str(policy), "--json", str(output)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    rollouts, turn = json.loads(output.read_text(encoding="utf-8"))["cases"]
    reused_in_trl = "TRL's tool loop in A2TGPOTrainer, KV-cache reuse"
    assert set(rollouts["seconds"]) == {"TRL's tool loop", reused_in_trl, "generate", "KV-cache reuse"}
    assert set(turn["seconds"]) == {"generate", "generate_batch", "KV-cache reuse"}
    assert rollouts["facts"]["greedy turns compared"] > 0
    assert sum("p-value" in name for name in rollouts["facts"]) == 6
