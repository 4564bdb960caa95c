"""OpenEnv's clients against OpenEnv's own server: its contract, and our loop over it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from a2tgpo.environments import Action, CallLimits, EnvironmentPool, InvalidAction, StepResult, Tool
from a2tgpo.environments.calls import resolve
from a2tgpo.environments.openenv_client import OpenEnvEnvironment, as_text, published_tool
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.types import Termination
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine

openenv = pytest.importorskip("openenv.core", reason="pip install openenv, into an environment of its own")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a running server."""
    from tests.environments.openenv_server import serving

    with serving() as address:
        yield address


def test_an_episode_over_a_generic_client(url: str) -> None:
    """Seed, observation as text, reward, end; a second episode in the same session; the tool is the server's action."""
    world = OpenEnvEnvironment(openenv.GenericEnvClient(url))
    (tool,) = world.tools
    assert tool.name == "act" and tool.description.startswith("Walk so many steps")
    assert list(tool.parameters["properties"]) == ["steps"] and tool.parameters["required"] == ["steps"]
    for _ in range(2):
        assert resolve(world.reset({"seed": 4, "prompt": "x"}), 10) == "\nYou stand at 4."
        assert resolve(world.step(Action("act", "3")), 10) == StepResult("You stand at 7.", 0.3)
        assert resolve(world.step(Action("act", "", {"steps": 2})), 10) == StepResult("You stand at 9.", 0.2, done=True)
    resolve(world.close(), 10)


def test_a_typed_client_and_a_synchronous_one(url: str) -> None:
    """The action's class makes the action, and a client in synchronous mode works too."""
    from tests.environments.openenv_server import Walk

    typed = OpenEnvEnvironment(openenv.GenericEnvClient(url), action=Walk)
    sync = OpenEnvEnvironment(openenv.GenericEnvClient(url).sync(), tool=published_tool(url))
    for world in (typed, sync):
        resolve(world.reset({}), 10)
        assert resolve(world.step(Action("act", "1")), 10).observation == "You stand at 1."
        with pytest.raises(InvalidAction, match="type integer"):
            resolve(world.step(Action("act", "far")), 10)
        resolve(world.close(), 10)


def test_whose_fault_an_error_is(url: str) -> None:
    """What the server finds invalid the policy reads; an environment that raises fails the step, and the session goes
    on with another episode."""
    world = OpenEnvEnvironment(openenv.GenericEnvClient(url))
    resolve(world.reset({}), 10)
    for arguments in ({"steps": "far"}, {"step": 1}, {}):
        with pytest.raises(InvalidAction, match="act takes steps; Server error"):
            resolve(world.step(Action("act", "", arguments)), 10)
    with pytest.raises(RuntimeError, match="you fell off"):
        resolve(world.step(Action("act", "10")), 10)
    assert resolve(world.reset({"seed": 1}), 10) == "\nYou stand at 1."
    resolve(world.close(), 10)


def test_rollouts_in_our_loop(url: str) -> None:
    """Eight sessions at a time over two batches, with tags: rewards by turn, an end said by the server, an answer, a
    refusal, a failure; sessions are used again."""
    tokenizer, made = qwen_tokenizer(), []

    def session() -> OpenEnvEnvironment:
        made.append(OpenEnvEnvironment(openenv.GenericEnvClient(url)))
        return made[-1]

    pool = EnvironmentPool(session, CallLimits(timeout_s=10, patience_s=math.inf))
    agent = Agent(tokenizer, pool, RolloutLimits(max_completion_tokens=600))
    walk = "<think> on </think> <act> {} </act>"
    scripts = [
        [walk.format(4), walk.format(5)],
        [walk.format(1), answer_turn("tired")],
        [walk.format("far"), answer_turn("x")],
        [walk.format(20)],
    ] * 2
    for _ in range(2):
        rollouts = agent.run(["Walk."] * 8, ScriptedEngine(tokenizer, scripts), rows=[{"seed": 0}] * 8)
        endings = [rollout.termination for rollout in rollouts[:4]]
        assert endings == [
            Termination.ENVIRONMENT_DONE,
            Termination.ANSWERED,
            Termination.ANSWERED,
            Termination.TOOL_FAILED,
        ]
        assert rollouts[0].turn_rewards == [0.4, 0.5] and rollouts[0].outcome == pytest.approx(0.9)
        assert rollouts[2].calls[0].refused and "you fell off" in rollouts[3].reason
    assert 8 <= len(made) <= 12
    pool.close()


def test_a_server_that_says_nothing_is_named() -> None:
    """Without a schema and without a tool nobody knows what an action is."""
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/schema does not say.*give tool="):
        OpenEnvEnvironment(openenv.GenericEnvClient("ws://127.0.0.1:9"))
    given = OpenEnvEnvironment(openenv.GenericEnvClient("http://127.0.0.1:9"), tool=Tool("go"))
    assert given.tools == (Tool("go"),)


def test_observations_are_text_or_json() -> None:
    """One text is itself; several things are JSON; the fields of every observation are not shown."""
    assert as_text({"text": "hi", "done": False, "reward": 1.0, "metadata": {"a": 1}}) == "hi"
    assert as_text({"board": [[0]], "text": "hi"}) == '{"board": [[0]], "text": "hi"}'
    assert as_text({"done": True}) == ""
