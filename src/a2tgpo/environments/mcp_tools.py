"""Call the tools of an MCP server: started and stopped with the run, reconnected when it went away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from a2tgpo.environments.calls import CallLimits
from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, Tool
from a2tgpo.environments.episodes import EnvironmentPool
from a2tgpo.environments.tool_environment import arguments_of
from a2tgpo.errors import ToolError, needs_extra

START_S = 60.0
"""Seconds that a server may take to start and list its tools."""


class MCPConnection:
    """Hold one connection to an MCP server, in an event loop of its own thread.

    A connection that broke is opened anew for the next call; the call that met it fails, for nobody knows whether the
    server carried it out.

    Args:
        server: URL of a server (streamable HTTP), or the command that starts one and speaks over its standard input and
            output, with its arguments.
        environment: variables of the command's process, beside a few that every process needs.
        timeout_s: seconds that one call may take.

    Raises:
        MissingExtra: the `mcp` package is not installed.
        ToolError: no server answers, or the command does not start one.
    """

    def __init__(
        self, server: str | Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = 30.0
    ) -> None:
        with needs_extra("mcp", "a tool of an MCP server"):
            import mcp  # noqa: F401
        self.server, self.timeout_s = server, timeout_s
        self._environment = dict(environment or {})
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="a2tgpo-mcp", daemon=True).start()
        self._session: _Session | None = None
        self._opening = asyncio.Lock()
        self.tools = tuple(self._run(self._list_tools(), START_S))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Return the server's result.

        Raises:
            ToolError: the server is gone, or took longer than `timeout_s`.
        """
        return self._run(self._call(tool, arguments), self.timeout_s)

    def close(self) -> None:
        """Close the connection, which ends a server that it started."""
        session, self._session = self._session, None
        if session is not None:
            self._run(session.close(), START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, seconds), self._loop)
        try:
            return future.result()
        except TimeoutError as error:
            raise ToolError(f"MCP server {self._name}: took longer than {seconds:g} seconds") from error
        except Exception as error:
            raise ToolError(f"MCP server {self._name}: {type(error).__name__}: {error}") from error

    @property
    def _name(self) -> str:
        return self.server if isinstance(self.server, str) else " ".join(self.server)

    async def _list_tools(self) -> list[Tool]:
        listed = await (await self._open()).client.list_tools()
        return [Tool(tool.name, tool.description or "", dict(tool.input_schema)) for tool in listed.tools]

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        from mcp import MCPError

        session = await self._open()
        try:
            return await session.client.call_tool(tool, dict(arguments))
        except (MCPError, OSError):
            # Of the connection: a tool's own error is a result. The next call opens another.
            if self._session is session:
                self._session = None
                self._closing = asyncio.ensure_future(session.close())
            raise

    async def _open(self) -> _Session:
        async with self._opening:
            if self._session is None:
                session = _Session(self._client())
                await session.opened()
                self._session = session
            return self._session

    def _client(self) -> Any:
        from mcp import Client, StdioServerParameters

        if isinstance(self.server, str):
            return Client(self.server)
        command, *arguments = self.server
        return Client(StdioServerParameters(command=command, args=arguments, env=self._environment or None))


class _Session:
    """Keep a client open in one task, which anyio wants to be the one that closes it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._close = asyncio.Event()
        self._task = asyncio.ensure_future(self._serve())

    async def opened(self) -> None:
        """Wait until the client is connected; raise what keeps it from it."""
        await self._open

    async def close(self) -> None:
        """Disconnect."""
        self._close.set()
        await asyncio.wait([self._task])

    async def _serve(self) -> None:
        try:
            async with self.client:
                self._open.set_result(None)
                await self._close.wait()
        except Exception as error:
            # Once open, whoever calls next meets it.
            if not self._open.done():
                self._open.set_exception(_first(error))


class MCPEnvironment:
    """Call the tools of a connection (an `Environment`); what the server remembers is shared by all rollouts."""

    def __init__(self, connection: MCPConnection, tools: Sequence[Tool]) -> None:
        self.connection, self.tools = connection, tuple(tools)

    @classmethod
    def of(cls, connection: MCPConnection, only: Sequence[str] | None = None) -> MCPEnvironment:
        """Return the tools of a connection, or those named in `only`.

        Raises:
            ValueError: the server lacks one of them, or has none.
        """
        found = {tool.name: tool for tool in connection.tools}
        wanted = list(found) if only is None else list(only)
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"the MCP server has no tools {missing}; it has {', '.join(found)}")
        if not wanted:
            raise ValueError("the MCP server has no tool")
        return cls(connection, [found[name] for name in wanted])

    def reset(self, row: Row) -> None:
        """Begin an episode, of which the server learns nothing."""

    def step(self, action: Action) -> StepResult:
        """Call one tool; what it answers as an error is read by the policy.

        Raises:
            InvalidAction: there is no such tool, or it refuses.
            ToolError: the server is gone.
        """
        tool = next((tool for tool in self.tools if tool.name == action.tool), None)
        if tool is None:
            raise InvalidAction(f"there is no tool {action.tool}; there are {', '.join(t.name for t in self.tools)}")
        result = self.connection.call(tool.name, arguments_of(action, tool))
        text = "\n".join(getattr(block, "text", None) or f"[{block.type}]" for block in result.content)
        if result.is_error:
            raise InvalidAction(text)
        return StepResult(text)

    def fork(self) -> MCPEnvironment:
        """Return another on the same server."""
        return MCPEnvironment(self.connection, self.tools)


class MCPTools(EnvironmentPool):
    """Give every rollout the tools of an MCP server (an `EnvironmentSource`).

    Args:
        server: URL of a server, or the command that starts one, with its arguments.
        only: names of the tools that the policy gets; None for all.
        environment: variables of the command's process.
        limits: of the calls.

    Raises:
        MissingExtra: the `mcp` package is not installed.
        ToolError: no server answers.
        ValueError: the server lacks a tool of `only`, or has none.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        only: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        limits: CallLimits | None = None,
    ) -> None:
        limits = limits or CallLimits()
        self.connection = MCPConnection(server, environment, limits.timeout_s)
        super().__init__(lambda: MCPEnvironment.of(self.connection, only), limits)

    def close(self) -> None:
        """Close the connection; the run is over."""
        super().close()
        self.connection.close()


def _first(error: BaseException) -> BaseException:
    """Return what a group of errors holds first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
