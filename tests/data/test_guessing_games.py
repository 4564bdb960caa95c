"""The exact truth of the guessing games: against TextArena's own words, closed forms and plain counting."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from a2tgpo.data.guessing_games import (
    CodeGame,
    GuessingGame,
    NumberGame,
    candidates_left,
    expected_gain,
    read_guess,
    true_gains,
    true_values,
)
from a2tgpo.environments import Action

NUMBERS, CODES = NumberGame(64), CodeGame(3, 6)


def test_halving_gains_one_bit_a_guess() -> None:
    """Of 64 numbers, 32 leaves 31 or 32, and so on: after 32, 48, 56, 60, 62, 63 only 64 is left. In logarithms the
    guesses gain alike, ln 64 in all; in probabilities the last gains 30 times as much as the first."""
    counts = candidates_left(NUMBERS, (64,), [(32,), (48,), (56,), (60,), (62,), (63,)])
    assert counts == [64, 32, 16, 8, 4, 2, 1]
    assert true_gains(counts, 1, "log_probability") == pytest.approx([math.log(2)] * 6)
    assert true_gains(counts, 1) == pytest.approx([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])


def test_values_are_those_of_the_answers_tokens() -> None:
    """An ideal reader of a code of three tokens gives the tokens in turn the probabilities a, b, c with a·b·c = 1/n,
    counted over the codes that are left; the likelihood is their geometric mean, whatever the three are."""
    secret, guesses = (2, 5, 1), [(1, 2, 3), (2, 4, 6)]
    left = [
        code for code in CODES.secrets if all(CODES.feedback(g, code) == CODES.feedback(g, secret) for g in guesses)
    ]
    mean_log = 0.0
    for k in range(3):
        fitting = [code for code in left if code[:k] == secret[:k]]
        mean_log += math.log(sum(code[k] == secret[k] for code in fitting) / len(fitting)) / 3
    counts = candidates_left(CODES, secret, guesses)
    assert counts[0] == 120 and counts[-1] == len(left)
    assert true_values(counts, 3)[-1] == pytest.approx(math.exp(mean_log))
    assert sum(true_gains(counts, 3)) == pytest.approx(math.exp(mean_log) - 120 ** (-1 / 3))


def test_refused_guesses_tell_nothing() -> None:
    """A number out of range, words and digits that repeat are refused; what is refused leaves the secrets as they are,
    and so does the same guess again."""
    assert (
        read_guess(NUMBERS, " [7] ") == (7,) and read_guess(NUMBERS, "65") is None and read_guess(NUMBERS, "x") is None
    )
    assert read_guess(CODES, "[4 1 2]") == (4, 1, 2) and read_guess(CODES, "1 1 2") is None
    assert candidates_left(NUMBERS, (3,), [(5,), None, (5,), (3,)]) == [64, 4, 4, 4, 1]
    with pytest.raises(ValueError, match=r"secret \(65,\): not one of the game's 64"):
        candidates_left(NUMBERS, (65,), [])


def test_a_difference_of_probabilities_does_not_tell_good_guesses_from_bad_ones() -> None:
    """Over the secrets, every number strictly inside the range gains 2/64 of probability, 2 as much as 32. In
    logarithms halving gains most."""
    inside = [expected_gain(NUMBERS, (number,), NUMBERS.secrets, 1) for number in range(2, 64)]
    assert inside == pytest.approx([2 / 64] * 62)
    by_number = [expected_gain(NUMBERS, (n,), NUMBERS.secrets, 1, "log_probability") for n in range(1, 65)]
    assert by_number.index(max(by_number)) + 1 in (32, 33)
    assert by_number[31] == pytest.approx(sum(-part / 64 * math.log(part / 64) for part in (1, 31, 32)))


@pytest.mark.parametrize(
    ("game", "name", "options"),
    [(NUMBERS, "GuessTheNumber", {"max_number": 64}), (CODES, "Mastermind", {"code_length": 3, "num_numbers": 6})],
)
def test_the_rules_are_textarenas(game: GuessingGame, name: str, options: dict[str, Any]) -> None:
    """Random guesses in TextArena's own game get the feedback that the rules here say, refusals included; and the
    secrets counted as possible are those that would have been answered with the same words all along."""
    pytest.importorskip("textarena", reason="pip install 'a2tgpo[games]'")
    from a2tgpo.environments.textarena_game import TextArenaGame

    rng = random.Random(0)
    for seed in range(20):
        played = TextArenaGame(f"{name}-v0-raw", max_turns=6, **options)
        played.reset({"seed": seed})
        secret = tuple(map(int, str(played.answer).split()))
        guesses = rng.sample(list(game.secrets), 6)
        for guess in guesses:
            result = played.step(Action("guess", " ".join(map(str, guess))))
            said = game.feedback(guess, secret)
            words = said if isinstance(said, str) else "{} black peg(s), {} white peg(s)".format(*said)
            if guess == secret:
                assert result.done and result.reward == 1.0
                break
            assert words in result.observation
        counts = candidates_left(game, secret, guesses)
        assert all(before >= after >= 1 for before, after in itertools.pairwise(counts))
