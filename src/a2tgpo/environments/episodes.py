"""Play the episodes of a batch of rollouts: one environment a rollout, or one for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from a2tgpo.environments.calls import CallLimits, Calls, resolve
from a2tgpo.environments.environment import (
    Action,
    Environment,
    InvalidAction,
    Row,
    StepResult,
    Tool,
    checked_reset,
    checked_step,
    finite_number,
    is_truth,
    shortened,
    tools_of,
)
from a2tgpo.errors import A2TGPOError, DataError, ToolError
from a2tgpo.gold import read_aliases

logger = logging.getLogger(__name__)


class EpisodeOutcome(NamedTuple):
    """Hold what an environment says after the episode, None each where it says nothing."""

    reward: float | None = None
    answer: Any = None
    success: bool | None = None


def checked_outcome(ended: EpisodeOutcome, environment: object) -> EpisodeOutcome:
    """Return `ended` if its reward is a finite number or None, its answer one that can be read, and its success true,
    false or None.

    Raises:
        ToolError: it is not.
    """
    name = type(environment).__name__
    reward = None if ended.reward is None else finite_number(ended.reward)
    if (reward is None) != (ended.reward is None):
        raise ToolError(f"{name}.get_reward returned {shortened(ended.reward)}; return a finite number or None")
    if ended.success is not None and not is_truth(ended.success):
        raise ToolError(f"{name}.success is {shortened(ended.success)}; set it to True, False or None")
    try:
        read_aliases(ended.answer, f"{name}.answer")
    except DataError as error:
        raise ToolError(str(error)) from error
    return EpisodeOutcome(reward, ended.answer, None if ended.success is None else bool(ended.success))


class Episodes(Protocol):
    """Answer the rollouts of one batch, by the number of their row."""

    def reset(self, rows: Mapping[int, Row]) -> dict[int, str | ToolError | None]:
        """Begin an episode for each of `rows`; return what its policy reads first, or how it failed."""

    def submit(self, row: int, actions: Sequence[Action]) -> None:
        """Ask for the answers to the actions of a turn, which `collect` gives in time."""

    def collect(self, *, idle: bool) -> dict[int, Sequence[StepResult] | ToolError]:
        """Return the answers that are there, by row; where nobody can write (`idle`) at least one, if any was asked
        for."""

    def branch(self, row: int, parent: int, turn: int) -> None:
        """Let `row` stand where `parent` stood before its turn `turn`."""

    def outcome(self, row: int, closing: str | None = None) -> EpisodeOutcome:
        """Return what the environment says after the episode.

        Args:
            closing: the turn that ended the rollout without an action; None where there is none.
        """

    def environment(self, row: int) -> Any:
        """Return the environment that the episode was played in; None where one serves all."""

    def close(self) -> None:
        """End the batch."""


class EnvironmentSource(Protocol):
    """Open the episodes of batches."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Return what the policy can do, in every episode."""

    def open(self, *, branching: bool) -> Episodes:
        """Begin a batch; with `branching` its episodes can be copied.

        Raises:
            ValueError: the environment cannot be copied.
        """


class EnvironmentPool:
    """Play each rollout in an environment of its own (an `EnvironmentSource`).

    Environments are made once and reset for every episode; one that failed or hung is not used again.

    Args:
        factory: makes an environment; called again only when a batch needs more than there are.
        limits: of its calls.

    Raises:
        TypeError: what `factory` makes is no environment.
    """

    def __init__(self, factory: Callable[[], Environment], limits: CallLimits | None = None) -> None:
        self.factory = factory
        self.limits = limits or CallLimits()
        first = factory()
        self.tools = tools_of(first)
        self.tool_names = tuple(tool.name for tool in self.tools)
        self._name = type(first).__name__
        self._can_fork = callable(getattr(first, "fork", None))
        self._free = [first]

    def open(self, *, branching: bool) -> Episodes:
        """Begin a batch."""
        if branching and not self._can_fork:
            raise ValueError(
                f"{self._name} has no fork(): rollouts that branch (Tree, EntropyBranch) go on from a copy of the "
                "environment; give it a fork() that returns one, or sample independently"
            )
        return PooledEpisodes(self, Calls(self.limits), branching)

    def take(self) -> Environment:
        """Return a free environment, or a new one."""
        try:
            return self._free.pop()
        except IndexError:
            return self.factory()

    def give_back(self, environment: Environment) -> None:
        """Keep an environment for a later episode."""
        self._free.append(environment)

    def close(self) -> None:
        """Close every environment that can be; the run is over."""
        for environment in self._free:
            close = getattr(environment, "close", None)
            if callable(close):
                try:
                    Calls(self.limits).run(partial(_closed, close, self.limits.timeout_s))
                except ToolError as error:
                    logger.warning("an environment %s could not be closed: %s", self._name, error)
        self._free.clear()


