"""Make an environment of a class whose public methods are tools, as TRL's `environment_factory` takes them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, Tool
from a2tgpo.errors import ToolError

NOT_TOOLS = ("reset", "get_reward", "fork", "close", "rows")
"""Public methods of such a class that the policy cannot call."""

REFUSALS = (ValueError, LookupError, ArithmeticError, SyntaxError)
"""Exceptions by which a tool refuses what the policy asked for: it reads the message. Others are the tool's failure."""


class ToolEnvironment:
    """Call the methods of an object as tools (an `Environment`).

    A tool's text, number, list or dictionary is what the policy reads. A tool may return a `StepResult` to give a
    turn's reward or to end the episode; an attribute `done` of the object that is true after a call ends it too.

    A `ValueError`, `LookupError`, `ArithmeticError` or `SyntaxError` is taken as a refusal, which the policy reads as
    an observation; so is a name or an argument that the tool does not have. Every other exception, and a result of
    bytes or None, is a failure, which ends the rollout and excludes it from the loss.

    Args:
        tools: functions by name, with type hints and a docstring whose `Args:` name each parameter.
        instance: the object that holds their state, with an optional `reset(**row)`, `get_reward()` and `fork()`.

    Raises:
        ValueError: there is no tool, or one lacks the docstring or hints that its schema is made of.
    """

    def __init__(self, tools: Mapping[str, Callable[..., Any]], instance: Any = None) -> None:
        if not tools:
            name = "ToolEnvironment" if instance is None else type(instance).__name__
            raise ValueError(f"{name} has no tool; give it at least one public method")
        self._functions = dict(tools)
        self.instance = instance
        self.tools = tuple(_tool(name, function) for name, function in tools.items())
        self._described = {tool.name: tool for tool in self.tools}
        if callable(getattr(instance, "fork", None)):
            self.fork = self._fork
        for name in ("get_reward", "close", "rows"):
            if callable(getattr(instance, name, None)):
                setattr(self, name, getattr(instance, name))

    @classmethod
    def from_class(cls, made: Callable[..., Any], **arguments: Any) -> Callable[[], ToolEnvironment]:
        """Return a factory of environments around `made(**arguments)`, a class written for TRL or a function."""
        return lambda: cls.from_instance(made(**arguments))

    @classmethod
    def from_functions(cls, functions: Sequence[Callable[..., Any]]) -> Callable[[], ToolEnvironment]:
        """Return a factory of environments whose tools are `functions`, which all episodes share."""
        tools = {function.__name__: function for function in functions}
        return lambda: cls(tools)

    @classmethod
    def from_instance(cls, instance: Any) -> ToolEnvironment:
        """Make the public methods of `instance` the tools."""
        # Of the class: looking at the instance would evaluate its properties.
        names = [name for name, _ in inspect.getmembers(type(instance), inspect.isfunction)]
        public = [name for name in names if not name.startswith("_") and name not in NOT_TOOLS]
        return cls({name: getattr(instance, name) for name in public}, instance)

    @property
    def answer(self) -> Any:
        """Return the answer that the object reveals."""
        return getattr(self.instance, "answer", None)

    @property
    def success(self) -> Any:
        """Return what the object says of the episode."""
        return getattr(self.instance, "success", None)

    def reset(self, row: Row) -> str | Awaitable[str | None] | None:
        """Begin an episode; an object without `reset` keeps its state."""
        reset = getattr(self.instance, "reset", None)
        return reset(**_accepted(reset, row)) if callable(reset) else None

    def step(self, action: Action) -> StepResult | Awaitable[StepResult]:
        """Call the tool that the policy named.

        Raises:
            InvalidAction: the tool refuses, or there is no such tool or argument.
            ToolError: the tool failed, or returned what no policy can read.
        """
        function = self._functions.get(action.tool)
        if function is None:
            raise InvalidAction(f"there is no tool {action.tool}; there are {', '.join(self._functions)}")
        arguments = arguments_of(action, self._described[action.tool])
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise InvalidAction(f"{action.tool}: {error}") from error
        with _refusals(action.tool):
            result = function(**arguments)
        if inspect.isawaitable(result):
            return self._awaited(action.tool, result)
        return self._result(action.tool, result)

    async def _awaited(self, tool: str, result: Awaitable[Any]) -> StepResult:
        with _refusals(tool):
            value = await result
        return self._result(tool, value)

    def _result(self, tool: str, result: Any) -> StepResult:
        if isinstance(result, StepResult):
            return result
        done = bool(getattr(self.instance, "done", False))
        if result is None and done:
            return StepResult(done=True)
        return StepResult(_text(tool, result), done=done)

    def _fork(self) -> ToolEnvironment:
        return type(self).from_instance(self.instance.fork())


