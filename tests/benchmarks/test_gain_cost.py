import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_smallest_size_runs_from_check_to_json(tmp_path):
    """The command checks equality, times both ways, prints its table, and its JSON names hardware and command."""
    written = tmp_path / "gain.json"
    command = [sys.executable, "benchmarks/gain_cost.py", "--device", "cpu", "--smoke", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gain, KV cache" in done.stdout and "fewest FLOPs" in done.stdout
    record = json.loads(written.read_text())
    (case,) = record["cases"]
    assert case["facts"]["errors"]["cached to rows, largest"] < 1e-4
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in case["seconds"].values())
    assert "gain_cost.py" in record["environment"]["command"] and record["environment"]["torch"]
