"""Open what a recipe names: an environment by its dotted path, functions and MCP servers as tools, or all of them."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.calls import CallLimits
from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, tools_of
from a2tgpo.environments.episodes import EnvironmentPool, EnvironmentSource
from a2tgpo.environments.loading import load_object
from a2tgpo.environments.mcp_tools import MCPConnection, MCPEnvironment
from a2tgpo.environments.tool_environment import ToolEnvironment
from a2tgpo.errors import A2TGPOError, RecipeError

logger = logging.getLogger(__name__)

MakeRows = Callable[[int, int], Iterable[Mapping[str, Any]]]
"""Make so many rows, all different, by a seed."""

_MCP_KEYS = {"mcp", "only", "environment"}


@dataclass(frozen=True)
class OpenEnvironment:
    """Hold an environment that a recipe named.

    Attributes:
        source: opens its episodes.
        rows: makes rows for it; None where it has no method `rows`.
        reveals_answer: it has an attribute `answer`.
        rewards: it is more than tools, which give no reward.
    """

    source: EnvironmentSource
    rows: MakeRows | None
    reveals_answer: bool
    rewards: bool
    connections: tuple[MCPConnection, ...] = ()

    def close(self) -> None:
        """Close the environments and the connections; the run is over."""
        for closing in (self.source, *self.connections):
            try:
                getattr(closing, "close", lambda: None)()
            except Exception as error:  # the run is done, and keeps what it has
                logger.warning("%s could not be closed: %s", type(closing).__name__, error)


class Toolbox:
    """Offer the tools of several environments in one episode (an `Environment`).

    Reward, answer and success are those of the first part that has them; it can be copied where every part can.

    Raises:
        ValueError: two tools have one name.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = list(parts)
        self._owner: dict[str, Any] = {}
        self.tools = tuple(tool for part in parts for tool in tools_of(part))
        for part in parts:
            for tool in tools_of(part):
                if tool.name in self._owner:
                    raise ValueError(f"two tools are named {tool.name}; rename one, or choose a server's by `only`")
                self._owner[tool.name] = part
        if all(callable(getattr(part, "fork", None)) for part in parts):
            self.fork = self._fork
        for name in ("finish", "get_reward", "rows"):
            found = next((getattr(part, name) for part in parts if callable(getattr(part, name, None))), None)
            if found is not None:
                setattr(self, name, found)

    @property
    def answer(self) -> Any:
        """Return the answer that a part reveals."""
        return next((found for part in self._parts if (found := getattr(part, "answer", None)) is not None), None)

    @property
    def success(self) -> Any:
        """Return what a part says of the episode."""
        return next((found for part in self._parts if (found := getattr(part, "success", None)) is not None), None)

    def reset(self, row: Row) -> str | Awaitable[str | None] | None:
        """Begin an episode in every part."""
        shown = [part.reset(row) for part in self._parts]
        return _gathered(shown) if any(map(inspect.isawaitable, shown)) else _joined(shown)

    def step(self, action: Action) -> StepResult | Awaitable[StepResult]:
        """Let the part answer whose tool it is.

        Raises:
            InvalidAction: there is no such tool, or the part refuses.
        """
        if action.tool not in self._owner:
            raise InvalidAction(f"there is no tool {action.tool}; there are {', '.join(self._owner)}")
        answer: StepResult | Awaitable[StepResult] = self._owner[action.tool].step(action)
        return answer

    def close(self) -> Awaitable[str | None] | None:
        """Close the parts that can be."""
        closed = [part.close() for part in self._parts if callable(getattr(part, "close", None))]
        return _gathered(closed) if any(map(inspect.isawaitable, closed)) else None

    def _fork(self) -> Toolbox:
        return Toolbox([part.fork() for part in self._parts])


