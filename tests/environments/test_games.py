"""Games that nobody here wrote: TextArena's GuessTheNumber and Mastermind, and Gymnasium's FrozenLake in words."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from a2tgpo.environments import Action, CallLimits, EnvironmentPool, InvalidAction
from a2tgpo.errors import ToolError
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.types import Rollout, Termination
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine

TOKENIZER = qwen_tokenizer()


def play(factory: Any, scripts: list[list[str]], rows: list[dict[str, Any]]) -> list[Rollout]:
    """One rollout for each script."""
    limits = RolloutLimits(max_searches=20, max_prompt_tokens=4096)
    agent = Agent(TOKENIZER, EnvironmentPool(factory, CallLimits(patience_s=math.inf)), limits)
    return agent.run(["Play."] * len(rows), ScriptedEngine(TOKENIZER, scripts), rows=rows)


def call(tool: str, text: str) -> str:
    """A turn that calls a tool."""
    return f"<think> a </think> <{tool}> {text} </{tool}>"


class TestTextArena:
    """Words, hints, secret and reward are the game's own."""

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("textarena", reason="pip install 'a2tgpo[games]'")

    def game(self, name: str = "GuessTheNumber-v0-raw", **options: Any) -> Any:
        """A game."""
        from a2tgpo.environments.textarena_game import TextArenaGame

        return TextArenaGame(name, **options)

    def test_halving_finds_the_number(self) -> None:
        """Guesses that halve what is left by the game's hints win within log₂ 20 turns, whatever the seed."""
        for seed in range(12):
            game = self.game()
            assert "between 1 and 20" in game.reset({"seed": seed})
            low, high = 1, 20
            for _ in range(5):
                guess = (low + high) // 2
                result = game.step(Action("guess", str(guess)))
                if result.done:
                    break
                assert ("higher" in result.observation) != ("lower" in result.observation)
                low, high = (guess + 1, high) if "higher" in result.observation else (low, guess - 1)
            assert result.done and result.reward == 1.0 == game.get_reward()
            assert game.answer == str(guess)

    def test_rollouts_of_a_prompt_play_the_same_game(self) -> None:
        """The row's seed decides the secret; Python's own generator is as it was; refused moves are not the end."""
        secrets = []
        for _ in range(2):
            random.seed(1)
            game = self.game()
            game.reset({"seed": 5})
            secrets.append((game.answer, random.random()))
        random.seed(1)
        assert secrets == [(secrets[0][0], random.random())] * 2
        scripts = [[call("guess", "banana"), call("guess", str(secrets[0][0]))]] * 2
        for rollout in play(self.game, scripts, [{"seed": 5}] * 2):
            assert rollout.termination is Termination.ENVIRONMENT_DONE
            assert rollout.turn_rewards == [None, 1.0] and rollout.outcome == 1.0
            assert rollout.revealed_answer == secrets[0][0]
            assert "invalid move" in TOKENIZER.decode(rollout.completion_ids)

    def test_mastermind(self) -> None:
        """Pegs for a guess, the code as the answer, and a fork that plays on by itself."""
        game = self.game("Mastermind-v0-raw")
        game.reset({"seed": 3})
        copied = game.fork()
        result = game.step(Action("guess", "1 2 3 4"))
        assert "black peg(s)" in result.observation and not result.done
        assert copied.step(Action("guess", copied.answer)).reward == 1.0
        assert game.get_reward() == 0.0 and not game.step(Action("guess", "[4 3 2 1]")).done

    def test_a_row_without_a_seed_is_refused(self) -> None:
        """Otherwise each rollout of a prompt would play another game."""
        with pytest.raises(ToolError, match="the row's seed is None"):
            self.game().reset({})


class TestFrozenLake:
    """Moves by name, the picture as text, the environment's own rewards and ends."""

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("gymnasium", reason="pip install 'a2tgpo[games]'")

    def lake(self) -> Any:
        """A lake that does not slip."""
        from a2tgpo.environments.gymnasium_text import FrozenLake

        return FrozenLake()

    def test_the_way_to_the_goal_and_into_a_hole(self) -> None:
        """Six moves around the holes earn 1 at the last; a move into a hole ends the episode with 0."""
        way = ["down", "down", "right", "right", "down", "right"]
        won, lost = play(
            self.lake, [[call("move", m) for m in way], [call("move", "Down"), call("move", "right")]], [{}] * 2
        )
        assert won.termination is lost.termination is Termination.ENVIRONMENT_DONE
        assert won.turn_rewards == [0.0] * 5 + [1.0] and won.outcome == 1.0
        assert lost.turn_rewards == [0.0, 0.0] and lost.outcome == 0.0
        assert "[S]FFF\nFHFH\nFFFH\nHFFG" in TOKENIZER.decode(won.prompt_ids)
        assert "SFFF\n[F]HFH" in TOKENIZER.decode(won.completion_ids)

    def test_a_move_that_has_no_name_is_refused(self) -> None:
        """With those that there are; the player stays where it was."""
        lake = self.lake()
        lake.reset({})
        with pytest.raises(InvalidAction, match="no action 'north'; there are left, down, right, up"):
            lake.step(Action("move", "north"))
        copied = lake.fork()
        lake.step(Action("move", "down"))
        assert "[S]" not in lake.step(Action("move", "down")).observation
        assert "SFFF\n[F]" in copied.step(Action("move", "down")).observation
