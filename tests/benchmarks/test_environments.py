"""The benchmark of environments runs from end to end at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_smoke(tmp_path: Path) -> None:
    """Our loop and TRL's give the same greedy rollouts of the shipped policy, and pure generation the same tokens (the
    script stops where they do not); both sizes are timed, and the JSON holds the busy shares and the steps taken."""
    output = tmp_path / "environments.json"
    policy = ROOT / "src/a2tgpo/assets/hops-tiny"
    subprocess.run(
        [sys.executable, "benchmarks/environments.py", "--smoke", "--policy", str(policy), "--json", str(output)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    slow, fast = json.loads(output.read_text(encoding="utf-8"))["cases"]
    assert set(slow["seconds"]) == {"TRL's tool loop", "EnvironmentPool, KV-cache reuse"}
    assert set(fast["seconds"]) == {"environments that answer at once", "pure generation"}
    for name in slow["seconds"]:
        assert 0 < slow["facts"]["busy shares"][name][0] <= 1 and slow["facts"]["environment steps"][name][0] > 0