def _tool(name: str, function: Callable[..., Any]) -> Tool:
    from transformers.utils import get_json_schema

    try:
        described = get_json_schema(function)["function"]
    except Exception as error:
        raise ValueError(
            f"tool {name} has no schema: {error}; give it type hints and a docstring with a line for each argument "
            "under Args:"
        ) from error
    return Tool(name, described.get("description", ""), described.get("parameters", {}))


def arguments_of(action: Action, tool: Tool) -> dict[str, Any]:
    """Return an action's arguments by parameter, parsed from its text where its protocol has not done it.

    A tool's one parameter is the text itself, converted to its type; several are a JSON object.

    Raises:
        InvalidAction: the text is neither, or an argument is of another type than the tool says.
    """
    parameters = tool.parameters.get("properties", {})
    if action.arguments is not None:
        return {name: _typed(value, parameters.get(name) or {}, name) for name, value in action.arguments.items()}
    if not parameters:
        return {}
    if len(parameters) == 1:
        ((name, schema),) = parameters.items()
        return {name: _typed(action.text, schema, name)}
    try:
        arguments = json.loads(action.text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidAction(f"{tool.name} takes a JSON object with {', '.join(parameters)}")
    return {name: _typed(value, parameters.get(name) or {}, name) for name, value in arguments.items()}


def _accepted(function: Callable[..., Any], row: Row) -> dict[str, Any]:
    """Keep the columns that `function` takes; all where it takes any."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(row)
    return {name: value for name, value in row.items() if name in parameters}


def _converted(text: str, schema: Mapping[str, Any], name: str) -> Any:
    kind = schema.get("type")
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidAction(f"{name} is {text[:80]!r}; it must be of type {kind}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _typed(value: Any, schema: Mapping[str, Any], name: str) -> Any:
    """Return an argument if it is of its type, text as what it spells; a type that has no such name is not checked."""
    kind = schema.get("type")
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    if types is None or (value is None and schema.get("nullable")):
        return value
    if isinstance(value, types) and (isinstance(value, bool) <= (kind == "boolean")):
        return value
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return _typed(_converted(value, schema, name), schema, name)
    if kind == "string" and isinstance(value, int | float):
        return str(value)
    raise InvalidAction(f"{name} is {json.dumps(value, default=str)[:80]}; it must be of type {kind}")


@contextmanager
def _refusals(tool: str) -> Iterator[None]:
    """Turn a tool's refusals into `InvalidAction`."""
    try:
        yield
    except (InvalidAction, ToolError):
        raise
    except (UnicodeError, json.JSONDecodeError) as failure:
        # Of a reply that the tool could not read, not of what the policy wrote.
        raise ToolError(f"{tool}: {type(failure).__name__}: {failure}") from failure
    except REFUSALS as refusal:
        raise InvalidAction(f"{tool}: {str(refusal) or type(refusal).__name__}") from refusal


def _text(tool: str, result: Any) -> str:
    if isinstance(result, str):
        return result
    if result is None or isinstance(result, (bytes, bytearray)):
        raise ToolError(f"tool {tool} returned {type(result).__name__}; return text, a number, a list or a dictionary")
    return json.dumps(result, ensure_ascii=False, default=str)
