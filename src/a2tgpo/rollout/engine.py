"""Define the interface between the agent, which knows the environment, and the engine that generates its turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn


@dataclass(frozen=True)
class Continuation:
    """Hold what the environment appends to a row's context, and how much the policy may write after it.

    Attributes:
        ids: the whole context of a new row, an observation for a row that goes on; at least one token.
        budget: most tokens of the turn that follows, 1 or more.
    """

    ids: list[int]
    budget: int


@dataclass(frozen=True)
class Turn:
    """Hold one turn that the policy wrote.

    Attributes:
        ids: at least one token.
        entropies: in nats, of the distributions that the first tokens were drawn from: as many as were asked for, or
            as the turn has. 0 for a greedy choice.
        logps: log-probability of each token as an engine apart from the policy drew it, NaN where the engine cannot
            tell; empty from engines that run the policy itself.
    """

    ids: list[int]
    entropies: list[float] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


TakeTurns = Callable[[dict[int, Turn]], Mapping[int, Continuation | None]]
"""Given finished turns by row, say what each row goes on from; None for a row that still waits for its tool. Every row
that was given or waited and is left out has ended; a number that no row has had begins a new row, from the KV cache of
those it shares its first tokens with where the engine has one. Called with no turns, when no row can write, it waits
until one of those that wait for their tool can go on or has ended. It may have a method `poll()`, which says the same
of the rows that wait while others write, and waits for nothing."""


class GenerationEngine(Protocol):
    """Write turns until every row has ended.

    Row i starts from `starts[i]`. A turn ends with the token that completes a stop string, with an end-of-sequence
    token, or with its budget; nothing sampled after that is part of it. `take_turns` is called with some finished
    turns at a time, as many as suits the engine, never twice for the same turn. Each turn comes with the entropies of
    its first `n_entropies` tokens.
    """

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None: ...


def ready(answers: Mapping[int, Continuation | None], take_turns: TakeTurns) -> dict[int, Continuation]:
    """Return the rows that can write now, for engines whose rows go turn by turn; wait where all wait for their tools.

    `answers` is what `take_turns` returned last.
    """
    while True:
        going = {row: start for row, start in answers.items() if start is not None}
        if going or not answers:
            return going
        answers = take_turns({})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; the model trains on afterwards if it did before."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
