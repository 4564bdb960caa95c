"""The interface between the agent, which knows the environment, and what generates the policy's turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Continuation:
    """What the environment appends to a row's context, and how much the policy may write after it.

    Attributes:
        ids: the whole context of a new row, an observation for a row that goes on; at least one token.
        budget: most tokens of the turn that follows, 1 or more.
    """

    ids: list[int]
    budget: int


@dataclass(frozen=True)
class Turn:
    """What the policy wrote.

    Attributes:
        ids: at least one token.
        entropies: in nats, of the distributions that the first tokens were drawn from: as many as were asked for, or
            as the turn has. 0 for a greedy choice.
        logps: log-probability of each token as an engine apart from the policy drew it, NaN where the engine cannot
            tell; empty from backends that run the policy itself.
    """

    ids: list[int]
    entropies: list[float] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


TakeTurns = Callable[[dict[int, Turn]], dict[int, Continuation]]
"""Given finished turns by row, says what each row goes on from. A row left out has ended; a number that no row has had
begins a new row, from the keys of those it shares its first tokens with where the backend keeps keys."""


class Backend(Protocol):
    """Writes turns until every row has ended.

    Row i starts from `starts[i]`. A turn ends with the token that completes a stop string, with an end-of-sequence
    token, or with its budget; nothing sampled after that is part of it. `take_turns` is called with some finished
    turns at a time, as many as suits the backend, never twice for the same turn. Each turn comes with the entropies of
    its first `n_entropies` tokens.
    """

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None: ...
