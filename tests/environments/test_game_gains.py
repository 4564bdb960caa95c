"""Gains that are measured in TextArena's games, against the true ones: of an ideal reader exactly, of the policies that
ship with the package closely."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.core.gain import Likelihood
from a2tgpo.data.guessing_games import CodeGame, GuessingGame, NumberGame, candidates_left, read_guess, true_gains
from a2tgpo.environments import CallLimits, EnvironmentPool
from a2tgpo.pretrained import open_model, open_tokenizer
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.rollout.types import Rollout
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, LabelLogps, plain_forward
from tests.rollout.scripted import ScriptedEngine

pytest.importorskip("textarena", reason="pip install 'a2tgpo[games]'")

GAMES: dict[str, tuple[GuessingGame, dict[str, Any]]] = {
    "guess-number": (NumberGame(64), {"game": "GuessTheNumber-v0-raw", "max_number": 64}),
    "mastermind": (CodeGame(2, 8), {"game": "Mastermind-v0-raw", "code_length": 2, "num_numbers": 8}),
}
REFUSED = {"guess-number": "9 9", "mastermind": "1 1"}
N_TURNS = 6


def play(name: str, n: int) -> list[Rollout]:
    """Games in TextArena through the agent's loop: two of three guesses fit what the game said, a few are refused."""
    from a2tgpo.environments.textarena_game import TextArenaGame

    game, options = GAMES[name]
    rng = random.Random(0)

    def guesses(seed: int) -> list[str]:
        asked = TextArenaGame(**options)
        asked.reset({"seed": seed})
        secret = tuple(map(int, str(asked.answer).split()))
        possible, written = list(game.secrets), []
        for _ in range(12):
            guess = rng.choice(possible if rng.random() < 2 / 3 else game.secrets)
            said = game.feedback(guess, secret)
            possible = [other for other in possible if game.feedback(guess, other) == said]
            written.append(REFUSED[name] if rng.random() < 0.05 else " ".join(map(str, guess)))
        return written

    tokenizer = open_tokenizer(f"a2tgpo:{name}")
    pool = EnvironmentPool(lambda: TextArenaGame(max_turns=N_TURNS, **options), CallLimits(patience_s=math.inf))
    agent = Agent(tokenizer, pool, RolloutLimits(max_searches=12))
    scripts = [[f"<guess> {guess} </guess>" for guess in guesses(seed)] for seed in range(n)]
    return agent.run(["Play."] * n, ScriptedEngine(tokenizer, scripts), rows=[{"seed": k} for k in range(n)])


def measured_gains(name: str, rollouts: list[Rollout], likelihood: Likelihood, forward: LabelLogps, config: Any) -> Any:
    """The gains of each rollout's turns, as training measures them."""
    tokenizer = open_tokenizer(f"a2tgpo:{name}")

    def padded(rows: list[list[int]]) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    completions = [rollout.completion_ids for rollout in rollouts]
    prompts = torch.tensor([rollout.prompt_ids for rollout in rollouts])  # all rules are one token
    scorer = AnswerScorer(AnswerScaffold(SCAFFOLD), tokenizer, likelihood, method="rows")
    scores = scorer.score(
        forward,
        config,
        prompts,
        torch.ones_like(prompts),
        padded(completions),
        padded([[1] * len(row) for row in completions]),
        padded([[int(own) for own in rollout.model_mask] for rollout in rollouts]),
        [[str(rollout.revealed_answer)] for rollout in rollouts],
        old_logps=False,
    )
    gains = scores.likelihood.diff(dim=1)
    return [row[: len(rollout.calls)].tolist() for row, rollout in zip(gains, rollouts, strict=True)]


def known_gains(name: str, rollouts: list[Rollout], likelihood: Likelihood) -> list[list[float]]:
    """The true gains of each rollout's turns."""
    game, found = GAMES[name][0], []
    for rollout in rollouts:
        secret = tuple(map(int, str(rollout.revealed_answer).split()))
        counts = candidates_left(game, secret, [read_guess(game, call.query) for call in rollout.calls])
        found.append(true_gains(counts, len(secret), likelihood))
    return found


class IdealReader:
    """Knows the rules, reads what the game said, and thinks every secret that is left equally likely (`LabelLogps`)."""

    def __init__(self, name: str) -> None:
        self.game, self.tokenizer = GAMES[name][0], open_tokenizer(f"a2tgpo:{name}")

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        logps = torch.zeros(labels.shape)
        for row, column in (labels >= 0).nonzero().tolist():
            said = int(self.tokenizer.decode(labels[row, column]))
            logps[row, column] = self._logp(self.tokenizer.decode(input_ids[row, :column]), said)
        return logps

    def _logp(self, text: str, said: int) -> float:
        heard = re.findall(r"<guess> ([\d ]+) </guess> <result> (.*?) </result>", text)
        begun = tuple(map(int, text.rpartition("\\boxed{")[2].split()))
        fitting = [code for code in self.game.secrets if all(self._fits(code, *both) for both in heard)]
        fitting = [code for code in fitting if code[: len(begun)] == begun]
        return math.log(sum(code[len(begun)] == said for code in fitting) / len(fitting))

    def _fits(self, code: tuple[int, ...], guess: str, answer: str) -> bool:
        made = read_guess(self.game, guess)
        if answer == "invalid" or made is None:
            return True
        said = self.game.feedback(made, code)
        words = said if isinstance(said, str) else "{} black {} white".format(*said)
        return words == answer or (answer == "correct" and made == code)


@pytest.mark.parametrize("likelihood", ["probability", "log_probability"])
@pytest.mark.parametrize("name", GAMES)
def test_an_ideal_reader_measures_the_true_gain(name: str, likelihood: Likelihood) -> None:
    """From TextArena's words through prompt, observations, turn boundaries, scaffold and the mean over the answer's
    tokens to the gain: with an ideal reader in the policy's place it is the closed form, won and refused guesses
    included, of differences of probabilities and of logarithms."""
    rollouts = play(name, 12)
    assert any(rollout.outcome == 1.0 for rollout in rollouts)
    assert any(call.query == REFUSED[name] for rollout in rollouts for call in rollout.calls)
    config = open_model(f"a2tgpo:{name}").config
    measured = measured_gains(name, rollouts, likelihood, IdealReader(name), config)
    for ours, true in zip(measured, known_gains(name, rollouts, likelihood), strict=True):
        assert ours == pytest.approx(true, abs=1e-5)


@pytest.mark.parametrize(("name", "least"), [("guess-number", 0.9), ("mastermind", 0.7)])
def test_the_shipped_policies_follow_the_truth(name: str, least: float) -> None:
    """At each of the first four turns of 120 games their gains correlate with the true ones."""
    rollouts = play(name, 120)
    model = open_model(f"a2tgpo:{name}", dtype="float32")
    measured = measured_gains(name, rollouts, "probability", plain_forward(model), model.config)
    known = known_gains(name, rollouts, "probability")
    for turn in range(4):
        pairs = [(ours[turn], true[turn]) for ours, true in zip(measured, known, strict=True) if turn < len(true)]
        assert np.corrcoef(np.array(pairs).T)[0, 1] > least, turn
