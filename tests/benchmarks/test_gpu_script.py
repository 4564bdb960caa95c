"""The script for the day there is a GPU: each of its commands runs, here in a small size, and a second call goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"


def rows() -> dict[str, int]:
    """Name and seconds of each row, as written."""
    return {
        name: int(seconds) for name, seconds in re.findall(r"^ *row (\w+) (\d+) ", SCRIPT.read_text(), re.MULTILINE)
    }


def run(folder: Path, python: str = sys.executable) -> str:
    environment = os.environ | {"SMOKE": "1", "PYTHON": python}
    done = subprocess.run(
        ["bash", SCRIPT, folder], cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_rows_fit_into_ten_minutes_smallest_first() -> None:
    assert sum(rows().values()) <= 600
    of_models = [name for name in rows() if name.startswith("gain_") and name[-1] == "0"]
    assert of_models == ["gain_2200", "gain_4000", "gain_8000"]


def test_a_row_that_fails_ends_nothing_and_one_that_is_there_is_skipped(tmp_path: Path) -> None:
    """With a `python` that always fails every row is tried, none leaves a JSON, and what was there stays."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "gain_4000.json").write_text("{}")
    told = run(folder, python="false")
    assert "gain_4000: there already" in told
    assert all(f"{name}: failed" in told for name in rows() if name != "gain_4000")
    assert [path.name for path in folder.glob("*.json")] == ["gain_4000.json"]


def test_every_command_runs(tmp_path: Path) -> None:
    """In the smallest size, on the CPU: a JSON with timings for each row. Called again, it runs nothing."""
    folder = tmp_path / "results"
    told = run(folder)
    assert "failed" not in told, told
    for name in rows():
        cases = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["cases"]
        assert cases and all(seconds > 0 for case in cases for each in case["seconds"].values() for seconds in each)
    assert run(folder).count("there already") == len(rows())
