"""Define what answers the policy: tools, actions, and one episode's `reset` and `step`."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage

Row = Mapping[str, Any]
"""One row of the data set, by column."""

Observation = str | Sequence[Passage]
"""The policy reads this after its turn: text, or passages, of which each is cut to its own length."""


@dataclass(frozen=True)
class Tool:
    """Describe one thing that the policy can do.

    Attributes:
        name: as the policy writes it: the tag in the tag protocol, the function's name in native tool calls.
        description: one sentence for the policy.
        parameters: JSON schema of the arguments; the default is one string.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    )

    @property
    def schema(self) -> dict[str, Any]:
        """Return the form that chat templates take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Action:
    """Hold one call that the policy makes.

    Attributes:
        tool: name of the tool.
        text: the arguments as written: the text between the tags, or JSON.
        arguments: by parameter, where the protocol has parsed them; None where it is text alone.
    """

    tool: str
    text: str
    arguments: Mapping[str, Any] | None = None

    @property
    def said(self) -> str:
        """Return the one argument as text, however the protocol wrote it; more of them as they are written."""
        if self.arguments is None or len(self.arguments) != 1:
            return self.text
        (value,) = self.arguments.values()
        return value if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class StepResult:
    """Hold the environment's answer to one action.

    Attributes:
        observation: what the policy reads; empty text shows nothing.
        reward: of this turn; None where the environment gives none.
        done: ends the episode, without another turn.
        info: anything else, for logs.
    """

    observation: Observation = ""
    reward: float | None = None
    done: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class InvalidAction(ValueError):
    """Say that the policy asked for something impossible; it reads the message and goes on."""


class Environment(Protocol):
    """Answer one rollout at a time: the episode of one row.

    Both methods may be coroutines. Beside them an environment may have:

    - `tools`: a sequence of `Tool`; without it there is one, `act`, with the text as its argument.
    - `answer`: after the episode, the gold answer or its aliases where only the environment knows them.
    - `finish(text)`: given the turn that answers and calls nothing, before the outcome is asked for.
    - `success`: after the episode, whether it was solved, for evaluation; None where that cannot be said.
    - `get_reward()`: the outcome reward after the episode; without it the sum of the turns' rewards is.
    - `rows(n, seed)`: n different rows to train and evaluate on, for recipes; each with a `prompt`, text or messages.
    - `fork()`: a copy that goes on by itself, for trees and entropy branches.
    - `close()`: called once, when no further episode follows.

    An exception is the environment's failure: the rollout ends as `tool_failed`, is counted, and is excluded from the
    loss. `InvalidAction` is the policy's: it reads the message.
    """

    def reset(self, row: Row) -> str | Awaitable[str | None] | None:
        """Begin the episode of `row`; return what the policy reads at the end of the prompt, or None."""

    def step(self, action: Action) -> StepResult | Awaitable[StepResult]:
        """Answer one action."""


_NAME = re.compile(r"[^\s<>]+")

DEFAULT_TOOLS = (Tool("act", "Act in the environment."),)


def tools_of(environment: Any) -> tuple[Tool, ...]:
    """Return the environment's tools.

    Raises:
        TypeError: it has no `reset` or `step`, or `tools` holds something else.
    """
    for name in ("reset", "step"):
        if not callable(getattr(environment, name, None)):
            raise TypeError(
                f"{type(environment).__name__} has no method {name}; an environment needs reset(row) and step(action). "
                "For a class whose public methods are tools use ToolEnvironment.from_class"
            )
    tools = tuple(getattr(environment, "tools", DEFAULT_TOOLS))
    if not tools or not all(isinstance(tool, Tool) for tool in tools):
        raise TypeError(f"{type(environment).__name__}.tools is {tools!r}; give a sequence of a2tgpo Tool objects")
    names = [tool.name for tool in tools]
    if wrong := [name for name in names if not _NAME.fullmatch(str(name)) or names.count(name) > 1]:
        raise TypeError(
            f"{type(environment).__name__}.tools has the names {wrong}: name each tool once, without spaces and angle "
            "brackets, for the policy writes it as a tag"
        )
    return tools


def checked_step(result: Any, environment: object) -> StepResult:
    """Return `result` if it is one that a rollout can go on with, its reward as a float.

    Raises:
        ToolError: it is no `StepResult`, its observation neither text nor passages, its reward no finite number, its
            `done` neither true nor false, or its info no mapping.
    """
    name = type(environment).__name__
    if not isinstance(result, StepResult):
        raise ToolError(f"{name}.step returned {shortened(result)}; return a StepResult")
    shown = result.observation
    is_passages = isinstance(shown, (list, tuple)) and all(map(_is_passage, shown))
    if not isinstance(shown, str) and not is_passages:
        raise ToolError(f"{name}.step returned the observation {shortened(shown)}; return text or passages")
    reward = None if result.reward is None else finite_number(result.reward)
    if (reward is None) != (result.reward is None):
        raise ToolError(f"{name}.step returned the reward {shortened(result.reward)}; return a finite number or None")
    if not is_truth(result.done):
        raise ToolError(f"{name}.step returned done={shortened(result.done)}; return True or False")
    info = {} if result.info is None else result.info
    if not isinstance(info, Mapping):
        raise ToolError(f"{name}.step returned the info {shortened(info)}; return a mapping")
    return replace(result, reward=reward, done=bool(result.done), info=info)


def _is_passage(shown: Any) -> bool:
    return isinstance(shown, Passage) and isinstance(shown.title, str) and isinstance(shown.text, str)


def is_truth(value: Any) -> bool:
    """Tell whether `value` is true, false, 1 or 0, NumPy's among them."""
    try:
        return bool(value in (0, 1))
    except Exception:  # of an array, say
        return False


def finite_number(value: Any) -> float | None:
    """Return `value` as a float, None if it is no number, or none that is finite."""
    try:
        number = None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def checked_reset(shown: Any, environment: object) -> str | None:
    """Return what `reset` gave if it is text or None.

    Raises:
        ToolError: it is anything else.
    """
    if shown is None or isinstance(shown, str):
        return shown
    raise ToolError(f"{type(environment).__name__}.reset returned {shortened(shown)}; return text or None")


def shortened(value: Any) -> str:
    """Return the type of `value` and the beginning of how it is written, where it can be."""
    try:
        text = repr(value[:40]) if isinstance(value, (str, bytes)) else repr(value)
    except Exception:  # of a user's class
        text = "that cannot be written"
    return f"{type(value).__name__} {text[:80]}"
