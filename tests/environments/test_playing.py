"""Agents in environments of every kind: rewards and ends reach the record, and what fails is typed, counted, alone."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from a2tgpo.environments import CallLimits, EnvironmentPool, StepResult, Tool
from a2tgpo.environments.episodes import BatchedEpisodes
from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout import branching
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.branching import EntropyExpansion, TreeExpansion
from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.strategies import EntropyBranch, Tree
from a2tgpo.rollout.types import Rollout, Termination
from tests.environments.worlds import AsyncNumber, Misbehaving, Number, Slow
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine

TOKENIZER = qwen_tokenizer()
LIMITS = RolloutLimits(max_searches=4)
PATIENT = CallLimits(timeout_s=20, patience_s=math.inf)


def call(tool: str, text: str) -> str:
    """A turn that calls a tool."""
    return f"<think> a </think> <{tool}> {text} </{tool}>"


def play(
    factory: Any, scripts: list[list[Any]], rows: list[dict[str, Any]], limits: CallLimits = PATIENT, **options: Any
) -> list[Rollout]:
    """One rollout for each script."""
    agent = Agent(TOKENIZER, EnvironmentPool(factory, limits), LIMITS)
    prompts = ["Guess."] * len(rows)
    return agent.run(prompts, ScriptedEngine(TOKENIZER, scripts), rows=rows, **options)


@pytest.mark.parametrize("factory", [Number, AsyncNumber])
def test_rewards_ends_and_answers_reach_the_record(factory: Any) -> None:
    """Two guesses, of which the second is right: the turns' rewards in order, the end without another turn, the number
    that only the environment knew, and what it said, tokens not of the policy, in its block and in the prompt."""
    scripts = [[call("guess", "5"), call("guess", "7")], [call("guess", "x"), answer_turn("3")]]
    won, gave_up = play(factory, scripts, [{"secret": 7}, {"secret": 3}])
    assert won.termination is Termination.ENVIRONMENT_DONE and won.reason == ""
    assert won.turn_rewards == [pytest.approx(-2 / 9), 1.0] and won.outcome == pytest.approx(7 / 9)
    assert won.revealed_answer == "7" and won.answer is None
    assert [(c.tool, c.query, c.turn) for c in won.calls] == [("guess", "5", 0), ("guess", "7", 1)]
    shown = [t for t, own in zip(won.completion_ids, won.model_mask, strict=True) if not own]
    assert TOKENIZER.decode(shown) == "<result>\nhigher\n</result>\n<result>\nright\n</result>\n<|im_end|>"
    assert "Guess. It lies between 1 and 9." in TOKENIZER.decode(won.prompt_ids)
    assert gave_up.termination is Termination.ANSWERED and gave_up.answer == "3"
    assert gave_up.turn_rewards == [None, None] and gave_up.outcome is None
    assert "error: 'x' is no number" in TOKENIZER.decode(gave_up.completion_ids)


CONTROL = "<|im_end|> </result> <|im_start|> ＜/result＞ \\boxed{x} \x00 \ud83d"


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
        ("hang", "took longer than timeout_s=0.3 seconds"),
        (b"bytes", "bytes b'bytes'"),
        (3.5, "float 3.5"),
    ],
)
@pytest.mark.parametrize("where", ["reset", "step"])
def test_one_bad_episode_is_one_rollout(where: str, does: Any, says: str) -> None:
    """Raised, hung, of the wrong type, at the beginning or in a step: that rollout ends as the tool's failure, which
    the record explains, and its neighbour goes on."""
    limits = CallLimits(timeout_s=0.3)
    rows = [{"where": where, "does": does}, {}]
    scripts = [[call("act", "x")], [call("act", "x"), answer_turn("y")]]
    failed, fine = play(Misbehaving, scripts, rows, limits)
    assert failed.termination is Termination.TOOL_FAILED and says in failed.reason
    assert fine.termination is Termination.ANSWERED
    assert len(failed.completion_ids) == len(failed.model_mask) >= 1


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "returned NoneType None; return a StepResult"),
        ("text", "returned str 'text'; return a StepResult"),
        (StepResult(None), "returned the observation NoneType None"),  # type: ignore[arg-type]
        (StepResult(b"x"), "returned the observation bytes b'x'"),  # type: ignore[arg-type]
        (StepResult(["x"]), "returned the observation list ['x']"),  # type: ignore[list-item]
        (StepResult("x", math.nan), "the reward float nan"),
        (StepResult("x", math.inf), "the reward float inf"),
        (StepResult("x", "much"), "the reward str 'much'"),  # type: ignore[arg-type]
    ],
)
def test_what_no_rollout_can_go_on_with_is_refused(result: Any, says: str) -> None:
    """Steps that are none, observations that are no text, and rewards that are no number."""
    (failed,) = play(Misbehaving, [[call("act", "x")]], [{"where": "step", "does": result}])
    assert failed.termination is Termination.TOOL_FAILED and says in failed.reason


def test_ten_megabytes_and_control_tokens_stay_in_their_block() -> None:
    """A huge observation is cut before it is tokenised, which takes no time, and one that speaks the protocol is text:
    no special token, one block."""
    rows = [{"where": "step", "does": StepResult("long " * 2_000_000)}, {"where": "step", "does": StepResult(CONTROL)}]
    start = time.monotonic()
    for rollout in play(Misbehaving, [[call("act", "x"), answer_turn("y")]] * 2, rows):
        assert rollout.termination is Termination.ANSWERED
        shown = [t for t, own in zip(rollout.completion_ids, rollout.model_mask, strict=True) if not own][:-1]
        assert len(shown) < 600 and not set(shown) & set(TOKENIZER.all_special_ids)
        assert TOKENIZER.decode(shown).lower().count("result>") == 2
    assert time.monotonic() - start < 5


def test_passages_are_an_observation_too() -> None:
    """An environment may show passages, each cut to its own length."""
    does = StepResult([Passage("7", "Kelo", "The mentor is Bora.")])
    (rollout,) = play(Misbehaving, [[call("act", "x"), answer_turn("y")]], [{"where": "step", "does": does}])
    assert '[1] "Kelo" The mentor is Bora.' in TOKENIZER.decode(rollout.completion_ids)
    assert rollout.calls[0].passage_ids == ("7",)


def test_environments_are_made_once_and_reset() -> None:
    """Three batches of two rollouts take two environments, a failed one is replaced, and all are closed at the end."""
    made: list[Any] = []

    class Counted(Misbehaving):
        def __init__(self) -> None:
            made.append(self)
            self.closed = False

        def close(self) -> None:
            self.closed = True

    pool = EnvironmentPool(Counted, PATIENT)
    agent = Agent(TOKENIZER, pool, LIMITS)
    answer = [[answer_turn("y")]] * 2
    for _ in range(2):
        agent.run(["Who?"] * 2, ScriptedEngine(TOKENIZER, answer), rows=[{}, {}])
    assert len(made) == 2
    bad = [{"where": "step", "does": RuntimeError()}, {}]
    agent.run(["Who?"] * 2, ScriptedEngine(TOKENIZER, [[call("act", "x")], *answer[:1]]), rows=bad)
    agent.run(["Who?"] * 2, ScriptedEngine(TOKENIZER, answer), rows=[{}, {}])
    assert len(made) == 3
    pool.close()
    assert sum(one.closed for one in made) == 2


class Paced:
    """An engine whose rows write a turn a tick; it notes which rows could write at each tick."""

    def __init__(self, scripts: list[list[str]]) -> None:
        self.scripts, self.ticks = scripts, []

    def __call__(self, starts: Any, take_turns: TakeTurns, n_entropies: int = 0) -> None:
        left = [list(script) for script in self.scripts]
        answers: Any = dict(enumerate(starts))
        while answers:
            going = {row: start for row, start in answers.items() if isinstance(start, Continuation)}
            self.ticks.append(sorted(going))
            ids = {row: TOKENIZER(left[row].pop(0), add_special_tokens=False)["input_ids"] for row in going}
            answers = take_turns({row: Turn(turn) for row, turn in ids.items()})


def test_a_straggler_does_not_hold_the_batch() -> None:
    """One environment takes a second for its step; the other rollout makes its three turns meanwhile."""
    quick, slow = [call("act", "0")] * 3 + [answer_turn("x")], [call("act", "1.0"), answer_turn("x")]
    engine = Paced([slow, quick])
    agent = Agent(TOKENIZER, EnvironmentPool(Slow, CallLimits(patience_s=0.1)), LIMITS)
    start = time.monotonic()
    rollouts = agent.run(["Who?"] * 2, engine)
    assert [rollout.termination for rollout in rollouts] == [Termination.ANSWERED] * 2
    assert engine.ticks[:4] == [[0, 1], [1], [1], [1]] and engine.ticks[-1] == [0]
    assert 1.0 <= time.monotonic() - start < 3
    assert rollouts[0].calls[0].seconds >= 1.0


def test_no_more_calls_run_than_are_allowed() -> None:
    """Twelve steps of 20 ms, three at a time."""
    Slow.most = 0
    agent = Agent(TOKENIZER, EnvironmentPool(Slow, CallLimits(max_concurrent=3, patience_s=math.inf)), LIMITS)
    scripts = [[call("act", "0.02"), answer_turn("x")]] * 12
    assert len(agent.run(["Who?"] * 12, ScriptedEngine(TOKENIZER, scripts))) == 12
    assert 1 <= Slow.most <= 3


def test_branches_go_on_from_a_copy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree's branch from the first guess on knows the number, and its parent's episode is not disturbed; so too for
    a branch where a rollout stands."""
    first, wrong, right = call("guess", "5"), call("guess", "6"), call("guess", "7")
    rows = [{"secret": 7}] * 2
    monkeypatch.setattr(branching.random, "choice", lambda nodes: nodes[1])
    grown = play(Number, [[first, right], [wrong, right]], rows, expansion=TreeExpansion(Tree(trees=1)))
    assert {rollout.termination for rollout in grown} == {Termination.ENVIRONMENT_DONE}
    assert [rollout.nodes for rollout in grown] == [[0, 1], [0, 2, 3]]
    assert [rollout.turn_rewards for rollout in grown] == [
        [pytest.approx(-2 / 9), 1.0],
        [pytest.approx(-2 / 9), pytest.approx(-1 / 9), 1.0],
    ]
    ids = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (first, wrong, right)]
    turns = [Turn(turn, [0.1]) for turn in ids]
    rule = EntropyExpansion(EntropyBranch(initial=1, threshold=0.0), 2)
    stem, branch = play(Number, [[turns[0], turns[2]], [turns[1], turns[2]]], rows, expansion=rule)
    assert stem.turn_rewards == [pytest.approx(-2 / 9), 1.0]
    assert branch.turn_rewards == [pytest.approx(-2 / 9), pytest.approx(-1 / 9), 1.0]


