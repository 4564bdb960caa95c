"""The interface between the agent, which knows the environment, and what generates the policy's turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Continuation:
    """What the environment appends to a row's context, and how much the policy may write after it.

    Attributes:
        ids: the prompt, or an observation; at least one token.
        budget: most tokens of the turn that follows, 1 or more.
    """

    ids: list[int]
    budget: int


TakeTurns = Callable[[dict[int, list[int]]], dict[int, Continuation]]
"""Given the sampled ids of finished turns by row, says what each row goes on from; a row left out has ended."""


class Backend(Protocol):
    """Writes turns until every row has ended.

    Row i starts from `starts[i]`. A turn ends with the token that completes a stop string, with an end-of-sequence
    token, or with its budget; nothing sampled after that is part of it. `take_turns` is called with some finished
    turns at a time, as many as suits the backend, never twice for the same turn.
    """

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns) -> None: ...
