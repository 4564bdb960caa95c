"""Play a batch of rollouts: read each turn, ask the environment, show its answer, until every rollout has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from a2tgpo.environments.environment import Action, StepResult
from a2tgpo.environments.episodes import Episodes
from a2tgpo.errors import ToolError
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.expansion import RolloutGroups
from a2tgpo.rollout.protocol import Answer, Ending, Malformed, judge_turn
from a2tgpo.rollout.turn_protocol import TurnProtocol
from a2tgpo.rollout.types import Rollout, Termination, ToolCall


@dataclass(frozen=True)
class RolloutLimits:
    """Bound one rollout.

    Args:
        max_searches: tool calls; one more turn is left for the answer. The paper uses 6.
        max_completion_tokens: everything after the prompt, observations included.
        max_turn_tokens: one policy turn.
        max_prompt_tokens: a longer prompt is an error in the data.
        passage_tokens: one passage's text, longer ones are cut.
    """

    max_searches: int = 6
    max_completion_tokens: int = 4096
    max_turn_tokens: int = 512
    max_prompt_tokens: int = 1024
    passage_tokens: int = 160

    def __post_init__(self) -> None:
        for name in ("max_completion_tokens", "max_turn_tokens", "max_prompt_tokens", "passage_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1 token")
        if self.max_searches < 0:
            raise ValueError(f"max_searches={self.max_searches}: must be 0 (no tool) or more")


@dataclass(frozen=True)
class _Asked:
    """Hold what a rollout waits for: the answers to the actions of its last turn."""

    actions: Sequence[Action]
    since: float


class Play:
    """Play one batch: what the engine wrote goes in, what each row goes on from comes out.

    Args:
        protocol: reads turns and shows answers.
        limits: budgets of each rollout.
        end_id: the end of sequence, which closes a rollout.
        episodes: answer the actions.
        groups: the rollouts by row.
    """

    def __init__(
        self,
        protocol: TurnProtocol,
        limits: RolloutLimits,
        end_id: int,
        episodes: Episodes,
        groups: RolloutGroups,
    ) -> None:
        self.protocol, self.limits, self.end_id = protocol, limits, end_id
        self.episodes, self.groups = episodes, groups
        self.n_calls = self.n_refused = self.n_failed = 0
        self._n_writing = 0
        self._asked: dict[int, _Asked] = {}
        self._unsettled: dict[int, Turn] = {}
        self._said_last: dict[int, list[int]] = {}
        self._failed_resets: dict[int, ToolError] = {}

    def start(self, failed: Mapping[int, ToolError]) -> list[Continuation]:
        """Return what every rollout starts from; those whose episode did not begin end with their first token."""
        self._failed_resets = dict(failed)
        self._n_writing = len(self.groups.rollouts)
        return [self._begin(row, 1 if row in failed else None) for row in range(len(self.groups.rollouts))]

    def poll(self) -> dict[int, Continuation | None]:
        """Say what has come of the rows that wait for their tool, while others write."""
        return self._collect(idle=False)

    def __call__(self, turns: dict[int, Turn]) -> dict[int, Continuation | None]:
        """Take finished turns (see `TakeTurns`)."""
        self._n_writing -= len(turns)
        for row, turn in turns.items():
            self._take(row, turn)
        self.groups.name_turns(turns)
        self._unsettled |= turns
        return self._collect(idle=not turns or self._n_writing == 0)

    def _collect(self, *, idle: bool) -> dict[int, Continuation | None]:
        going: dict[int, Continuation | None] = {}
        for row, answers in self.episodes.collect(idle=idle).items():
            shown = self._answer(row, self._asked.pop(row), answers)
            if shown is not None:
                self._said_last[row] = shown
                going[row] = Continuation(shown, self._turn_budget(self.groups.rollouts[row]))
        settled = {row: turn for row, turn in self._unsettled.items() if row not in self._asked}
        for row in settled:
            del self._unsettled[row]
        going |= self._branch(settled)
        self._n_writing += len(going)
        return going | dict.fromkeys(self._asked)

    def _branch(self, settled: Mapping[int, Turn]) -> dict[int, Continuation]:
        started = {}
        for row, branch in self.groups.branch(settled).items():
            self.episodes.branch(row, branch.parent, branch.turn)
            started[row] = self._begin(row, None)
        return started

    def _begin(self, row: int, budget: int | None) -> Continuation:
        rollout = self.groups.rollouts[row]
        self._said_last[row] = _last_said(rollout)
        return Continuation(rollout.ids, self._turn_budget(rollout) if budget is None else budget)

    def _turn_budget(self, rollout: Rollout) -> int:
        # One token is kept for the closing end-of-sequence token.
        left = self.limits.max_completion_tokens - len(rollout.completion_ids) - 1
        return max(1, min(left, self.limits.max_turn_tokens))

    def _take(self, row: int, turn: Turn) -> None:
        """Append a turn; ask the environment for what it calls, or end the rollout."""
        rollout = self.groups.rollouts[row]
        cut = len(turn.ids) >= self._turn_budget(rollout)
        rollout.append(turn.ids, by_policy=True, logps=turn.logps)
        rollout.turn_rewards.append(None)
        rollout.turn_texts.append(self.protocol.text(turn.ids, self._said_last[row]))
        if row in self._failed_resets:
            self._end(row, Ending(Termination.TOOL_FAILED, f"reset: {self._failed_resets[row]}"))
            return
        read = self.protocol.read(turn.ids, self._said_last[row])
        if isinstance(read, Answer):
            read = self.protocol.check_answer(read, rollout.turn_texts)
        if isinstance(read, Answer | Malformed):
            ending = judge_turn(read, len(rollout.calls), self.limits.max_searches, cut=cut)
            assert isinstance(ending, Ending)
            self._end(row, ending)
        elif len(rollout.calls) + len(read) > self.limits.max_searches:
            first, n = read[0], len(rollout.calls)
            said = f"{first.tool} {first.text!r} after {n} {'searches' if first.tool == 'search' else 'calls'}"
            self._end(row, Ending(Termination.OUT_OF_TURNS, said))
        else:
            self.n_calls += len(read)
            self._asked[row] = _Asked(read, time.monotonic())
            self.episodes.submit(row, read)

    def _answer(self, row: int, asked: _Asked, answers: Sequence[StepResult] | ToolError) -> list[int] | None:
        """Append what the environment says; return it, or None where the rollout has ended."""
        rollout = self.groups.rollouts[row]
        if isinstance(answers, ToolError):
            self.n_failed += 1
            first = asked.actions[0]
            self._end(row, Ending(Termination.TOOL_FAILED, f"{first.tool} {first.text!r}: {answers}"))
            return None
        turn, seconds = len(rollout.turn_rewards) - 1, time.monotonic() - asked.since
        answered = list(zip(asked.actions, answers, strict=False))
        for action, answer in answered:
            ids = () if isinstance(answer.observation, str) else tuple(p.id for p in answer.observation)
            refused = bool(answer.info.get("refused"))
            self.n_refused += refused
            rollout.calls.append(ToolCall(action.text, ids, action.tool, turn, seconds, refused))
        rewards = [float(answer.reward) for answer in answers if answer.reward is not None]
        rollout.turn_rewards[-1] = sum(rewards) if rewards else None
        done = any(answer.done for answer in answers)
        says_nothing = done and all(answer.observation == "" for answer in answers)
        seen = [(action, answer.observation) for action, answer in answered]
        shown = [] if says_nothing else self.protocol.show(seen, rollout.prompt_ids)
        # The next turn needs room for at least one token and the end of sequence.
        fits = len(rollout.completion_ids) + len(shown) + 2 <= self.limits.max_completion_tokens
        if fits:
            rollout.append(shown, by_policy=False)
        if done:
            self._end(row, Ending(Termination.ENVIRONMENT_DONE))
        elif not fits:
            first = asked.actions[0]
            said = f"the result of {first.tool} {first.text!r} does not fit"
            self._end(row, Ending(Termination.OUT_OF_TOKENS, said))
        return shown if fits and not done else None

    def _end(self, row: int, ending: Ending) -> None:
        rollout = self.groups.rollouts[row]
        rollout.answer = ending.answer
        rollout.end(ending.termination, ending.reason)
        rollout.environment = self.episodes.environment(row)
        if ending.termination is Termination.TOOL_FAILED:
            return
        # TRL reads a completion without an end-of-sequence token as truncated.
        if ending.termination is not Termination.OUT_OF_TOKENS and rollout.completion_ids[-1] != self.end_id:
            rollout.append([self.end_id], by_policy=False)
        self._reveal(row, rollout)

    def _reveal(self, row: int, rollout: Rollout) -> None:
        """Read the outcome and the answer that the environment gives after the episode."""
        try:
            closes = rollout.termination in (Termination.ANSWERED, Termination.MALFORMED)
            ended = self.episodes.outcome(row, rollout.turn_texts[-1] if closes else None)
            outcome = None if ended.reward is None else float(ended.reward)
        except Exception as failure:
            rollout.termination = Termination.TOOL_FAILED
            said = str(failure) if isinstance(failure, ToolError) else f"{type(failure).__name__}: {failure}"
            rollout.reason = f"after the episode: {said}"
            self.n_failed += 1
            return
        given = [reward for reward in rollout.turn_rewards if reward is not None]
        rollout.outcome = outcome if outcome is not None else sum(given) if given else None
        rollout.revealed_answer, rollout.success = ended.answer, ended.success


def _last_said(rollout: Rollout) -> list[int]:
    """Return the tokens that the environment wrote last: an observation, or the prompt."""
    written = [i for i, own in enumerate(rollout.model_mask) if own]
    return rollout.completion_ids[written[-1] + 1 :] if written else rollout.prompt_ids
