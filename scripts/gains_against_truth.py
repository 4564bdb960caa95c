"""Compare the gains that a run of a guessing game measured with the true ones, by turn, before and after training.

    a2tgpo train recipes/guess_the_number.yaml --output_dir runs/numbers
    python scripts/gains_against_truth.py runs/numbers --figure docs/figures/gains_against_truth.svg

Reads the rollout logs of runs with gains (`likelihood: probability`), several seeds of a method together, and prints
for each turn the correlation of the policy's gain with the true one over the first and the last batches, as differences
of probabilities and of logarithms.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from a2tgpo.core.gain import Likelihood
from a2tgpo.data.guessing_games import CodeGame, GuessingGame, NumberGame, candidates_left, read_guess, true_gains
from a2tgpo.pipeline.rollout_log import read_rollouts
from a2tgpo.run.directory import RunDirectory
from a2tgpo.tables import markdown_table

FORMS: tuple[Likelihood, ...] = ("probability", "log_probability")
NAMES = {"probability": "difference of probabilities", "log_probability": "difference of logarithms"}
STRETCHES = ("before", "after")
LEAST = 1e-38
"""Stand in for a likelihood that float32 has rounded to 0."""
POINTS = 60
"""Rollouts drawn of each turn, evenly chosen."""


@dataclass(frozen=True)
class Gains:
    """Hold the gains of one turn over many rollouts: the policy's and the true ones."""

    policy: list[float]
    true: list[float]

    @property
    def correlation(self) -> float:
        return float(np.corrcoef(self.policy, self.true)[0, 1]) if len(self.policy) > 2 else math.nan


def game_of(directory: RunDirectory) -> GuessingGame:
    """Return the rules of the game that a run's recipe plays."""
    options: dict[str, Any] = yaml.safe_load(directory.config.read_text(encoding="utf-8")).get("environment_args") or {}
    if "Mastermind" in options.get("game", ""):
        return CodeGame(options.get("code_length", 4), options.get("num_numbers", 6))
    return NumberGame(options.get("max_number", 20))


def gains_by_turn(files: Sequence[Path], game: GuessingGame, form: Likelihood, n_turns: int) -> list[Gains]:
    """Return the gains of each of the first turns in files of a rollout log."""
    turns = [Gains([], []) for _ in range(n_turns)]
    for file in files:
        for record in read_rollouts(file):
            assert record.likelihood is not None, f"{file}: the method reads no likelihood"
            answer = record.answer[0] if isinstance(record.answer, list) else str(record.answer)
            secret = tuple(map(int, answer.split()))
            counts = candidates_left(game, secret, [read_guess(game, call.query) for call in record.calls])
            values = (
                record.likelihood
                if form == "probability"
                else [math.log(max(value, LEAST)) for value in record.likelihood]
            )
            for turn, true in enumerate(true_gains(counts, len(secret), form)[: min(len(values) - 1, n_turns)]):
                turns[turn].policy.append(values[turn + 1] - values[turn])
                turns[turn].true.append(true)
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=4, help="at the start, and at the end (default: 4)")
    parser.add_argument("--turns", type=int, default=6, help="how many (default: 6)")
    parser.add_argument("--figure", type=Path, default=None, help="where to draw it, SVG or PNG")
    args = parser.parse_args()
    directories = [RunDirectory(run) for run in args.runs]
    game, logs = game_of(directories[0]), [sorted(each.rollouts.glob("step_*.jsonl")) for each in directories]
    chosen = {
        "before": [file for files in logs for file in files[: args.batches]],
        "after": [file for files in logs for file in files[-args.batches :]],
    }
    found = {(form, when): gains_by_turn(chosen[when], game, form, args.turns) for form in FORMS for when in STRETCHES}
    rows = [
        [f"{NAMES[form]}, {when}", *(f"{turn.correlation:.2f}" for turn in turns)]
        for (form, when), turns in found.items()
    ]
    rows += [[f"rollouts, {when}", *(str(len(turn.true)) for turn in found[FORMS[0], when])] for when in STRETCHES]
    print(markdown_table(["correlation by turn", *map(str, range(1, args.turns + 1))], rows))
    if args.figure is not None:
        draw(found, args.figure)


def draw(found: dict[tuple[Likelihood, str], list[Gains]], path: Path) -> None:
    """Draw the correlation by turn, and the policy's gains after training over the true ones."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "a2tgpo", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, *panels = figure.subplots(1, 3)
        for (form, when), turns in found.items():
            left.plot(
                range(1, len(turns) + 1),
                [turn.correlation for turn in turns],
                "o-" if when == "after" else "o:",
                color="#0072b2" if form == "probability" else "#d55e00",
                label=f"{NAMES[form]}, {when}",
                markersize=3,
            )
        left.set(xlabel="turn", ylabel="correlation with the true gain", ylim=(0, 1))
        left.legend(frameon=False, fontsize=6)
        for panel, form in zip(panels, FORMS, strict=True):
            for number, turn in enumerate(found[form, "after"], start=1):
                shown = slice(0, None, -(-len(turn.true) // POINTS))
                panel.plot(turn.true[shown], turn.policy[shown], ".", markersize=2, label=f"turn {number}", alpha=0.6)
            panel.axline((0, 0), slope=1, color="#767676", linewidth=0.6)
            panel.set(xlabel="true gain", ylabel="the policy's gain", title=f"{NAMES[form]}, after")
            panel.legend(frameon=False, fontsize=6, markerscale=3)
        for panel in (left, *panels):
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
