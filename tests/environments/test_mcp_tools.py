"""Tools of real MCP servers, processes of their own: over pipes and over HTTP, slow, refusing, dying, coming back."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="pip install 'a2tgpo[mcp]'")

from a2tgpo.environments import Action, CallLimits, InvalidAction
from a2tgpo.environments.mcp_tools import MCPTools
from a2tgpo.errors import ToolError
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.types import Termination
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine

SERVER = str(Path(__file__).with_name("mcp_server.py"))
PATIENT = CallLimits(timeout_s=20, patience_s=math.inf)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[MCPTools]:
    """A server over its standard input and output, which notes each start."""
    made = MCPTools([sys.executable, SERVER, "stdio"], environment={"STARTED": str(tmp_path / "pids")}, limits=PATIENT)
    yield made
    made.close()


def pids(folder: Path) -> list[int]:
    """The processes that were started."""
    return [int(line) for line in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def call(tool: str, text: str) -> str:
    """A turn that calls a tool."""
    return f"<think> a </think> <{tool}> {text} </{tool}>"


def test_rollouts_call_the_servers_tools(tools: MCPTools) -> None:
    """One argument as text, two as JSON; what the server answers, cut and harmless, is the observation; a refusal is
    read by the policy, who goes on; all eight rollouts share the one server."""
    tokenizer = qwen_tokenizer()
    agent = Agent(tokenizer, tools, RolloutLimits(max_searches=4))
    script = [
        *(call("double", "21"), call("add", '{"a": 1, "b": 2}'), call("refuse", "Kelo"), call("speak", "x")),
        answer_turn("42"),
    ]
    rollouts = agent.run(["Q?"] * 8, ScriptedEngine(tokenizer, [script] * 8))
    for rollout in rollouts:
        assert rollout.termination is Termination.ANSWERED
        text = tokenizer.decode(rollout.completion_ids)
        assert "<result>\n42\n</result>" in text and "<result>\n3\n</result>" in text
        assert "<result>\nerror: " in text and "no Kelo here\n</result>" in text
        assert "[/result]" in text and rollout.completion_ids.count(tokenizer.eos_token_id) == 1
    assert [call.refused for call in rollouts[0].calls] == [False, False, True, False]


def test_a_server_that_dies_fails_who_called_it_and_comes_back(tools: MCPTools, tmp_path: Path) -> None:
    """The rollout whose call killed it ends as the tool's failure; the next batch finds a new process."""
    tokenizer = qwen_tokenizer()
    agent = Agent(tokenizer, tools, RolloutLimits(max_searches=4))
    (died,) = agent.run(["Q?"], ScriptedEngine(tokenizer, [[call("die", "now")]]))
    assert died.termination is Termination.TOOL_FAILED and "MCP server" in died.reason
    (fine,) = agent.run(["Q?"], ScriptedEngine(tokenizer, [[call("double", "4"), answer_turn("8")]]))
    assert fine.termination is Termination.ANSWERED and "\n8\n" in tokenizer.decode(fine.completion_ids)
    first, second = pids(tmp_path)
    assert not alive(first) and alive(second)


def test_the_server_ends_with_the_run(tmp_path: Path) -> None:
    """Closing the tools ends the process that they started."""
    made = MCPTools([sys.executable, SERVER, "stdio"], environment={"STARTED": str(tmp_path / "pids")})
    (pid,) = pids(tmp_path)
    assert alive(pid)
    made.close()
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def test_a_slow_tool_is_given_up() -> None:
    """After the time limit, with the number; the server serves the next call."""
    made = MCPTools([sys.executable, SERVER, "stdio"], only=["sleep", "double"], limits=CallLimits(timeout_s=0.5))
    try:
        environment = made.take()
        with pytest.raises(ToolError, match=r"took longer than 0\.5 seconds"):
            environment.step(Action("sleep", "3"))
    finally:
        made.close()


def test_the_servers_tools_are_described_and_chosen(tools: MCPTools) -> None:
    """Names, descriptions and schemas come from the server; `only` leaves the others out; an unknown one is refused."""
    add = next(tool for tool in tools.tools if tool.name == "add")
    assert add.description == "Add two numbers."
    assert {name: p["type"] for name, p in add.parameters["properties"].items()} == {"a": "integer", "b": "integer"}
    with pytest.raises(InvalidAction, match="there is no tool fly; there are add, double"):
        tools.take().step(Action("fly", ""))
    with pytest.raises(ValueError, match=r"no tools \['fly'\]; it has add, double"):
        MCPTools([sys.executable, SERVER, "stdio"], only=["fly"])


def test_a_server_over_http(tmp_path: Path) -> None:
    """A server by its address, found again after it was started anew."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, SERVER, "streamable-http", str(port)])
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    server = start()
    made = None
    try:
        made = MCPTools(f"http://127.0.0.1:{port}/mcp", limits=CallLimits(timeout_s=5))
        assert made.take().step(Action("double", "4")).observation == "8"
        server.kill()
        server.wait()
        with pytest.raises(ToolError, match="MCP server http://127"):
            made.take().step(Action("double", "4"))
        server = start()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert made.take().step(Action("double", "4")).observation == "8"
                break
            except ToolError:
                assert time.monotonic() < deadline
    finally:
        if made is not None:
            made.close()
        server.kill()


@pytest.mark.parametrize("server", [["no-such-command-7"], [sys.executable, "-c", "pass"], "http://127.0.0.1:9/mcp"])
def test_no_server_is_an_error_at_once(server: list[str] | str) -> None:
    """A command that is not there, one that ends, and an address where nobody listens."""
    with pytest.raises(ToolError, match="MCP server"):
        MCPTools(server)
