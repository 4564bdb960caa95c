"""Play the rollouts of one batch, each of whose tokens is read once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.decoding import Sampler, TurnEnd
from a2tgpo.rollout.engine import Continuation, Turn, evaluating
from a2tgpo.rollout.prompt_lookup import MOST_GUESSES
from a2tgpo.rollout.rows import FORWARD_PRICE, FORWARD_PRICE_ON_CPU, Row, cheapest_readings, forward_price
from a2tgpo.rollout.slot_cache import SlotCache, SlotForward
from a2tgpo.rollout.slot_layout import Chunk
from a2tgpo.signals.answer_likelihood.output_head import LOGITS_AT_ONCE

if TYPE_CHECKING:
    from jaxtyping import Float

TOKENS_PER_READING = 8192
"""Padded tokens of prompts and observations read in one forward."""


def spare_tokens(model: PreTrainedModel) -> int:
    """Return how many more tokens a forward of a few may read in about the time that it takes anyhow (`forward_price`),
    with logits of `LOGITS_AT_ONCE` numbers at most."""
    return int(min(forward_price(model), LOGITS_AT_ONCE / model.config.get_text_config(decoder=True).vocab_size))


@dataclass(frozen=True)
class Decoding:
    """Say how rows are written: the choice of a token, the end of a turn, and how many write and wait at a time.

    Attributes:
        sampler: draws the next token.
        turn_ended: tells whether a turn's last token ends it.
        n_slots: most rows that write at a time.
        waiting_share: in [0, 1], share of the rows that may wait for the tool before they go on together.
    """

    sampler: Sampler
    turn_ended: TurnEnd
    n_slots: int
    waiting_share: float


class Conversation:
    """Play one batch step by step. Row i of `rows` lives in slot i of the cache.

    `begin` and then `go_on` write until enough rows have finished their turn, and give these by number; `rows` is empty
    once all have ended. Where `forwards_per_poll` is not 0 they give nothing after as many forwards, for news of the
    rows that wait for their tool.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoding: Decoding,
        starts: Sequence[Continuation],
        n_entropies: int,
        reader: AnswerReader | None,
        cache: SlotCache,
    ) -> None:
        self.model, self.decoding, self.n_entropies = model, decoding, n_entropies
        self.reader, self.cache = reader, cache
        self.queue = deque(enumerate(starts))
        self.rows: list[Row] = []
        self.device = self.model.device  # a property that walks through the modules at every call
        self.forward = SlotForward(self.model)
        self.forwards_per_poll = 0
        self.spare_tokens = spare_tokens(self.model)
        # A state cannot forget: no guess and no waiting row may run over it, and another row's is of use only behind an
        # equal context. Nor does it know the turn boundaries, where answers are read.
        assert reader is None or cache.states is None, "answers cannot be read from states that have run past them"
        self.keeps_states = cache.states is not None

    @torch.no_grad()
    def begin(self) -> dict[int, Turn]:
        """Write the first turns."""
        with evaluating(self.model):
            self._admit()
            self._read_unread()
            return self._next_turns()

    @torch.no_grad()
    def go_on(self, answers: Mapping[int, Continuation | None]) -> dict[int, Turn]:
        """Take what the environment says to the turns given so far (see `TakeTurns`), and write the next.

        Returns nothing while every row that is left waits for its tool, and where it is time to ask for news of those.
        """
        answered = dict(answers)
        with evaluating(self.model):
            for row in self.rows:
                if row.asked and row.number in answered:
                    if (answer := answered.pop(row.number)) is not None:
                        row.go_on(answer)
                elif row.asked:
                    row.ended = True
            if self.reader is not None and (ended := [slot for slot, row in enumerate(self.rows) if row.ended]):
                self.reader([self.rows[slot] for slot in ended], ended, self.cache, self.device)
            # New rows go first, and before the ended ones leave: they start from their keys.
            begun = [(number, start) for number, start in answered.items() if start is not None]
            self.queue.extendleft(reversed(begun))
            self._admit()
            for slot in reversed(range(len(self.rows))):
                if self.rows[slot].ended:
                    self._leave(slot)
            self._read_unread()
            return self._next_turns()

    @property
    def writing(self) -> bool:
        """Tell whether a row can write without news of its tool."""
        return any(not row.asked for row in self.rows)

    def _next_turns(self) -> dict[int, Turn]:
        n_forwards = 0
        while self.rows:
            waiting = [row for row in self.rows if row.waiting and not row.asked]
            n_here = sum(not row.asked for row in self.rows)
            if waiting and len(waiting) >= self.decoding.waiting_share * n_here:
                for row in waiting:
                    row.asked = True
                return {row.number: Turn(row.turn, row.entropies) for row in waiting}
            if n_here == 0:
                return {}
            writing = [slot for slot, row in enumerate(self.rows) if not row.waiting]
            # Some of the rows alone cost a copy of their keys.
            alone = self.keeps_states or 2 * len(writing) <= len(self.rows)
            self._write(writing if alone else range(len(self.rows)))
            n_forwards += 1
            if n_here < len(self.rows) and n_forwards == self.forwards_per_poll:
                return {}
        return {}

    def _leave(self, slot: int) -> None:
        last = self.rows.pop()
        if slot < len(self.rows):
            self.rows[slot] = last
            self.cache.copy(len(self.rows), slot, last.n_stored)

    def _admit(self) -> None:
        """Give queued rows a slot, and the KV cache there is of their first tokens."""
        n_free = self.decoding.n_slots - sum(not row.ended for row in self.rows)
        sources = [slot for slot, row in enumerate(self.rows) if row.n_stored and not self.keeps_states]
        for _ in range(min(n_free, len(self.queue))):
            number, start = self.queue.popleft()
            row = Row(number, list(start.ids), start.budget, turn_starts=[len(start.ids)])
            row.n_stored, source = max(
                ((self.rows[slot].n_shared_with(row.context), slot) for slot in sources), default=(0, 0)
            )
            self.cache.copy(source, len(self.rows), row.n_stored)
            self.rows.append(row)

    def _read_unread(self) -> None:
        """Read the prompts and observations of all rows that have not yet, those of equal contexts once."""
        leaders: dict[tuple[int, ...], int] = {}
        unread = [slot for slot, row in enumerate(self.rows) if not row.turn]
        # A follower reads its last token only, once it has its leader's keys, or the leader's state before that token.
        followers = {
            slot: leader
            for slot in unread
            if (leader := leaders.setdefault(tuple(self.rows[slot].context), slot)) != slot
        }
        own = [slot for slot in unread if slot not in followers]
        if self.keeps_states:
            self._read_all_but_last(sorted(set(followers.values())))
        else:
            self._read(own)
        for slot, leader in followers.items():
            self.rows[slot].n_stored = len(self.rows[slot].context) - 1
            self.cache.copy(leader, slot, self.rows[slot].n_stored)
        self._read(unread if self.keeps_states else list(followers))

    def _read(self, slots: list[int]) -> None:
        """Forward the unread tokens of `slots`, those of like length together, and write each turn's first token."""
        for reading in self._readings(slots, [len(self.rows[slot].unread) for slot in slots]):
            self._write(reading)

    def _read_all_but_last(self, slots: list[int]) -> None:
        """Forward the unread tokens of `slots` but the last of each, if there are others."""
        slots = [slot for slot in slots if len(self.rows[slot].unread) > 1]
        for reading in self._readings(slots, [len(self.rows[slot].unread) - 1 for slot in slots]):
            rows = [self.rows[slot] for slot in reading]
            stored = [row.n_stored for row in rows]
            self.forward(Chunk.pack([row.unread[:-1] for row in rows], stored, reading, self.device), self.cache)
            for row in rows:
                row.n_stored = len(row.context) - 1

    def _readings(self, slots: list[int], lengths: list[int]) -> Iterator[list[int]]:
        price = FORWARD_PRICE_ON_CPU if self.device.type == "cpu" else FORWARD_PRICE
        for reading in cheapest_readings(lengths, TOKENS_PER_READING, price):
            yield sorted(slots[i] for i in reading)

    def _write(self, slots: Sequence[int]) -> None:
        """Forward the unread tokens of `slots`, with guesses of those that follow, and append the next token to each
        row that does not wait, and the one after as long as the guess was right."""
        rows = [self.rows[slot] for slot in slots]
        n_guesses = 0 if self.keeps_states else min(MOST_GUESSES, self.spare_tokens // len(rows))
        guesses = [row.guess(n_guesses) for row in rows]
        logits = self._forward(rows, guesses, slots)
        # Behind a row's last token, and behind each of its guesses; logits end with the last of these.
        n_last = logits.size(1) - 1
        drawn_at = [(r, i) for r, row in enumerate(rows) if not row.waiting for i in range(len(guesses[r]) + 1)]
        places = zip(*((r, n_last - len(guesses[r]) + i) for r, i in drawn_at), strict=True)
        writing = [(rows[r], rows[r].context + guesses[r][:i]) for r, i in drawn_at]
        drawn = zip(*self._draw(logits[tuple(places)], writing), strict=True)
        for row, guess in zip(rows, guesses, strict=True):
            if not row.waiting:
                self._append(row, guess, [next(drawn) for _ in range(len(guess) + 1)])

    def _append(self, row: Row, guess: list[int], drawn: list[tuple[int, float]]) -> None:
        """Append the tokens drawn behind `guess` up to the first that differs from it, or ends the turn."""
        for (token, entropy), guessed in zip(drawn, [*guess, None], strict=True):
            if len(row.turn) < self.n_entropies:
                row.entropies.append(entropy)
            row.n_stored = len(row.context)
            row.context.append(token)
            row.waiting = len(row.turn) >= row.budget or self.decoding.turn_ended(row.turn)
            if row.waiting or token != guessed:
                return

    def _draw(
        self, logits: Float[Tensor, "N V"], writing: Sequence[tuple[Row, list[int]]]
    ) -> tuple[list[int], list[float]]:
        """Draw the next token of each row behind a context, with its entropy where one of them is asked for."""
        contexts = [context for _, context in writing]
        if self.n_entropies and any(len(row.turn) < self.n_entropies for row, _ in writing):
            return self.decoding.sampler.with_entropies(logits, contexts)
        return self.decoding.sampler(logits, contexts), [math.nan] * len(contexts)

    def _forward(self, rows: list[Row], guesses: Sequence[list[int]], slots: Sequence[int]) -> Float[Tensor, "R N V"]:
        """Return the logits behind each row's last token and behind its guesses, in the last columns."""
        tokens = [row.unread + guess for row, guess in zip(rows, guesses, strict=True)]
        chunk = Chunk.pack(tokens, [row.n_stored for row in rows], slots, self.device)
        return self.forward(chunk, self.cache, 1 + max(map(len, guesses)))
