"""Hold rollouts as the KV-cache engine sees them, and choose which of them are read in one forward."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from a2tgpo.rollout.engine import Continuation
from a2tgpo.rollout.prompt_lookup import PromptLookup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORWARD_PRICE, FORWARD_PRICE_ON_CPU = 2048, 64
"""Price of a forward however few its tokens, in tokens that could be read in that time. The CPU's was measured, on
0.7 M parameters; the other waits for a GPU."""


def forward_price(model: PreTrainedModel) -> float:
    """Return the price of a forward of this model in tokens.

    On the CPU what a forward takes grows with the layers and what a token takes with the parameters: as many tokens as
    `FORWARD_PRICE_ON_CPU` for the 4 layers and 0.7 M parameters that it was measured on, 7 for SmolLM2-135M.
    """
    if model.device.type != "cpu":
        return float(FORWARD_PRICE)
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return FORWARD_PRICE_ON_CPU * (n_layers / 4) / (model.num_parameters() / 0.7e6) + 5


@dataclass
class Row:
    """Hold a rollout in its slot: `context` is all its tokens, of which the first `n_stored` are stored there.

    It waits for the tool once its turn is finished, until the environment lets it go on or ends it; `asked` once
    it has been handed over. `turn_starts` are
    the lengths that its context had before each turn. `entropies` are those of the turn's first tokens.
    """

    number: int
    context: list[int]
    budget: int
    turn_starts: list[int]
    n_stored: int = 0
    waiting: bool = False
    asked: bool = False
    ended: bool = False
    entropies: list[float] = field(default_factory=list)
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def turn(self) -> list[int]:
        """Return what the policy has written since the environment's last word."""
        return self.context[self.turn_starts[-1] :]

    @property
    def unread(self) -> list[int]:
        """Return the tokens that are not stored yet."""
        return self.context[self.n_stored :]

    def guess(self, n_most: int) -> list[int]:
        """Guess at most `n_most` of the tokens behind the next one's predecessor that the budget leaves room for."""
        return [] if self.waiting else self.lookup.guess(self.context, min(n_most, self.budget - len(self.turn) - 1))

    def n_shared_with(self, context: list[int]) -> int:
        """Count the tokens of `context`, all but its last at most, that have their keys here."""
        most = min(self.n_stored, len(context) - 1)
        return bisect_left(range(most), True, key=lambda n: self.context[: n + 1] != context[: n + 1])

    def go_on(self, continuation: Continuation) -> None:
        """Append what the environment answers to the turn."""
        self.context += continuation.ids
        self.budget = continuation.budget
        self.turn_starts.append(len(self.context))
        self.waiting = self.asked = False
        self.entropies = []


def cheapest_readings(lengths: Sequence[int], most_tokens: int, price: float) -> list[list[int]]:
    """Cut rows into forwards so that padding and forwards together cost the least.

    A forward of R rows, the longest of N tokens, costs `price` + R·N: what any forward takes, in tokens, and the tokens
    that it reads, padding included. In order of length one of the cheapest cuts is into neighbours, so that

        cost(i) = min over j > i of price + (j − i)·N_i + cost(j),    (j − i)·N_i ≤ most_tokens or j = i + 1

    over N_1 ≥ N_2 ≥ … finds it.

    Args:
        lengths: tokens to be read of each row, at least 1.
        most_tokens: most tokens of one forward, padding included; a longer row is read alone.
        price: tokens that could be read in the time that a forward takes whatever its size.

    Returns:
        The rows of each forward, longest first.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    costs, ends = [math.inf] * len(order) + [0], [0] * len(order)
    for i in reversed(range(len(order))):
        width = lengths[order[i]]
        for j in range(i + 1, min(len(order), max(i + 1, i + most_tokens // width)) + 1):
            if (cost := price + (j - i) * width + costs[j]) < costs[i]:
                costs[i], ends[i] = cost, j
    readings, first = [], 0
    while first < len(order):
        readings.append(order[first : ends[first]])
        first = ends[first]
    return readings
