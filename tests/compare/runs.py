"""Finished runs written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from a2tgpo.compare.matrix import Cell, Matrix
from a2tgpo.evaluate.outcome import write_outcomes
from tests.evaluate.outcomes import outcome

RIGHT = {
    "react": {0: "0000", 1: "1000", 2: "0000"},
    "grpo": {0: "1000", 1: "1100", 2: "1110"},
    "a2tgpo": {0: "1100", 1: "1110", 2: "1110"},
    "igpo": {0: "1100", 1: "1111"},
}
"""Method -> seed -> which of four questions were answered right, greedy; the first two have 2 hops, the others 3."""


def write_matrix(root: Path, right: Mapping[str, Mapping[int, str]] = RIGHT) -> Matrix:
    """A comparison on three seeds in which the runs of `right` have finished. Sampled answers are all wrong."""
    matrix = Matrix(root, tuple(name for name in right if name != "react"), 3, 8)
    for method, seeds in right.items():
        for seed, answers in seeds.items():
            if method == "react":
                write_run(matrix.start(seed), "before", answers)
            else:
                write_run(matrix.cell(method, seed), "after", answers)
                write_metrics(matrix.cell(method, seed), seed)
    return matrix


def write_run(cell: Cell, when: str, right: str) -> None:
    """One question for each digit of `right`: question k took k searches, 10·k policy tokens, 100 tokens in all."""
    for mode, digits in (("greedy", right), ("sampled", "0" * len(right))):
        outcomes = [
            outcome(
                id=f"q{k}", hops=2 + k // 2, correct=digit == "1", searches=k, policy_tokens=10 * k, total_tokens=100
            )
            for k, digit in enumerate(digits)
        ]
        write_outcomes(cell.directory.evaluation(f"{when}_{mode}"), outcomes)
    (cell.directory.root / "summary.json").write_text("{}")


def write_metrics(cell: Cell, seed: int, steps: Sequence[int] = range(1, 9)) -> None:
    """Every other step makes a batch: reward step/10 + seed, one search more per seed; steps take 1 s or 3 s."""
    with cell.directory.metrics.open("w") as file:
        for step in steps:
            batch = {"reward": step / 10 + seed, "rollout/searches": 1.0 + seed, "seconds/gain": 0.5}
            row = {"step": step, "step_time": 3.0 if step % 2 else 1.0} | (batch if step % 2 else {})
            file.write(json.dumps(row) + "\n")