def open_environment(
    path: str | None,
    arguments: Mapping[str, Any],
    tools: Sequence[str | Mapping[str, Any]],
    limits: CallLimits,
) -> OpenEnvironment:
    """Open the environment at a dotted path, with more tools beside its own, or the tools alone.

    What `path` names is a class or function that makes, of `arguments`, an `Environment`, an `EnvironmentSource`, or an
    object whose public methods are tools, as TRL's `environment_factory` takes them.

    Args:
        path: `package.module:Name`; None for the tools alone.
        arguments: of the class or function, by name.
        tools: functions by dotted path, and MCP servers as mappings: `mcp`, a URL or a command, and perhaps `only`, the
            names of its tools, and `environment`, variables of the command's process: a mapping, or names of one's own.
        limits: of the calls.

    Raises:
        RecipeError: a path leads nowhere, or to something that is no environment and no tool.
        ToolError: an MCP server does not answer.
        MissingExtra: a package is not installed.
    """
    make = None if path is None else _maker(path, arguments)
    first: Any = None if make is None else make()
    if make is not None and _is_source(first):
        if tools:
            raise RecipeError(f"environment {path!r} plays all rollouts itself, and takes no tools beside it")
        return OpenEnvironment(first, getattr(first, "rows", None), hasattr(first, "answer"), rewards=True)
    functions = [_function(tool) for tool in tools if isinstance(tool, str)]
    connections: list[MCPConnection] = []
    servers = []
    try:
        for tool in tools:
            if not isinstance(tool, str):
                connections.append(_connection(tool, limits))
                servers.append((connections[-1], tool.get("only")))

        waiting = [first]  # it may be costly, and is the first of the pool

        def parts() -> list[Any]:
            made: list[Any] = [] if make is None else [_environment(waiting.pop() if waiting else make())]
            made += [ToolEnvironment.from_functions(functions)()] if functions else []
            return made + [MCPEnvironment.of(connection, only) for connection, only in servers]

        def one() -> Any:
            made = parts()
            return made[0] if len(made) == 1 else Toolbox(made)

        try:
            pool = EnvironmentPool(one, limits)
        except A2TGPOError:
            raise
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{_told(path, tools)}: {error}") from error
    except BaseException:
        for connection in connections:
            connection.close()
        raise
    rows = getattr(first, "rows", None)
    return OpenEnvironment(
        pool, rows if callable(rows) else None, hasattr(first, "answer"), path is not None, tuple(connections)
    )


def _told(path: str | None, tools: Sequence[Any]) -> str:
    return f"environment {path!r}" if path is not None else f"tools {list(tools)!r}"


def _maker(path: str, arguments: Mapping[str, Any]) -> Callable[[], Any]:
    try:
        made = load_object(path)
    except ValueError as error:
        raise RecipeError(f"environment {error}") from error
    if not callable(made):
        raise RecipeError(
            f"environment {path!r} is a {type(made).__name__}; give a class, or a function that makes one"
        )

    def make() -> Any:
        try:
            return made(**arguments)
        except A2TGPOError:
            raise
        except Exception as error:
            told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            name = getattr(made, "__name__", path)
            raise RecipeError(f"environment {path!r}: {type(error).__name__} from {name}({told}): {error}") from error

    return make


def _is_source(made: Any) -> bool:
    return callable(getattr(made, "open", None)) and hasattr(made, "tools")


def _environment(made: Any) -> Any:
    """Return an environment as it is, or one around an object whose methods are tools."""
    return made if callable(getattr(made, "step", None)) else ToolEnvironment.from_instance(made)


def _function(path: str) -> Callable[..., Any]:
    try:
        found = load_object(path)
    except ValueError as error:
        raise RecipeError(f"tool {error}") from error
    if not inspect.isroutine(found):
        raise RecipeError(f"tool {path!r} is a {type(found).__name__}; give a function")
    return found


def _connection(tool: Mapping[str, Any], limits: CallLimits) -> MCPConnection:
    if unknown := sorted(set(tool) - _MCP_KEYS):
        raise RecipeError(f"tools: {unknown} in {dict(tool)!r}; an MCP server has the keys {sorted(_MCP_KEYS)}")
    server = tool.get("mcp")
    if isinstance(server, str) and not server.startswith(("http://", "https://")):
        server = shlex.split(server)
    if not server or not isinstance(server, (str, list)):
        raise RecipeError(f"tools: mcp={server!r}; give a server's URL, or the command that starts one")
    variables = _variables(tool.get("environment") or {})
    if isinstance(server, list):
        if server[0] == "python":
            # The interpreter that runs the recipe, and what it finds: another may lack the server's packages.
            server = [sys.executable, *server[1:]]
            variables = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ} | variables
        server = list(map(str, server))
    return MCPConnection(server, variables, limits.timeout_s)


def _variables(given: Any) -> dict[str, str]:
    """Return a server's variables: those of a mapping, or one's own of these names, which keeps secrets out of recipes.

    Raises:
        RecipeError: it is neither, or a variable is not set.
    """
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise RecipeError(f"tools: environment={given!r}; give a mapping, or a list of the names of variables")
    if unset := [name for name in given if name not in os.environ]:
        raise RecipeError(f"tools: environment: {', '.join(unset)} not set; export it, or give a mapping")
    return {name: os.environ[name] for name in given}


def _joined(shown: Sequence[str | None]) -> str | None:
    return "\n".join(text for text in shown if text) or None


async def _gathered(shown: Sequence[Any]) -> str | None:
    return _joined([await each if inspect.isawaitable(each) else each for each in shown])
