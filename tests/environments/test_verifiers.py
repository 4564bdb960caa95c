"""Environments of the verifiers library in our loop: their own stop conditions, tools, rubrics and errors hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from datasets import Dataset

from a2tgpo.environments import Action, CallLimits, EnvironmentPool, Tool
from a2tgpo.environments.calls import resolve
from a2tgpo.environments.verifiers_environment import VerifiersEnvironment
from a2tgpo.errors import ToolError
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.types import Termination
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine


def test_what_is_no_verifiers_environment_is_refused() -> None:
    """Environments that drive a model themselves, as verifiers 0.4's, and anything else."""
    with pytest.raises(ValueError, match=r"env is a object, no MultiTurnEnv of verifiers.*pin verifiers<0.4"):
        VerifiersEnvironment(object())


vf = pytest.importorskip("verifiers", reason="pip install 'verifiers<0.4', into an environment of its own")
if not hasattr(vf, "MultiTurnEnv"):
    vf = pytest.importorskip("verifiers.legacy", reason="no MultiTurnEnv; pip install 'verifiers<0.4'")

ROWS = Dataset.from_list([{"question": "Guess my number.", "answer": "5"}])
CLEANED: list[Any] = []


class Number(vf.MultiTurnEnv):
    """Says higher or lower, ends at the number, and fails at 13."""

    async def setup_state(self, state: Any) -> Any:
        state["tries"] = 0
        return state

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        text = messages[-1].content if hasattr(messages[-1], "content") else messages[-1]["content"]
        guess = int(text.removeprefix("<guess>").removesuffix("</guess>"))
        state["tries"] += 1
        if guess == 13:
            raise vf.Error("bad luck")
        if guess == int(state["answer"]):
            state["final_env_response"] = [{"role": "user", "content": "Right!"}]
            return state["final_env_response"]
        return [{"role": "user", "content": "higher" if guess < int(state["answer"]) else "lower"}]

    @vf.cleanup
    async def note(self, state: Any) -> None:
        CLEANED.append(state["tries"])


def tries(state: Any) -> float:
    """Fewer are better."""
    return -float(state["tries"])


def said_so(completion: Any, answer: str) -> float:
    """The closing message holds the answer."""
    last = completion[-1]
    return float(answer in str(last["content"] if isinstance(last, dict) else last.content))


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def number(**options: Any) -> Any:
    """A game whose rubric counts tries and reads the end."""
    rubric = vf.Rubric(funcs=[tries, said_so], weights=[0.1, 1.0])
    return Number(dataset=ROWS, rubric=rubric, **options)


def play(world: VerifiersEnvironment, *texts: str) -> list[Any]:
    """The results of guesses, each a whole message."""
    resolve(world.reset(dict(ROWS[0]) | {"prompt": [{"role": "user", "content": "Guess."}]}), 10)
    return [resolve(world.step(Action("guess", text)), 10) for text in texts]


def test_an_episode_ends_where_verifiers_ends_it() -> None:
    """Words of the environment, its final response, its rubric over the conversation, its clean-up."""
    CLEANED.clear()
    world = VerifiersEnvironment(number(), tools=(Tool("guess"),))
    results = play(world, "3", "8", "5")
    assert [(result.observation, result.done) for result in results] == [
        ("higher", False),
        ("lower", False),
        ("Right!", True),
    ]
    assert resolve(world.get_reward(), 10) == pytest.approx(-0.3) and world.answer == "5" and CLEANED == [3]


def test_a_stop_condition_of_theirs_ends_it_too() -> None:
    """`max_turns=2`: the second guess is the last, without a word."""
    world = VerifiersEnvironment(number(max_turns=2), tools=(Tool("guess"),))
    results = play(world, "3", "4")
    assert [result.done for result in results] == [False, True]


def test_an_unfinished_episode_is_scored_as_it_stands() -> None:
    """A rollout that ends by itself, with a closing turn or none, is scored by the rubric, and cleaned up once."""
    CLEANED.clear()
    world = VerifiersEnvironment(number(), tools=(Tool("guess"),))
    play(world, "3")
    assert resolve(world.get_reward(), 10) == pytest.approx(-0.1) and CLEANED == [1]
    play(world, "3")
    with pytest.raises(ValueError, match="invalid literal"):
        resolve(world.finish("It is 5, I say."), 10)  # this environment cannot read a closing turn


def test_their_errors_fail_the_step() -> None:
    """What verifiers catches is a ToolError with its cause; what it does not comes as it is."""
    world = VerifiersEnvironment(number(), tools=(Tool("guess"),))
    with pytest.raises(ToolError, match="bad luck"):
        play(world, "13")
    with pytest.raises(ValueError, match="invalid literal"):
        play(world, "five")


def test_tools_are_called_natively() -> None:
    """A `ToolEnv`'s tools, with their schemas, by JSON or parsed arguments; its answer turn is the rubric's."""
    env = vf.ToolEnv(tools=[add], dataset=ROWS, rubric=vf.Rubric(funcs=[said_so]))
    world = VerifiersEnvironment(env)
    (tool,) = world.tools
    assert tool.name == "add" and set(tool.parameters["properties"]) == {"a", "b"}
    resolve(world.reset(dict(ROWS[0]) | {"prompt": [{"role": "user", "content": "2 + 3?"}]}), 10)
    assert resolve(world.step(Action("add", '{"a": 2, "b": 3}')), 10).observation == "5"
    assert resolve(world.step(Action("add", "", {"a": 2, "b": 5})), 10).observation == "7"
    assert "argument" in resolve(world.step(Action("add", "{}")), 10).observation
    resolve(world.finish("It is 5."), 10)
    assert resolve(world.get_reward(), 10) == 1.0


def test_rollouts_in_our_loop() -> None:
    """Eight rollouts of one environment object at a time: guesses in tags, a failure that takes nobody down, a tool
    environment's answer in the outcome."""
    tokenizer, env = qwen_tokenizer(), number()
    limits = CallLimits(timeout_s=10, patience_s=math.inf)
    pool = EnvironmentPool(lambda: VerifiersEnvironment(env, tools=(Tool("guess"),)), limits)
    agent = Agent(tokenizer, pool, RolloutLimits(max_completion_tokens=600))
    guess = "<think> so </think> <guess> {} </guess>"
    scripts = [[guess.format(3), guess.format(5)], [guess.format(13)]] * 4
    rows = [dict(ROWS[0]) | {"prompt": [{"role": "user", "content": "Guess."}]}] * 8
    rollouts = agent.run([row["prompt"] for row in rows], ScriptedEngine(tokenizer, scripts), rows=rows)
    assert [one.termination for one in rollouts[:2]] == [Termination.ENVIRONMENT_DONE, Termination.TOOL_FAILED]
    assert rollouts[0].outcome == pytest.approx(-0.2) and rollouts[0].revealed_answer == "5"
    assert "bad luck" in rollouts[1].reason
    pool.close()

    adding = vf.ToolEnv(tools=[add], dataset=ROWS, rubric=vf.Rubric(funcs=[said_so]))
    agent = Agent(tokenizer, EnvironmentPool(lambda: VerifiersEnvironment(adding), limits), RolloutLimits())
    script = ['<think> so </think> <add> {"a": 2, "b": 3} </add>', answer_turn("5")]
    (rollout,) = agent.run([rows[0]["prompt"]], ScriptedEngine(tokenizer, [script]), rows=rows[:1])
    assert rollout.termination is Termination.ANSWERED and rollout.outcome == 1.0
