"""Generation that keeps each rollout's keys over all its turns."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.rollout.answers import AnswerReader
from a2tgpo.rollout.backend import Continuation, TakeTurns, Turn
from a2tgpo.rollout.readings import cheapest_readings
from a2tgpo.rollout.row import Row
from a2tgpo.rollout.sampler import Sampler
from a2tgpo.rollout.slots import Chunk, SlotCache
from a2tgpo.rollout.turn_end import TurnEnd
from a2tgpo.scoring.forward import no_router_logits

if TYPE_CHECKING:
    from jaxtyping import Float

RESTING_SHARE = 1 / 8
"""Share of the rows that may wait, their turn finished, before they go on together: where every forward has its price,
however few its tokens. On the CPU it costs little more than its tokens cost, and no row waits."""

FORWARD_PRICE, FORWARD_PRICE_ON_CPU = 2048, 64
"""What a forward takes however few its tokens, in tokens that could be read in that time."""

TOKENS_PER_READING = 8192
"""Padded tokens of prompts and observations read in one forward."""


class KeptKeysBackend:
    """`Backend` over a Hugging Face causal LM that reads every token once.

    Rows write at their own pace: a row whose turn has ended rests until `resting_share` of the rows do, then all that
    rest are handed to the environment and go on from their observations, the only tokens then read. Ended rows leave,
    and waiting rows take their slots. A row starts from the keys of the row that shares the most of its first tokens;
    rows with the same context share one reading of the rest.

    Args:
        model: unwrapped causal LM for which `why_not_kept` is None.
        tokenizer: the policy's.
        sampler: how the next token is drawn.
        stop_strings: texts that close a turn.
        n_slots: most rows that write at a time.
        resting_share: in [0, 1]; None takes what suits the device: 0 on the CPU, else `RESTING_SHARE`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Sampler,
        stop_strings: Sequence[str],
        n_slots: int = 256,
        resting_share: float | None = None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.turn_ended = TurnEnd(tokenizer, stop_strings, sampler.config.eos_token_id)
        self.n_slots = n_slots
        by_device = 0.0 if model.device.type == "cpu" else RESTING_SHARE
        self.resting_share = by_device if resting_share is None else resting_share
        self._cache: SlotCache | None = None

    @torch.no_grad()
    def __call__(
        self,
        starts: Sequence[Continuation],
        take_turns: TakeTurns,
        n_entropies: int = 0,
        reader: AnswerReader | None = None,
    ) -> None:
        """See `Backend`; `reader` is shown the keys of every row that ends."""
        was_training = self.model.training
        self.model.eval()
        cache = self._cache or SlotCache(self.model.config.get_text_config(decoder=True).num_hidden_layers)
        try:
            _Batch(self, starts, take_turns, n_entropies, reader, cache).run()
        finally:
            self.model.train(was_training)
        # Fresh memory costs the CPU a fault for every page. On a GPU the update needs the room.
        self._cache = cache if self.model.device.type == "cpu" else None


class _Batch:
    """One call of the backend. Row i of `rows` lives in slot i."""

    def __init__(
        self,
        backend: KeptKeysBackend,
        starts: Sequence[Continuation],
        take_turns: TakeTurns,
        n_entropies: int,
        reader: AnswerReader | None,
        cache: SlotCache,
    ) -> None:
        self.backend, self.model, self.take_turns, self.n_entropies = backend, backend.model, take_turns, n_entropies
        self.reader, self.cache = reader, cache
        self.queue = deque(enumerate(starts))
        self.rows: list[Row] = []
        # Properties that walk through the modules at every call.
        self.device, self.dtype = self.model.device, self.model.dtype
        self.extra = no_router_logits(self.model)

    def run(self) -> None:
        self._admit()
        self._read_unread()
        while self.rows:
            n_resting = sum(row.resting for row in self.rows)
            if n_resting and n_resting >= self.backend.resting_share * len(self.rows):
                self._settle()
            else:
                self._write(range(len(self.rows)))

    def _settle(self) -> None:
        """Hand finished turns to the environment and read what it answers."""
        resting = {row.number: row for row in self.rows if row.resting}
        answers = self.take_turns({number: Turn(row.turn, row.entropies) for number, row in resting.items()})
        for number, row in resting.items():
            if number in answers:
                row.go_on(answers.pop(number))
            else:
                row.ended = True
        if self.reader is not None and (ended := [slot for slot, row in enumerate(self.rows) if row.ended]):
            self.reader([self.rows[slot] for slot in ended], ended, self.cache, self.device)
        # New rows go first, and before the ended ones leave: they start from their keys.
        self.queue.extendleft(reversed(answers.items()))
        self._admit()
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].ended:
                self._leave(slot)
        self._read_unread()

    def _leave(self, slot: int) -> None:
        last = self.rows.pop()
        if slot < len(self.rows):
            self.rows[slot] = last
            self.cache.copy(len(self.rows), slot, last.n_stored)

    def _admit(self) -> None:
        """Give waiting rows a slot, and what keys there are of their first tokens."""
        n_free = self.backend.n_slots - sum(not row.ended for row in self.rows)
        sources = [slot for slot, row in enumerate(self.rows) if row.n_stored]
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
        # A follower reads its last token only, once it has its leader's keys.
        followers = {
            slot: leader
            for slot in unread
            if (leader := leaders.setdefault(tuple(self.rows[slot].context), slot)) != slot
        }
        self._read([slot for slot in unread if slot not in followers])
        for slot, leader in followers.items():
            self.rows[slot].n_stored = len(self.rows[slot].context) - 1
            self.cache.copy(leader, slot, self.rows[slot].n_stored)
        self._read(list(followers))

    def _read(self, slots: list[int]) -> None:
        """Forward the unread tokens of `slots`, those of like length together, and write each turn's first token."""
        price = FORWARD_PRICE_ON_CPU if self.device.type == "cpu" else FORWARD_PRICE
        lengths = [len(self.rows[slot].unread) for slot in slots]
        for reading in cheapest_readings(lengths, TOKENS_PER_READING, price):
            self._write(sorted(slots[i] for i in reading))

    def _write(self, slots: Sequence[int]) -> None:
        """Forward the unread tokens of `slots` and append the next token to each row that does not rest."""
        rows = [self.rows[slot] for slot in slots]
        for row, token, entropy in zip(rows, *self._draw(self._forward(rows, slots), rows), strict=True):
            if row.resting:
                continue
            if len(row.turn) < self.n_entropies:
                row.entropies.append(entropy)
            row.n_stored = len(row.context)
            row.context.append(token)
            row.resting = len(row.turn) >= row.budget or self.backend.turn_ended(row.turn)

    def _draw(self, logits: Float[Tensor, "R V"], rows: list[Row]) -> tuple[list[int], list[float]]:
        """The next token of each row, with its entropy where one of them is asked for."""
        contexts = [row.context for row in rows]
        if self.n_entropies and any(len(row.turn) < self.n_entropies for row in rows):
            return self.backend.sampler.with_entropies(logits, contexts)
        return self.backend.sampler(logits, contexts), [math.nan] * len(rows)

    def _forward(self, rows: list[Row], slots: Sequence[int]) -> Float[Tensor, "R V"]:
        chunk = Chunk.pack([row.unread for row in rows], [row.n_stored for row in rows], slots, self.device)
        self.cache.placement = chunk
        output = self.model(
            input_ids=chunk.input_ids,
            attention_mask=chunk.attention_mask(self.dtype),
            position_ids=chunk.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **self.extra,
        )
        return output.logits[:, -1]
