"""Play the environments of OpenEnv servers, through OpenEnv's own clients."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from urllib3 import request
from urllib3.exceptions import HTTPError

from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, Tool
from a2tgpo.environments.tool_environment import arguments_of
from a2tgpo.files import parse_json

_SCHEMA_TIMEOUT_S = 10.0
_NOT_SHOWN = ("done", "reward", "metadata")
"""Fields of every observation that the policy does not read: the first two reach its credit."""


class OpenEnvEnvironment:
    """Play the episodes of one session of an OpenEnv server (an `Environment`).

        from openenv.core import GenericEnvClient

        EnvironmentPool(lambda: OpenEnvEnvironment(GenericEnvClient("http://127.0.0.1:8000")))

    One tool, `act`, takes the fields of the server's action. What the server finds invalid about an action the policy
    reads; any other error of server or connection is the environment's failure.

    Args:
        client: an `EnvClient`, of a session of its own: a `GenericEnvClient`, or that of an environment's package.
        action: makes the client's action of the arguments: `dict` for a `GenericEnvClient`, else its action's class.
        tool: what the policy calls; None makes one of the action's schema, which the server publishes.
        show: turns an observation into what the policy reads; None for its one text, or JSON of what it holds.
        reset_columns: columns of the row that the server's `reset` takes, where the row has them.

    Raises:
        ValueError: no `tool`, and the server does not say what its actions are.
    """

    def __init__(
        self,
        client: Any,
        *,
        action: Callable[..., Any] = dict,
        tool: Tool | None = None,
        show: Callable[[Any], str] | None = None,
        reset_columns: Sequence[str] = ("seed", "episode_id"),
    ) -> None:
        self.client = client
        self._action, self._show, self._reset_columns = action, show or as_text, tuple(reset_columns)
        self._tool = tool or published_tool(str(getattr(client, "base_url", None) or ""))
        self.tools = (self._tool,)

    async def reset(self, row: Row) -> str | None:
        """Begin an episode with the row's seed, or whatever else of it the server's `reset` takes."""
        given = {name: row[name] for name in self._reset_columns if row.get(name) is not None}
        result = await _value(self.client.reset(**given))
        text = self._show(result.observation)
        return f"\n{text}" if text else None

    async def step(self, action: Action) -> StepResult:
        """Send one action.

        Raises:
            InvalidAction: the action lacks a field, has one that there is not, or a value of the wrong kind.
        """
        arguments = arguments_of(action, self._tool)
        try:
            made = self._action(**arguments)
        except (TypeError, ValueError) as error:
            raise InvalidAction(f"{self._tool.name}: {error}") from error
        try:
            result = await _value(self.client.step(made))
        except RuntimeError as error:
            if "VALIDATION_ERROR" in str(error):
                fields = ", ".join(self._tool.parameters.get("properties", {}))
                raise InvalidAction(f"{self._tool.name} takes {fields}; {error}") from error
            raise
        reward = None if result.reward is None else float(result.reward)
        return StepResult(self._show(result.observation), reward, done=bool(result.done))

    async def close(self) -> None:
        """End the session."""
        await _value(self.client.close())


def as_text(observation: Any) -> str:
    """Return the one text that an observation holds, or JSON of all it holds; nothing of one that is empty."""
    dump = getattr(observation, "model_dump", None)
    held = dump() if callable(dump) else observation if isinstance(observation, Mapping) else vars(observation)
    shown = {name: value for name, value in held.items() if name not in _NOT_SHOWN and value not in (None, "", [], {})}
    if len(shown) == 1 and isinstance(text := next(iter(shown.values())), str):
        return text
    return json.dumps(shown, ensure_ascii=False, default=str) if shown else ""


@functools.cache
def published_tool(base_url: str) -> Tool:
    """Return a tool `act` whose parameters are the fields of the action that the server at `base_url` publishes.

    Raises:
        ValueError: it publishes none.
    """
    url = base_url.replace("ws://", "http://", 1).replace("wss://", "https://", 1).rstrip("/")
    try:
        published = parse_json(request("GET", f"{url}/schema", timeout=_SCHEMA_TIMEOUT_S).data)
        schema = dict(published["action"])
        properties = {name: value for name, value in schema["properties"].items() if name != "metadata"}
    except (HTTPError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"client of {base_url!r}: {url}/schema does not say what its actions are ({error!r}); give tool="
        ) from error
    parameters = schema | {"properties": properties}
    return Tool("act", str(schema.get("description") or "Act in the environment.").strip(), parameters)


async def _value(result: Any) -> Any:
    """Return what a call of a client came to, of an asynchronous one or a synchronous."""
    return await result if inspect.isawaitable(result) else result
