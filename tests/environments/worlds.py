"""Small environments that tests play in: a number to guess, a corridor to walk, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from a2tgpo.environments import Action, InvalidAction, StepResult, Tool

GUESS = Tool("guess", "Guess the number.")


class Number:
    """Guess a number of the row; each guess earns its closeness, and the right one ends the episode."""

    tools = (GUESS,)

    def reset(self, row: Any) -> str:
        """Say how far the numbers go."""
        self.answer = str(row["secret"])
        return " It lies between 1 and 9."

    def step(self, action: Action) -> StepResult:
        """Compare."""
        if not action.text.isdigit():
            raise InvalidAction(f"{action.text!r} is no number")
        distance = int(self.answer) - int(action.text)
        if distance == 0:
            return StepResult("right", 1.0, done=True)
        return StepResult("higher" if distance > 0 else "lower", -abs(distance) / 9)

    def fork(self) -> Number:
        """Copy."""
        copy = Number()
        copy.answer = self.answer
        return copy


class AsyncNumber(Number):
    """The same with coroutines."""

    async def reset(self, row: Any) -> str:  # type: ignore[override]
        """Say how far the numbers go."""
        await asyncio.sleep(0)
        return super().reset(row)

    async def step(self, action: Action) -> StepResult:  # type: ignore[override]
        """Compare."""
        await asyncio.sleep(0)
        return super().step(action)


class Misbehaving:
    """Does what the row says: in `reset` or `step`, raise, hang, or return something."""

    released = threading.Event()

    def reset(self, row: Any) -> Any:
        """Misbehave if told to do so here."""
        self.row = row
        return self._do() if row.get("where") == "reset" else None

    def step(self, action: Action) -> Any:
        """Misbehave if told to do so here."""
        return self._do() if self.row.get("where") == "step" else StepResult("fine")

    def _do(self) -> Any:
        does = self.row["does"]
        if isinstance(does, BaseException):
            raise does
        if does == "hang":
            self.released.wait(30)
        return does


class Slow:
    """Answers after the seconds that the action names; counts how many answer at a time."""

    running, most = 0, 0
    lock = threading.Lock()

    def reset(self, row: Any) -> None:
        """Begin."""

    def step(self, action: Action) -> StepResult:
        """Sleep."""
        with Slow.lock:
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
        time.sleep(float(action.text))
        with Slow.lock:
            Slow.running -= 1
        return StepResult(action.text)
