"""Classes whose public methods are tools, as TRL takes them: what the policy reads, and whose fault an error is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from a2tgpo.environments import Action, InvalidAction, StepResult, ToolEnvironment
from a2tgpo.environments.environment import tools_of
from a2tgpo.errors import ToolError


class Lake:
    """A corridor of four cells as a class written for TRL's `environment_factory`."""

    def __init__(self, length: int = 4) -> None:
        self.length = length

    def reset(self, **row: Any) -> str:
        self.at, self.done, self.row = 0, False, row
        return " You are at 0."

    def move(self, steps: int) -> str:
        """Move along.

        Args:
            steps: How far.

        Returns:
            Where you are.
        """
        if self.done:
            raise ValueError("the game is over")
        self.at += steps
        self.done = self.at >= self.length - 1
        return f"You are at {self.at}."

    async def look(self, where: str, how: str = "well") -> dict[str, Any]:
        """Look around.

        Args:
            where: The direction.
            how: The manner.

        Returns:
            What is seen.
        """
        return {"where": where, "how": how, "at": self.at}

    def get_reward(self) -> float:
        return float(self.at)

    @property
    def broken(self) -> None:
        raise RuntimeError("properties are not looked at")


async def step(environment: ToolEnvironment, tool: str, text: str, arguments: Any = None) -> StepResult:
    """The environment's answer, awaited where it has to be."""
    result = environment.step(Action(tool, text, arguments))
    return result if isinstance(result, StepResult) else await result


def run(coroutine: Any) -> Any:
    """What a coroutine comes to."""
    import asyncio

    return asyncio.run(coroutine)


def lake(**row: Any) -> ToolEnvironment:
    """A corridor whose episode has begun."""
    environment = ToolEnvironment.from_class(Lake, length=4)()
    assert environment.reset(row) == " You are at 0."
    return environment


def test_public_methods_are_the_tools() -> None:
    """Their schemas are made of hints and docstrings; `reset`, `get_reward` and properties are none; every column
    reaches `reset`."""
    environment = lake(secret=3)
    assert [tool.name for tool in tools_of(environment)] == ["look", "move"]
    move = next(tool for tool in environment.tools if tool.name == "move")
    assert move.parameters["properties"] == {"steps": {"type": "integer", "description": "How far."}}
    assert move.schema["function"]["description"].startswith("Move along")
    assert environment.instance.row == {"secret": 3}


def test_calls_from_tags_and_from_native_tool_calls() -> None:
    """One argument is the text itself, converted; several are a JSON object; parsed arguments go as they are. Lists and
    dictionaries are shown as JSON; `done` ends the episode and `get_reward` is the outcome."""
    environment = lake()
    assert run(step(environment, "move", " 2 ")) == StepResult("You are at 2.")
    seen = run(step(environment, "look", '{"where": "north"}'))
    assert json.loads(seen.observation) == {"where": "north", "how": "well", "at": 2}
    assert run(step(environment, "move", "", {"steps": 1})) == StepResult("You are at 3.", done=True)
    assert environment.get_reward() == 3.0


@pytest.mark.parametrize(
    ("tool", "text", "arguments", "says"),
    [
        ("fly", "", None, "there is no tool fly; there are look, move"),
        ("move", "far", None, "steps is 'far'; it must be of type integer"),
        ("move", "", {"pace": 1}, "move: missing a required argument"),
        ("look", "north", None, "look takes a JSON object with where, how"),
        ("look", "[1]", None, "look takes a JSON object"),
    ],
)
def test_what_the_tool_does_not_have_is_the_policys_fault(tool: str, text: str, arguments: Any, says: str) -> None:
    """The policy reads the message."""
    with pytest.raises(InvalidAction, match=says):
        run(step(lake(), tool, text, arguments))


def failing(error: BaseException) -> ToolEnvironment:
    """One tool, which raises."""

    def look(at: str) -> str:
        """Look.

        Args:
            at: What to look at.
        """
        raise error

    return ToolEnvironment.from_functions([look])()


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), ZeroDivisionError("no"), SyntaxError("no")])
def test_refusals_are_read_by_the_policy(error: Exception) -> None:
    """What a tool raises about its arguments is an observation, as in TRL's loop."""
    with pytest.raises(InvalidAction, match=r"look: .*no"):
        run(step(failing(error), "look", "x"))


@pytest.mark.parametrize("error", [RuntimeError("down"), OSError("down"), TypeError("down"), MemoryError("down")])
def test_other_exceptions_are_failures(error: Exception) -> None:
    """They pass through, so that the rollout is excluded from the loss."""
    with pytest.raises(type(error), match="down"):
        run(step(failing(error), "look", "x"))


def test_a_reply_that_the_tool_cannot_read_is_a_failure() -> None:
    """JSON and encodings that do not parse are `ValueError`s by class, and no fault of the policy."""
    for error in (json.JSONDecodeError("Expecting value", "", 0), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")):
        with pytest.raises(ToolError, match="look: "):
            run(step(failing(error), "look", "x"))


@pytest.mark.parametrize("result", [None, b"x", bytearray(b"x")])
def test_what_no_policy_can_read_is_a_failure(result: Any) -> None:
    """None and bytes, by the tool's name."""

    def look() -> Any:
        """Look."""
        return result

    with pytest.raises(ToolError, match="tool look returned"):
        run(step(ToolEnvironment.from_functions([look])(), "look", ""))


def test_a_tool_may_give_a_turns_reward() -> None:
    """A `StepResult` goes as it is."""

    def look() -> StepResult:
        """Look."""
        return StepResult("a key", 0.5, done=True)

    assert run(step(ToolEnvironment.from_functions([look])(), "look", "")) == StepResult("a key", 0.5, done=True)


def test_reset_is_optional_and_takes_what_it_names() -> None:
    """A class without it keeps its state; one that names columns gets these alone."""

    class Named:
        def reset(self, secret: int) -> None:
            self.secret = secret

        def look(self) -> str:
            """Look."""
            return "a key"

    class Without:
        def look(self) -> str:
            """Look."""
            return "a key"

    named = ToolEnvironment.from_class(Named)()
    assert named.reset({"secret": 3, "prompt": "Q?"}) is None and named.instance.secret == 3
    assert ToolEnvironment.from_class(Without)().reset({"prompt": "Q?"}) is None


def test_tools_without_a_schema_and_classes_without_tools_are_refused() -> None:
    """By name, with what to write."""

    class Undescribed:
        def look(self, at):  # type: ignore[no-untyped-def]
            return at

    class Nothing:
        def _hidden(self) -> None: ...

    with pytest.raises(ValueError, match=r"tool look has no schema.*docstring"):
        ToolEnvironment.from_class(Undescribed)()
    with pytest.raises(ValueError, match="Nothing has no tool"):
        ToolEnvironment.from_class(Nothing)()
