"""Play a single-player game of TextArena: its words are what the policy reads, its secret is the answer."""

from __future__ import annotations

import copy
import random
import threading
from typing import Any

from a2tgpo.environments.environment import Action, Row, StepResult, Tool
from a2tgpo.errors import ToolError, needs_extra

SECRETS = ("game_number", "secret_code")
"""GuessTheNumber and Mastermind keep here what is to be guessed."""

_drawing = threading.Lock()


class TextArenaGame:
    """Play one game (an `Environment`); the row's `seed` decides what is to be guessed.

    The reward comes with the end: 1 for a win, otherwise what the game gives for how near the last guess was.

    Args:
        game: name in TextArena, with `-raw` for the game without wrappers.
        partial_credit: with False a game that is not won earns 0.
        options: of the game, such as `max_number`.

    Raises:
        MissingExtra: the `textarena` package is not installed.
    """

    tools = (Tool("guess", "Make your guess, such as 7, or 2 1 4 5."),)

    def __init__(self, game: str = "GuessTheNumber-v0-raw", *, partial_credit: bool = True, **options: Any) -> None:
        with needs_extra("games", f"the game {game}"):
            import textarena
        self._game = textarena.make(game, **options)
        self._partial_credit = partial_credit
        self.answer: str | None = None
        self.success = False
        self.reward = 0.0

    @staticmethod
    def rows(n: int, seed: int) -> list[dict[str, Any]]:
        """Return `n` rows, each with a seed of its own."""
        return [{"prompt": "Play.", "seed": number} for number in range(seed * 10**6, seed * 10**6 + n)]

    def reset(self, row: Row) -> str:
        """Draw the secret by the row's `seed`, so that all rollouts of a prompt play the same game."""
        seed = row.get("seed")
        if not isinstance(seed, int):
            raise ToolError(f"the row's seed is {seed!r}; give the data set a column seed of whole numbers")
        # The game seeds and draws from Python's own generator, which is not its to change.
        with _drawing:
            state = random.getstate()
            try:
                self._game.reset(num_players=1, seed=seed)
            finally:
                random.setstate(state)
        held = self._game.state.game_state
        secret = next((held[name] for name in SECRETS if name in held), None)
        self.answer = (
            " ".join(map(str, secret)) if isinstance(secret, list) else None if secret is None else str(secret)
        )
        self.success, self.reward = False, 0.0
        return "\n" + self._said()

    def step(self, action: Action) -> StepResult:
        """Make one guess."""
        text = action.said if "[" in action.said else f"[{action.said.strip()}]"
        done, _ = self._game.step(text)
        said = self._said()
        if not done:
            return StepResult(said)
        rewards, info = self._game.close()
        reward = float(rewards[0])
        self.success = reward >= 1.0
        self.reward = reward if self._partial_credit or self.success else 0.0
        # The reason for losing names the secret, which the last guess did not find out.
        return StepResult(said or str(info[0].get("reason", "")), self.reward, done=True)

    def get_reward(self) -> float:
        """Return the game's reward, 0 for one that was not played to its end."""
        return self.reward

    def fork(self) -> TextArenaGame:
        """Return a copy that plays on by itself."""
        return copy.deepcopy(self)

    def _said(self) -> str:
        _, messages = self._game.get_observation()
        own = 0
        return "\n".join(str(text) for sender, text, _ in messages if sender != own)
