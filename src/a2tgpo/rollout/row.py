"""A rollout as the backend that keeps keys sees it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from a2tgpo.rollout.backend import Continuation


@dataclass
class Row:
    """A rollout in its slot: `context` is all its tokens, of which the first `n_stored` have keys there.

    It rests once its turn is finished, until the environment lets it go on or ends it. `turn_starts` are the lengths
    that its context had before each turn. `entropies` are those of the turn's first tokens.
    """

    number: int
    context: list[int]
    budget: int
    turn_starts: list[int]
    n_stored: int = 0
    resting: bool = False
    ended: bool = False
    entropies: list[float] = field(default_factory=list)

    @property
    def turn(self) -> list[int]:
        """What the policy has written since the environment's last word."""
        return self.context[self.turn_starts[-1] :]

    @property
    def unread(self) -> list[int]:
        """Tokens that have no keys yet."""
        return self.context[self.n_stored :]

    def n_shared_with(self, context: list[int]) -> int:
        """How many tokens of `context`, all but its last at most, have their keys here."""
        most = min(self.n_stored, len(context) - 1)
        return bisect_left(range(most), True, key=lambda n: self.context[: n + 1] != context[: n + 1])

    def go_on(self, continuation: Continuation) -> None:
        """Append what the environment answers to the turn."""
        self.context += continuation.ids
        self.budget = continuation.budget
        self.turn_starts.append(len(self.context))
        self.resting = False
        self.entropies = []
