"""The script for the day there is a GPU: each of its commands runs, here in a small size, and a second call goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"


def rows() -> dict[str, int]:
    """Name and seconds of each row, as written."""
    return {
        name: int(seconds) for name, seconds in re.findall(r"^ *row (\w+) (\d+) ", SCRIPT.read_text(), re.MULTILINE)
    }


def environment(python: Path | str) -> dict[str, str]:
    return os.environ | {"SMOKE": "1", "PYTHON": str(python)}


def run(folder: Path, python: Path | str = sys.executable) -> str:
    done = subprocess.run(
        ["bash", SCRIPT, folder],
        cwd=folder.parent,
        env=environment(python),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rows_fit_into_ten_minutes_smallest_first_and_the_comparison_into_twelve() -> None:
    seconds = rows()
    assert seconds.pop("real_questions") == 720
    assert sum(seconds.values()) <= 600
    of_models = [name for name in seconds if name.startswith("gain_") and name[-1] == "0"]
    assert of_models == ["gain_2200", "gain_4000", "gain_8000"]


def test_cut_off_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    """Killed while a row has written half of its file: called again, it keeps the rows before and makes that one and
    those behind it. (`python` is a stand-in that writes what a row would.)"""
    folder, python = tmp_path / "results", tmp_path / "python"
    python.write_text(
        '#!/bin/bash\nfile=${@: -1}\nprintf "{" >"$file"\n'
        f'[ -e {tmp_path}/hang ] && [[ $file == */gain_hybrid.part ]] && sleep 60\nprintf "}}" >>"$file"\n'
    )
    python.chmod(0o755)
    (tmp_path / "hang").touch()
    cut_off = subprocess.Popen(
        ["bash", SCRIPT, folder], env=environment(python), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not (folder / "gain_hybrid.part").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(cut_off.pid, signal.SIGKILL)
    cut_off.wait()
    assert {path.stem for path in folder.glob("*.json")} == {"loss_cost", "prefix_cost", "gain_smollm2", "gain_sliding"}
    (tmp_path / "hang").unlink()
    assert run(folder, python).count("there already") == 4
    assert {path.stem for path in folder.glob("*.json")} == set(rows())
    assert all(path.read_text() == "{}" for path in folder.glob("*.json")) and not list(folder.glob("*.part"))


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
