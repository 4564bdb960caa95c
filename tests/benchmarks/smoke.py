"""Run a benchmark's command from end to end at a small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "src" / "a2tgpo" / "assets" / "hops-tiny"


def run_benchmark(name: str, output: Path, *arguments: str | Path) -> tuple[dict[str, Any], str]:
    """Run `benchmarks/NAME.py` with `arguments`; what it wrote as JSON to `output`, and what it printed."""
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / f"{name}.py", *arguments, "--json", output]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text(encoding="utf-8")), done.stdout
