"""Compare grpo, igpo and a2tgpo on real questions for as long as there is time: at most 12 minutes, seed by seed.

    python benchmarks/real_questions.py --device cuda --model models/smollm2-135m-instruct \
      --questions hotpotqa/train.jsonl musique/train.jsonl --eval_questions hotpotqa/dev.jsonl musique/dev.jsonl \
      --corpus corpus.jsonl.gz --json real_questions.json

Runs `a2tgpo compare` on `recipes/compare_multihop_smollm2.yaml`, all held-out questions included, and writes its
summary after each seed. Another seed begins while as many seconds are left as the last one took. The same command goes
on where it was stopped: the runs lie beside the JSON, with their warm starts and checkpoints.

`--smoke` rehearses it at a hundredth of the size: with four held-out questions, and where none are given with questions
of a generated world and a tiny policy.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

from _measure import Case, print_cases, write_json

from a2tgpo.data.world import World

RECIPE = Path(__file__).parents[1] / "recipes/compare_multihop_smollm2.yaml"
METHODS, PAIRS = "grpo,igpo,a2tgpo", "a2tgpo:grpo,a2tgpo:igpo"
SEED = "a seed: warm start, three runs, evaluations"
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]
SMALL = {
    "warm_start_steps": 1,
    "warm_start_batch_size": 8,
    "warm_start_micro_batch_size": 4,
    "num_generations": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 2,
    "max_steps": 2,
    "save_steps": 2,
    "max_prompt_tokens": 768,  # the tiny policy spells the system prompt
    "max_completion_length": 512,
}
"""A hundredth of the recipe: updates of two rollouts, a warm start of eight demonstrations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--model", help="model_name_or_path, where it is not the recipe's")
    parser.add_argument("--questions", nargs="+", type=Path)
    parser.add_argument("--eval_questions", nargs="+", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seeds", type=int, default=8, help="how many at most")
    parser.add_argument("--jobs", type=int, default=3, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=690, help="when it is stopped, whatever has finished")
    parser.add_argument(
        "--json", type=Path, required=True, help="summary and seconds; the runs go into a folder beside it"
    )
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how well it learns")
    arguments = parser.parse_args()
    runs = arguments.json.parent / f"{arguments.json.stem}_runs"
    flags = ON_CPU if arguments.device == "cpu" else []
    if arguments.smoke:
        arguments.seeds = arguments.jobs = 1
        rehearse(arguments, runs)
        flags = [*flags, *(word for key, value in SMALL.items() for word in (f"--{key}", str(value)))]
    if not (arguments.questions and arguments.eval_questions and arguments.corpus):
        parser.error("give --questions, --eval_questions and --corpus; only --smoke makes its own")
    for name in ("questions", "eval_questions", "corpus"):
        given = getattr(arguments, name)
        flags += [f"--{name}", *map(str, given if isinstance(given, list) else [given])]
    if arguments.model:
        flags += ["--model_name_or_path", arguments.model]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit ends it as Ctrl-C does
    if not seed_by_seed(arguments, runs / "comparison", flags):
        sys.exit("no seed has finished; the same command goes on")


def seed_by_seed(arguments: argparse.Namespace, root: Path, flags: list[str]) -> bool:
    """Compare one seed, then two, and so on; tell whether any has finished. The JSON is written after each."""
    end = time.monotonic() + arguments.seconds
    taken = earlier_seconds(arguments.json)
    for n_seeds in range(1, arguments.seeds + 1):
        start = time.monotonic()
        if n_seeds > len(taken) > 0 and start + taken[-1] > end:
            break
        if not compare(root, n_seeds, arguments.jobs, flags, end - start):
            break
        if n_seeds > len(taken):
            taken.append(time.monotonic() - start)
        summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
        primary = json.loads((root / "primary.json").read_text(encoding="utf-8"))
        case = Case(
            f"{n_seeds} of at most {arguments.seeds} seeds", {SEED: taken}, SEED, facts=summary | {"primary": primary}
        )
        write_json(arguments.json, f"Real questions on {arguments.device}", [case])
        print_cases(f"Real questions on {arguments.device}", [case])
    return bool(taken)


def compare(root: Path, n_seeds: int, jobs: int, flags: list[str], seconds: float) -> bool:
    """Run what seeds 0 to `n_seeds` − 1 lack; tell whether they have finished within `seconds`.

    Stopped, by the time or by a signal, the runs keep a checkpoint first.
    """
    program = [sys.executable, "-m", "a2tgpo.cli", "compare", str(RECIPE), "--methods", METHODS, "--primary", PAIRS]
    sizes = ["--seeds", str(n_seeds), "--jobs", str(jobs), "--output_dir", str(root)]
    process = subprocess.Popen([*program, *sizes, *flags])
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def earlier_seconds(path: Path) -> list[float]:
    """Return the seconds of the seeds that had finished when it was stopped."""
    if not path.exists():
        return []
    found: list[float] = json.loads(path.read_text(encoding="utf-8"))["cases"][0]["seconds"][SEED]
    return found


def rehearse(arguments: argparse.Namespace, folder: Path) -> None:
    """Put four held-out questions in place of those given, and questions, corpus and policy in place of those that are
    not."""
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.questions is None:
        world = World.generate(0, n_train=60, n_eval=40)
        arguments.corpus, arguments.model = world.write_corpus(folder / "corpus.jsonl"), "a2tgpo:hops-tiny"
        arguments.questions = [written(folder / "train.jsonl", world.questions("train", n=40))]
        arguments.eval_questions = [written(folder / "dev.jsonl", world.questions("eval", n=4))]
        return
    few = folder / "dev.jsonl"
    lines = []
    for path in arguments.eval_questions:
        with path.open(encoding="utf-8") as file:
            lines += list(islice(file, max(4 // len(arguments.eval_questions), 1)))
    few.write_text("".join(lines), encoding="utf-8")
    arguments.eval_questions = [few]


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
