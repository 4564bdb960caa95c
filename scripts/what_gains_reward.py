"""Say which first guess of GuessTheNumber an ideal reader's gain rewards, as it is and normalised in its turn group.

    python scripts/what_gains_reward.py

Guesses and secrets are uniform over 64 numbers; a turn group holds the gains of `--group` rollouts that play the same
secret, as in training, and advantages are means over `--draws` groups.
"""

from __future__ import annotations

import argparse

import numpy as np

from a2tgpo.core.gain import Likelihood
from a2tgpo.data.guessing_games import NumberGame, candidates_left, expected_gain, true_gains
from a2tgpo.tables import markdown_table

GUESSES = (2, 4, 8, 16, 24, 32)
FORMS: dict[Likelihood, str] = {
    "probability": "difference of probabilities",
    "log_probability": "difference of logarithms",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--draws", type=int, default=100_000)
    args = parser.parse_args()
    game = NumberGame(args.numbers)
    rows = []
    for form, name in FORMS.items():
        gain = np.array(
            [[true_gains(candidates_left(game, s, [g]), 1, form)[0] for s in game.secrets] for g in game.secrets]
        )
        mean = [expected_gain(game, (guess,), game.secrets, 1, form) for guess in GUESSES]
        assert np.allclose(mean, gain.mean(1)[[guess - 1 for guess in GUESSES]])
        rows.append([f"{name}: mean gain", *(f"{value:.3f}" for value in mean)])
        advantage = in_groups(gain, args.group, args.draws)
        rows.append([f"{name}: mean advantage", *(f"{advantage[guess - 1]:+.2f}" for guess in GUESSES)])
    print(markdown_table(["first guess", *map(str, GUESSES)], rows))


def in_groups(gain: np.ndarray, size: int, draws: int) -> np.ndarray:
    """Return the mean normalised gain of each guess in turn groups of `size`; `gain` is by guess and secret."""
    rng = np.random.default_rng(0)
    secrets = rng.integers(gain.shape[1], size=(draws, 1))
    guesses = rng.integers(gain.shape[0], size=(draws, size))
    drawn = gain[guesses, secrets]
    scores = (drawn - drawn.mean(1, keepdims=True)) / (drawn.std(1, keepdims=True) + 1e-6)
    total = np.bincount(guesses.ravel(), scores.ravel(), minlength=len(gain))
    return total / np.bincount(guesses.ravel(), minlength=len(gain))


if __name__ == "__main__":
    main()
