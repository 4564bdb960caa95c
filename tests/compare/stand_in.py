"""Plays `a2tgpo train` without training: the same files in the same order, a checkpoint after each step.

Under the folder STAND_IN, each start is a line of `started` and its arguments one of `flags`, each Ctrl-C a line of
`interrupted`; files `fail` and `kill` name runs that fail and runs that are killed, `hold` lets runs wait after their
first step for as long as it exists, and with `stubborn` a run's first Ctrl-C does not end it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

N_STEPS = 3
OUTCOME = dict.fromkeys(("id", "question", "dataset", "prediction", "termination", "reason", "text"), "a")
OUTCOME |= {"answer": ["a"], "hops": 1, "f1": 1.0, "contains": True, "queries": [], "sample": 0}
OUTCOME |= dict.fromkeys(("searches", "policy_tokens", "total_tokens"), 1)
DESK = Path(os.environ.get("STAND_IN", "."))


def main(arguments: list[str]) -> int:
    """`train RECIPE --key value ...`"""
    flags = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    root = Path(flags["--output_dir"])
    name = f"{root.parent.name}/{root.name}"
    _note("flags", " ".join(arguments))
    resumed = "--resume_from_checkpoint" in flags
    _note("started", f"{name}{' again' if resumed else ''}")
    signal.signal(signal.SIGTERM, lambda *_: _interrupted(name))
    if name in _lines("fail"):
        print("a line before\nRuntimeError: the stand-in was told to")
        return 1
    if name in _lines("kill"):
        print("a line before")
        os.kill(os.getpid(), signal.SIGKILL)
    assert resumed == (root / "config.yaml").exists()
    (root / "config.yaml").write_text("{}")
    if flags.get("--max_steps") == "0":
        (root / "warm_start").mkdir(exist_ok=True)
        (root / "warm_start" / "losses.json").write_text("[]")
        _evaluate(root, "before")
    else:
        assert (root / "warm_start" / "losses.json").exists(), "a run without its warm start"
        _update(root)
        _evaluate(root, "after")
    (root / "summary.json").write_text("{}")
    return 0


def _update(root: Path) -> None:
    metrics = root / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for step in range(done + 1, N_STEPS + 1):
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "step_time": 1.0, "pid": os.getpid()}) + "\n")
        while (DESK / "hold").exists():
            time.sleep(0.02)


def _evaluate(root: Path, when: str) -> None:
    (root / "eval").mkdir(exist_ok=True)
    for mode in ("greedy", "sampled"):
        outcome = OUTCOME | {"correct": when == "after"}
        (root / "eval" / f"{when}_{mode}.jsonl").write_text(f"{json.dumps(outcome)}\n")


def _interrupted(name: str) -> None:
    ends = name in _lines("interrupted") or not (DESK / "stubborn").exists()
    _note("interrupted", name)
    if ends:
        sys.exit(130)


def _lines(file: str) -> list[str]:
    path = DESK / file
    return path.read_text().splitlines() if path.exists() else []


def _note(file: str, line: str) -> None:
    with (DESK / file).open("a") as notes:
        notes.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
