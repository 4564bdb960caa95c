"""The benchmark of credit and loss runs at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loss_cost.py"


def test_smoke(tmp_path):
    """Core agrees with the loops (else it exits with an error), the table is printed and the JSON holds all repeats."""
    out = tmp_path / "loss_cost.json"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--smoke", "--json", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "loss and gradient" in run.stdout
    cases = json.loads(out.read_text())["cases"]
    assert [sorted(case["seconds"]) for case in cases] == [["core", "loop"]] * 2
    assert all(len(taken) == 2 for case in cases for taken in case["seconds"].values())
    assert all(case["facts"]["error"] < 1e-4 for case in cases)
