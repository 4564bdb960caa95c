"""Know TextArena's guessing games exactly: the secrets still possible after each guess, and what a guess was worth.

While n secrets are possible and nothing tells them apart, an ideal reader gives the true one the probability 1/n. Where
the answer has L tokens, its likelihood as A²TGPO reads it (Eq. 5, a geometric mean over tokens) is v = n^(−1/L). So a
guess that leaves m of n secrets gains

    m^(−1/L) − n^(−1/L)      as the paper has it, a difference of probabilities
    (ln n − ln m) / L        as its released code has it, a difference of mean log-probabilities
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from a2tgpo.core.gain import Likelihood

Secret = tuple[int, ...]
"""The numbers of a secret, or of a guess."""

_NUMBER = re.compile(r"\d+")


class GuessingGame(Protocol):
    """Hold the rules of a game with one secret."""

    @property
    def secrets(self) -> Sequence[Secret]:
        """Return every secret there may be, each as likely as another."""

    def feedback(self, guess: Secret, secret: Secret) -> Hashable:
        """Return what the game says to a guess."""


@dataclass(frozen=True)
class NumberGame:
    """GuessTheNumber: a number from 1 to `max_number`; the game says higher or lower."""

    max_number: int = 20

    @cached_property
    def secrets(self) -> Sequence[Secret]:
        return [(number,) for number in range(1, self.max_number + 1)]

    def feedback(self, guess: Secret, secret: Secret) -> str:
        """Return "higher", "lower" or "correct"."""
        return "higher" if secret > guess else "lower" if secret < guess else "correct"


@dataclass(frozen=True)
class CodeGame:
    """Mastermind: `code_length` different digits from 1 to `num_numbers`; the game counts black and white pegs."""

    code_length: int = 4
    num_numbers: int = 6

    @cached_property
    def secrets(self) -> Sequence[Secret]:
        return list(itertools.permutations(range(1, self.num_numbers + 1), self.code_length))

    def feedback(self, guess: Secret, secret: Secret) -> tuple[int, int]:
        """Return the digits in their place, and those that stand elsewhere."""
        black = sum(a == b for a, b in zip(guess, secret, strict=True))
        return black, len({*guess} & {*secret}) - black


def read_guess(game: GuessingGame, text: str) -> Secret | None:
    """Return the guess that `text` holds, None where the game would refuse it."""
    guess = tuple(map(int, _NUMBER.findall(text)))
    return guess if guess in game.secrets else None


def candidates_left(game: GuessingGame, secret: Secret, guesses: Sequence[Secret | None]) -> list[int]:
    """Return how many secrets are possible before the first guess and after each; a refused one (None) tells nothing.

    Raises:
        ValueError: no such secret.
    """
    if secret not in game.secrets:
        raise ValueError(f"secret {secret!r}: not one of the game's {len(game.secrets)}")
    possible = list(game.secrets)
    counts = [len(possible)]
    for guess in guesses:
        if guess is not None:
            said = game.feedback(guess, secret)
            possible = [other for other in possible if game.feedback(guess, other) == said]
        counts.append(len(possible))
    return counts


def true_values(counts: Sequence[int], length: int, likelihood: Likelihood = "probability") -> list[float]:
    """Return an ideal reader's likelihood of the answer at each turn boundary.

    Args:
        counts: secrets possible there (`candidates_left`).
        length: tokens of the answer.
        likelihood: in (0, 1], or its logarithm.
    """
    logs = [-math.log(count) / length for count in counts]
    return logs if likelihood == "log_probability" else [math.exp(value) for value in logs]


def true_gains(counts: Sequence[int], length: int, likelihood: Likelihood = "probability") -> list[float]:
    """Return what each guess gained: the differences of `true_values`."""
    return [after - before for before, after in itertools.pairwise(true_values(counts, length, likelihood))]


def expected_gain(
    game: GuessingGame, guess: Secret, possible: Sequence[Secret], length: int, likelihood: Likelihood = "probability"
) -> float:
    """Return the mean gain of `guess` over the secrets in `possible`.

    With one token an answer, a difference of probabilities has the mean (k − 1)/n, k being the number of different
    things that the game may say: it does not tell a guess that halves the secrets from one that cuts off a single one.
    The mean difference of logarithms is the entropy of what the game says, which does.
    """
    parts = Counter(game.feedback(guess, secret) for secret in possible).values()
    n = len(possible)
    return sum(part / n * true_gains([n, part], length, likelihood)[0] for part in parts)
