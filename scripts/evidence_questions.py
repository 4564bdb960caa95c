"""Print what docs/evidence.md says beyond the comparison's own tables.

Differences between pairs of methods, prompts whose rollouts all earned the same, clipped tokens, and runs that ended
with hardly any search.

    python scripts/evidence_questions.py runs/evidence

Methods that lack a run are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev

from a2tgpo.compare.comparison_table import as_interval, inline
from a2tgpo.compare.measured import read_metrics
from a2tgpo.evaluate.statistics import Difference
from a2tgpo.run.directory import RunDirectory

PAIRS = (
    ("a2tgpo", "grpo"),
    ("igpo", "a2tgpo"),
    ("mica", "a2tgpo"),
    ("dapo", "a2tgpo"),
    ("igpo+tg", "igpo"),
    ("igpo+tg+sqrt", "igpo+tg"),
    ("a2tgpo", "igpo+tg+sqrt"),
    ("a2tgpo-absorbing", "a2tgpo"),
    ("a2tgpo-floor", "a2tgpo"),
)
FEW_SEARCHES = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of a finished `a2tgpo compare`")
    root = parser.parse_args().comparison
    every = json.loads((root / "summary.json").read_text(encoding="utf-8"))["methods"]
    methods = {name: method for name, method in every.items() if method["complete"]}

    print("greedy exact match by seed, standard deviation over seeds, runs of few searches")
    for name, method in methods.items():
        values = [run["greedy/exact_match"] for run in method["runs"].values()]
        few = sum(run["greedy/searches"] < FEW_SEARCHES for run in method["runs"].values())
        deviation = f"{stdev(values):.3f}" if len(values) > 1 else "–"
        print(f"  {name:17} {' '.join(f'{value:.3f}' for value in values)}   {deviation}   {few}")

    for key in ("greedy/exact_match", "sampled/exact_match", "greedy/searches"):
        print(f"{key}: differences over seeds")
        for first, second in (pair for pair in PAIRS if methods.keys() >= set(pair)):
            found = Difference.between(*([run[key] for run in methods[m]["runs"].values()] for m in (first, second)))
            interval, p = as_interval(found.mean, "+.3f", inline), "–" if found.p is None else f"{found.p:.2f}"
            print(f"  {first} - {second}: {interval}, p {p}")

    print("training: share of prompts of equal rewards by seed, second half; of clipped tokens; million tokens sampled")
    for name in [name for name in methods if name != "react"]:
        runs = [_training(root / name / f"seed_{seed}") for seed in methods[name]["runs"]]
        zero_variance, clipped, tokens = zip(*runs, strict=True)
        shares = " ".join(f"{share:.2f}" for share in zero_variance)
        print(f"  {name:17} {shares}   {fmean(clipped):.3f}   {fmean(tokens) / 1e6:.2f}")


def _training(run: Path) -> tuple[float, float, float]:
    """Return the shares of zero-variance prompts and of tokens that a bound held back, and how many tokens the prompts
    and the policy had in all rollouts that were sampled."""
    lines = read_metrics(RunDirectory(run).metrics)
    batches = [line["frac_reward_zero_std"] for line in lines if "frac_reward_zero_std" in line]
    clipped = fmean(line["loss/clipped_low"] + line["loss/clipped_high"] for line in lines)
    tokens = max(line.get("num_tokens", 0) for line in lines)
    return fmean(batches[len(batches) // 2 :]), clipped, tokens


if __name__ == "__main__":
    main()