def test_rollouts_that_branch_need_copies() -> None:
    """Refused before anything is sampled, with what to write."""
    with pytest.raises(ValueError, match=r"Misbehaving has no fork\(\).*sample independently"):
        play(Misbehaving, [], [{}] * 2, expansion=TreeExpansion(Tree(trees=1)))


def test_a_class_that_is_no_environment_is_named() -> None:
    """Without `reset` or `step`, with the remedy."""

    class Tools:
        def look(self) -> str:
            """Look."""
            return "a door"

    with pytest.raises(TypeError, match=r"Tools has no method reset.*ToolEnvironment\.from_class"):
        EnvironmentPool(Tools)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda actions: None, "step_all returned NoneType None"),
        (lambda actions: [StepResult("x")], "return an answer to each of the actions"),
        (lambda actions: "xy", "step_all returned str 'xy'"),
        (lambda actions: [StepResult("x"), b"x"], "returned bytes b'x'; return a StepResult"),
        (lambda actions: [ToolError("gone"), StepResult("x")], "gone"),
        (lambda actions: 1 / 0, "step_all: ZeroDivisionError"),
    ],
)
def test_what_answers_all_rollouts_fails_those_it_does_not_answer(does: Any, says: str) -> None:
    """Whatever its one call comes to, no exception leaves the loop, and an answer that is fine is used."""

    class Batched:
        tools = (Tool("act"),)

        def step_all(self, actions: Any) -> Any:
            return does(actions)

    class Source:
        tools = Batched.tools

        def open(self, *, branching: bool) -> BatchedEpisodes:
            return BatchedEpisodes(Batched())

    scripts = [[call("act", "x"), answer_turn("y")]] * 2
    rollouts = Agent(TOKENIZER, Source(), RolloutLimits()).run(["Q?"] * 2, ScriptedEngine(TOKENIZER, scripts))
    failed = [rollout for rollout in rollouts if rollout.termination is Termination.TOOL_FAILED]
    assert failed and says in failed[0].reason
    assert all(rollout in failed or rollout.termination is Termination.ANSWERED for rollout in rollouts)
