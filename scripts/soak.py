"""Kill a small training wherever it may be, go on with it, and compare what it ends in with the run nobody killed.

    python scripts/soak.py runs/soak                     # a few points, minutes
    python scripts/soak.py runs/soak --points all --random 10

A kill is SIGKILL from inside, at a named moment (a file that is about to be opened or renamed, a folder about to be
made), or from outside after a random time. Moments after the warm start begin with a copy of it. Model, metrics,
rollouts, updates and evaluations are compared to the last bit, without what clocks said. The same command goes on where
it was stopped; `table.md` in the folder has the outcome.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Kind -> moment -> event, end of the path, how many times it happens before the kill.
POINTS: dict[str, dict[str, tuple[str, str, int]]] = {
    "beginning": {
        "configuration written, not renamed": ("os.rename", "config.yaml", 0),
        "corpus about to be written": ("open", "corpus.jsonl", 0),
    },
    "warm start": {
        "model about to be saved": ("open", "warm_start/config.json", 0),
        "saved, and not said so": ("os.rename", "warm_start/losses.json", 0),
    },
    "evaluation before": {
        "first table about to appear": ("os.rename", "eval/before_greedy.jsonl", 0),
        "second table about to appear": ("os.rename", "eval/before_sampled.jsonl", 0),
    },
    "first batch": {
        "rollouts about to be written": ("open", "rollouts/step_000000.jsonl", 0),
        "first update about to be written": ("open", "rollouts/updates_000000.jsonl", 0),
        "first line of metrics": ("open", "metrics.jsonl", 0),
    },
    "between batches": {
        "second batch's rollouts": ("open", "rollouts/step_000002.jsonl", 0),
        "third line of metrics": ("open", "metrics.jsonl", 2),
        "third batch's update": ("open", "rollouts/updates_000004.jsonl", 1),
    },
    "checkpoint": {
        "first about to be made": ("os.mkdir", "checkpoint-2", 0),
        "second has its folder and no weights": ("open", "checkpoint-4/config.json", 0),
        "second has no state": ("open", "checkpoint-4/trainer_state.json", 0),
        "last has no state": ("open", "checkpoint-6/trainer_state.json", 0),
        "oldest about to be removed": ("os.rename", "checkpoint-2", 0),
    },
    "end": {
        "last checkpoint there, model about to be renamed": ("os.rename", "run/model", 0),
        "evaluation after about to appear": ("os.rename", "eval/after_greedy.jsonl", 0),
        "summary.md about to appear": ("os.rename", "run/summary.md", 0),
        "summary.json about to appear": ("os.rename", "run/summary.json", 0),
    },
}
FEW = ("saved, and not said so", "second batch's rollouts", "second has no state", "model about to be renamed")
"""Ends of the moments of the small default, with one random kill."""

SMALL = (
    *("--world_entities", "40", "--n_train_questions", "40", "--n_eval_questions", "6", "--hops", "1"),
    *("--warm_start_steps", "24", "--max_searches", "2", "--max_turn_tokens", "32", "--max_completion_length", "300"),
    *("--num_generations", "4", "--per_device_train_batch_size", "8", "--steps_per_generation", "2"),
    *("--max_steps", "6", "--save_steps", "2", "--save_total_limit", "2", "--learning_rate", "1e-3"),
)
RESUME = ("--resume_from_checkpoint", "true")
CLOCKS = ("seconds", "time", "per_second", "runtime")


@dataclass(frozen=True)
class Outcome:
    """Say what became of one kill: the updates that were done, and what is different from the whole run."""

    kind: str
    moment: str
    killed: bool
    steps_done: int
    differs: list[str]


def train(folder: Path, recipe: str, *flags: str) -> list[str]:
    """Return the command of a run in `folder`."""
    return ["train", recipe, *SMALL, "--output_dir", str(folder / "run"), *flags]


def run_child(arguments: list[str], log: Path, point: tuple[str, str, int] | None = None) -> subprocess.Popen[bytes]:
    """Start `a2tgpo` in a process that kills itself at `point`."""
    code = "from scripts.soak import child; child()"
    environment = os.environ | {"SOAK_POINT": json.dumps(point), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def child() -> None:
    """Run `a2tgpo` with the arguments of this process, and end it without a word at the moment it is told."""
    if (point := json.loads(os.environ["SOAK_POINT"])) is not None:
        event, end, left = point

        def watch(name: str, values: tuple[object, ...]) -> None:
            nonlocal left
            if name != event:
                return
            if name == "open" and not (isinstance(values[1], str) and set(values[1]) & set("wax")):
                return
            path = str(values[1] if name == "os.rename" else values[0])
            # A file that is renamed once it is whole is opened under another name before.
            if path.endswith(end):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
    from a2tgpo.cli import main

    sys.exit(main(sys.argv[1:]))


def fingerprint(run: Path) -> dict[str, str]:
    """Return a digest of each thing a run leaves; of records without what a clock said."""
    found = {"model": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()}
    for path in [run / "metrics.jsonl", *sorted((run / "rollouts").glob("*.jsonl")), *sorted(run.glob("eval/*.jsonl"))]:
        found[str(path.relative_to(run))] = hashlib.sha256(json.dumps(_records(path)).encode()).hexdigest()
    found["summary.json"] = hashlib.sha256((run / "summary.json").read_bytes()).hexdigest()
    return found


def _records(path: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in record.items() if not any(clock in k for clock in CLOCKS)} for record in records]


def tear_apart(
    folder: Path, recipe: str, kind: str, moment: str, point: tuple[str, str, int] | None, seconds: float, whole: Path
) -> Outcome:
    """Kill one run, go on with it until it ends, compare it with `whole`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    warm = kind not in ("beginning", "warm start", "random")
    if warm:  # half the time of a run, which nothing kills here
        for name in ("config.yaml", "corpus.jsonl"):
            (folder / "run").mkdir(exist_ok=True)
            shutil.copy(whole / name, folder / "run" / name)
        shutil.copytree(whole / "warm_start", folder / "run" / "warm_start")
    process = run_child(train(folder, recipe, *(RESUME if warm else ())), folder / "log.txt", point)
    try:
        process.wait(timeout=None if point is not None else seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    metrics = folder / "run" / "metrics.jsonl"
    done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    begun = (folder / "run" / "config.yaml").exists()
    status = run_child(train(folder, recipe, *(RESUME if begun else ())), folder / "log.txt").wait()
    differs = [f"exit status {status}"] if status else []
    if not differs:
        ours, theirs = fingerprint(folder / "run"), fingerprint(whole)
        differs = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return Outcome(kind, moment, process.returncode == -signal.SIGKILL, done, differs)


def table(outcomes: list[Outcome]) -> str:
    """Lay out the outcomes by kind, and what was lost, if anything was."""
    lines = ["| kind | tried | killed there | survived | lost |", "| --- | ---: | ---: | ---: | --- |"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        of = [outcome for outcome in outcomes if outcome.kind == kind]
        lost = "; ".join(f"{o.moment}: {', '.join(o.differs)}" for o in of if o.differs) or "nothing"
        survived, killed = sum(not o.differs for o in of), sum(o.killed for o in of)
        lines.append(f"| {kind} | {len(of)} | {killed} | {survived} | {lost} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Make the whole run, then the killed ones that `outcomes.jsonl` does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="hops_cpu")
    parser.add_argument("--points", choices=("few", "all"), default="few")
    parser.add_argument("--random", type=int, default=1, help="kills at random times (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    whole, log = folder / "whole", folder / "outcomes.jsonl"
    begun = time.monotonic()
    if not (whole / "run" / "summary.json").exists():
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        if run_child(train(whole, arguments.recipe), whole / "log.txt").wait():
            print(f"the run that nobody kills failed: see {whole / 'log.txt'}", file=sys.stderr)
            return 1
        (whole / "seconds").write_text(str(time.monotonic() - begun), encoding="utf-8")
    seconds = float((whole / "seconds").read_text(encoding="utf-8"))
    wanted: list[tuple[str, str, tuple[str, str, int] | None]] = [
        (kind, moment, point)
        for kind, moments in POINTS.items()
        for moment, point in moments.items()
        if arguments.points == "all" or moment.endswith(FEW)
    ]
    wanted += [("random", f"{n + 1} of seed {arguments.seed}", None) for n in range(arguments.random)]
    outcomes = [Outcome(**json.loads(line)) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    for number, (kind, moment, point) in enumerate(wanted):
        if any((outcome.kind, outcome.moment) == (kind, moment) for outcome in outcomes):
            continue
        after = random.Random(f"{arguments.seed} {moment}").uniform(0.05, 0.95) * seconds
        outcome = tear_apart(folder / f"{number:02}", arguments.recipe, kind, moment, point, after, whole / "run")
        print(
            f"{kind}, {moment}: {'lost ' + ', '.join(outcome.differs) if outcome.differs else 'survived'}", flush=True
        )
        outcomes.append(outcome)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome.__dict__) + "\n")
    (folder / "table.md").write_text(table(outcomes), encoding="utf-8")
    print(table(outcomes), end="")
    return 1 if any(outcome.differs for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
