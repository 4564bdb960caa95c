"""A module of a user's that recipes name: a number to guess, rows, who plays it, and what is no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from a2tgpo.environments import Action, InvalidAction, StepResult, Tool


class Number:
    """Guess a number; the right guess ends the episode and is success."""

    tools = (Tool("guess", "Guess the number."),)

    def __init__(self, most: int = 9) -> None:
        self.most = most
        self.answer: str | None = None
        self.success: bool | None = None

    def rows(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Number them, so that no two are equal."""
        return [{"prompt": f"Game {i}.", "secret": (i + seed) % self.most} for i in range(n)]

    def reset(self, row: Mapping[str, Any]) -> str:
        """Keep the secret."""
        self.answer, self.success = str(row["secret"]), False
        return f" It is below {self.most}."

    def step(self, action: Action) -> StepResult:
        """Compare."""
        if not action.said.isdigit():
            raise InvalidAction(f"{action.said!r} is no number")
        self.success = action.said == self.answer
        if self.success:
            return StepResult("right", 1.0, done=True)
        return StepResult("higher" if int(action.said) < int(self.answer or 0) else "lower", -0.1)


class Locked(Number):
    """Opens with a password."""

    def __init__(self, password: str) -> None:
        super().__init__()
        assert password == "hazel-and-ash"


class Counter:
    """A class as TRL's `environment_factory` takes it: public methods are tools."""

    def reset(self, **row: Any) -> None:
        """Begin."""
        self.total = 0

    def add(self, amount: int) -> str:
        """Add to the total.

        Args:
            amount: How much.
        """
        self.total += amount
        return f"the total is {self.total}"

    def get_reward(self) -> float:
        """Return the total."""
        return float(self.total)


class Stepping:
    """Has no reset."""

    def step(self, action: Action) -> StepResult:
        """Answer."""
        return StepResult("fine")


class Failing(Number):
    """Fails every call."""

    def step(self, action: Action) -> StepResult:
        """Fail."""
        raise RuntimeError("the game is broken")


class NeverBegins(Number):
    """Fails to begin."""

    def reset(self, row: Mapping[str, Any]) -> str:
        """Fail."""
        raise RuntimeError("no board")


def double(number: int) -> int:
    """Double a number.

    Args:
        number: Which.
    """
    return 2 * number


def doubles(n: int, seed: int) -> list[dict[str, Any]]:
    """Ask for doubles."""
    return [{"question": f"Twice {i + seed}?", "answer": str(2 * (i + seed))} for i in range(n)]


def same(n: int, seed: int) -> list[dict[str, Any]]:
    """Ask for one thing only."""
    return [{"question": "Twice 2?", "answer": "4"}] * n


def halve(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """Play `Number` by halving what is left: the first text read is what `reset` said, then an answer to each guess."""
    low, high = 0, int(said[0].split()[-1].rstrip(".")) - 1
    for answer in said[1:]:
        guess = (low + high) // 2
        low, high = (guess + 1, high) if answer == "higher" else (low, guess - 1)
    return f"<think> between {low} and {high} </think> <guess> {(low + high) // 2} </guess>"


number = 3
