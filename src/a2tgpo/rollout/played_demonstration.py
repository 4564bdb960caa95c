"""Let a function play episodes, and tokenise them exactly as sampled rollouts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.environment import Action, Row, StepResult, shortened
from a2tgpo.environments.episodes import EnvironmentSource, EpisodeOutcome, Episodes
from a2tgpo.errors import DataError, ToolError
from a2tgpo.rollout.agent import Agent, ToolHealth
from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn, ready
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.signals.answer_likelihood.scaffold import opens_thought

Demonstrate = Callable[[Row, Sequence[str]], str]
"""Return the next turn of a row's episode. The texts are what was read so far: first what `reset` said, empty for
nothing, then the answer to each turn."""

_BATCH = 256


def play_demonstrations(agent: Agent, rows: Sequence[Row], demonstrate: Demonstrate) -> list[dict[str, list[int]]]:
    """Return token ids and mask, as `encode_demonstration` does, of episodes that `demonstrate` plays.

    The agent's own loop plays them, so that observations, tokens and endings are those of a policy that wrote the same
    turns. Episodes that the environment failed, and those in which a turn was malformed or cut, are left out.

    Args:
        agent: of the environment.
        rows: of the data set, an episode each, with a `prompt`.
        demonstrate: writes the turns.

    Raises:
        DataError: no episode was played to an end that can be learned from.
    """
    listening = copy.copy(agent)
    listening.health = ToolHealth()
    rollouts: list[Rollout] = []
    for first in range(0, len(rows), _BATCH):
        batch = rows[first : first + _BATCH]
        source = _Listening(agent.environment)
        listening.environment = source
        rollouts += listening.run(
            [row["prompt"] for row in batch], _Player(agent, batch, demonstrate, source), rows=batch
        )
    failed = (Termination.TOOL_FAILED, Termination.MALFORMED, Termination.OUT_OF_TOKENS)
    kept = [rollout for rollout in rollouts if rollout.termination not in failed]
    if rollouts and not kept:
        raise DataError(f"none of {len(rollouts)} demonstrations can be learned from; the first: {rollouts[0].reason}")
    return [
        {"input_ids": rollout.ids, "completion_mask": [0] * len(rollout.prompt_ids) + rollout.model_mask}
        for rollout in kept
    ]


class _Listening:
    """Open the episodes of one batch (an `EnvironmentSource`); `texts` are what they say, by row."""

    def __init__(self, source: EnvironmentSource) -> None:
        self._source, self.tools = source, source.tools
        self.texts: dict[int, list[str]] = {}

    def open(self, *, branching: bool) -> Episodes:
        """Begin the batch."""
        return _HeardEpisodes(self._source.open(branching=branching), self.texts)


@dataclass
class _HeardEpisodes:
    """Keep what episodes say (`Episodes`)."""

    episodes: Episodes
    texts: dict[int, list[str]]

    def reset(self, rows: Mapping[int, Row]) -> dict[int, str | ToolError | None]:
        shown = self.episodes.reset(rows)
        self.texts |= {row: [said.strip() if isinstance(said, str) else ""] for row, said in shown.items()}
        return shown

    def submit(self, row: int, actions: Sequence[Action]) -> None:
        self.episodes.submit(row, actions)

    def collect(self, *, idle: bool) -> dict[int, Sequence[StepResult] | ToolError]:
        found = self.episodes.collect(idle=idle)
        for row, answers in found.items():
            if not isinstance(answers, ToolError):
                self.texts[row].append("\n".join(str(answer.observation) for answer in answers))
        return found

    def branch(self, row: int, parent: int, turn: int) -> None:
        self.episodes.branch(row, parent, turn)

    def outcome(self, row: int, closing: str | None = None) -> EpisodeOutcome:
        return self.episodes.outcome(row, closing)

    def environment(self, row: int) -> Any:
        return self.episodes.environment(row)

    def close(self) -> None:
        self.episodes.close()


@dataclass(frozen=True)
class _Player:
    """Write the turns of demonstrations (a `GenerationEngine`)."""

    agent: Agent
    rows: Sequence[Row]
    demonstrate: Demonstrate
    heard: _Listening

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        opened = {row: opens_thought(self.agent.tokenizer, start.ids) for row, start in enumerate(starts)}
        going = dict(enumerate(starts))
        while going:
            turns = {}
            for row, start in going.items():
                text = self.demonstrate(self.rows[row], tuple(self.heard.texts[row]))
                if not isinstance(text, str):
                    raise DataError(
                        f"the demonstration of row {self.rows[row].get('id', row)!r} is {shortened(text)}; return the "
                        "text of the next turn"
                    )
                ids = self.agent.encode_turn(text.removeprefix("<think> " if opened[row] else ""))
                turns[row] = Turn(ids[: start.budget])
            going = ready(take_turns(turns), take_turns)