class PooledEpisodes:
    """Play one batch in the environments of a pool (`Episodes`)."""

    def __init__(self, pool: EnvironmentPool, calls: Calls, branching: bool) -> None:
        self._pool, self._calls, self._branching = pool, calls, branching
        self._environments: dict[int, Any] = {}
        self._states: dict[int, list[Any]] = {}
        self._broken: dict[int, ToolError] = {}

    def reset(self, rows: Mapping[int, Row]) -> dict[int, str | ToolError | None]:
        for number, row in rows.items():
            self._calls.submit(number, partial(self._begin, number, row))
        shown: dict[int, str | ToolError | None] = {}
        while len(shown) < len(rows):
            shown |= self._calls.collect(idle=True)
        self._note(shown)
        return {number: shown[number] for number in rows}

    def submit(self, row: int, actions: Sequence[Action]) -> None:
        self._calls.submit(row, partial(self._steps, row, actions))

    def collect(self, *, idle: bool) -> dict[int, Sequence[StepResult] | ToolError]:
        found = self._calls.collect(idle=idle)
        self._note(found)
        return found

    def branch(self, row: int, parent: int, turn: int) -> None:
        states = self._states.get(parent, [])
        if turn >= len(states):
            self._broken[row] = ToolError("the environment of the rollout that it branches off has failed")
            return
        self._states[row] = states[: turn + 1]
        try:
            self._environments[row] = self._calls.run(lambda: self._calls.resolve(states[turn].fork()))
        except Exception as failure:
            self._broken[row] = ToolError(f"fork: {type(failure).__name__}: {failure}")

    def outcome(self, row: int, closing: str | None = None) -> EpisodeOutcome:
        environment = self._environments.get(row)
        if environment is None or row in self._broken:
            return EpisodeOutcome()
        try:
            return self._outcome(environment, closing)
        except ToolError as error:
            self._broken[row] = error  # it may hang still
            raise

    def _outcome(self, environment: Any, closing: str | None) -> EpisodeOutcome:
        finish = getattr(environment, "finish", None)
        if closing is not None and callable(finish):
            self._calls.run(lambda: self._calls.resolve(finish(closing)))
        get_reward = getattr(environment, "get_reward", None)
        reward = self._calls.run(lambda: self._calls.resolve(get_reward())) if callable(get_reward) else None
        answer, success = getattr(environment, "answer", None), getattr(environment, "success", None)
        return checked_outcome(EpisodeOutcome(reward, answer, success), environment)

    def environment(self, row: int) -> Any:
        return self._environments.get(row)

    def close(self) -> None:
        for row, environment in self._environments.items():
            if row not in self._broken:
                self._pool.give_back(environment)

    def _begin(self, number: int, row: Row) -> str | None:
        environment = self._pool.take()
        shown = checked_reset(self._calls.resolve(environment.reset(row)), environment)
        self._environments[number] = environment
        self._keep_state(number, environment)
        return shown

    def _steps(self, row: int, actions: Sequence[Action]) -> list[StepResult]:
        if row in self._broken:
            raise self._broken[row]
        environment = self._environments[row]
        results = []
        for action in actions:
            try:
                if action.tool not in self._pool.tool_names:
                    raise InvalidAction(f"there is no tool {action.tool}; there are {', '.join(self._pool.tool_names)}")
                result = checked_step(self._calls.resolve(environment.step(action)), environment)
            except InvalidAction as refusal:
                result = StepResult(f"error: {refusal}", info={"refused": True})
            results.append(result)
            if result.done:
                break
        self._keep_state(row, environment)
        return results

    def _keep_state(self, row: int, environment: Any) -> None:
        if self._branching:
            self._states.setdefault(row, []).append(self._calls.resolve(environment.fork()))

    def _note(self, found: Mapping[int, Any]) -> None:
        self._broken |= {row: result for row, result in found.items() if isinstance(result, ToolError)}


def _closed(close: Callable[[], Any], timeout_s: float) -> None:
    resolve(close(), timeout_s)


class BatchedEnvironment(Protocol):
    """Answer all rollouts that have just acted in one call; it keeps no state between turns."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Return what the policy can do."""

    def step_all(self, actions: Sequence[Action]) -> Sequence[StepResult | ToolError]:
        """Answer each action; a `ToolError` in place of an answer fails the rollout that acted, and no other.

        Raises:
            ToolError: fails all of them.
        """


class BatchedEpisodes:
    """Play one batch in a `BatchedEnvironment` (`Episodes`): all rollouts wait for the one call."""

    def __init__(self, environment: BatchedEnvironment) -> None:
        self._environment = environment
        self._asked: dict[int, Sequence[Action]] = {}

    def reset(self, rows: Mapping[int, Row]) -> dict[int, str | ToolError | None]:
        return dict.fromkeys(rows)

    def submit(self, row: int, actions: Sequence[Action]) -> None:
        self._asked[row] = actions

    def collect(self, *, idle: bool) -> dict[int, Sequence[StepResult] | ToolError]:
        asked, self._asked = self._asked, {}
        if not asked:
            return {}
        answers = self._answers([action for actions in asked.values() for action in actions])
        found: dict[int, Sequence[StepResult] | ToolError] = {}
        left = iter(answers)
        for row, actions in asked.items():
            mine = [next(left) for _ in actions]
            failed = next((answer for answer in mine if isinstance(answer, ToolError)), None)
            found[row] = failed or [answer for answer in mine if isinstance(answer, StepResult)]
        return found

    def _answers(self, actions: Sequence[Action]) -> list[StepResult | ToolError]:
        """Return an answer to each action, whatever the environment does."""
        name = type(self._environment).__name__
        try:
            answers = self._environment.step_all(actions)
            if not isinstance(answers, Sequence) or isinstance(answers, str) or len(answers) != len(actions):
                raise ToolError(
                    f"{name}.step_all returned {shortened(answers)}; return an answer to each of the actions"
                )
        except ToolError as error:
            return [error] * len(actions)
        except A2TGPOError:
            raise  # the run's own fault, such as an index of another corpus
        except Exception as failure:
            return [ToolError(f"{name}.step_all: {type(failure).__name__}: {failure}")] * len(actions)
        return [self._checked(answer) for answer in answers]

    def _checked(self, answer: Any) -> StepResult | ToolError:
        try:
            return answer if isinstance(answer, ToolError) else checked_step(answer, self._environment)
        except ToolError as error:
            return error

    def branch(self, row: int, parent: int, turn: int) -> None:
        pass

    def outcome(self, row: int, closing: str | None = None) -> EpisodeOutcome:
        return EpisodeOutcome()

    def environment(self, row: int) -> Any:
        return None

    def close(self) -> None:
        pass
