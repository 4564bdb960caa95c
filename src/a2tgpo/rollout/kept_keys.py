"""Generation that keeps each rollout's keys over all its turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.rollout.backend import Continuation, TakeTurns
from a2tgpo.rollout.sampler import Sampler
from a2tgpo.rollout.slots import Chunk, SlotCache
from a2tgpo.rollout.turn_end import TurnEnd
from a2tgpo.scoring.forward import _no_router_logits

if TYPE_CHECKING:
    from jaxtyping import Float

RESTING_SHARE = 1 / 8
"""Share of the rows that may wait, their turn finished, before their observations are fetched and read together."""

TOKENS_PER_READING = 8192
"""Padded tokens of prompts and observations read in one forward."""


class KeptKeysBackend:
    """`Backend` over a Hugging Face causal LM that reads every token once.

    Rows write at their own pace: a row whose turn has ended rests until an eighth of the rows do, then all that rest
    are handed to the environment and go on from their observations, the only tokens then read. Ended rows leave, and
    waiting prompts take their slots. Rows that start from the same tokens share one reading of them.

    Args:
        model: unwrapped causal LM for which `why_not_kept` is None.
        tokenizer: the policy's.
        sampler: how the next token is drawn.
        stop_strings: texts that close a turn.
        n_slots: most rows held at a time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Sampler,
        stop_strings: Sequence[str],
        n_slots: int = 256,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.turn_ended = TurnEnd(tokenizer, stop_strings, sampler.config.eos_token_id)
        self.n_slots = n_slots

    @torch.no_grad()
    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns) -> None:
        was_training = self.model.training
        self.model.eval()
        try:
            _Batch(self, starts, take_turns).run()
        finally:
            self.model.train(was_training)


@dataclass
class _Row:
    """A rollout in its slot: `context` is all its tokens, of which the first `n_stored` have keys there."""

    number: int
    context: list[int]
    budget: int
    turn_start: int
    n_stored: int = 0
    resting: bool = False

    @property
    def turn(self) -> list[int]:
        return self.context[self.turn_start :]

    @property
    def unread(self) -> list[int]:
        return self.context[self.n_stored :]

    def go_on(self, continuation: Continuation) -> None:
        self.context += continuation.ids
        self.budget = continuation.budget
        self.turn_start = len(self.context)
        self.resting = False


class _Batch:
    """One call of the backend. Row i of `rows` lives in slot i."""

    def __init__(self, backend: KeptKeysBackend, starts: Sequence[Continuation], take_turns: TakeTurns) -> None:
        self.backend, self.model, self.take_turns = backend, backend.model, take_turns
        self.queue = deque(enumerate(starts))
        self.rows: list[_Row] = []
        config = self.model.config.get_text_config(decoder=True)
        self.eager = config._attn_implementation == "eager"
        self.extra = _no_router_logits(self.model)
        self.cache = SlotCache(config.num_hidden_layers, min(backend.n_slots, len(starts)))

    def run(self) -> None:
        self._admit()
        while self.rows:
            n_resting = sum(row.resting for row in self.rows)
            if n_resting and n_resting >= RESTING_SHARE * len(self.rows):
                self._settle()
            else:
                self._write(range(len(self.rows)))

    def _settle(self) -> None:
        """Hand finished turns to the environment and read what it answers."""
        resting = [row for row in self.rows if row.resting]
        continuations = self.take_turns({row.number: row.turn for row in resting})
        for row in resting:
            if row.number in continuations:
                row.go_on(continuations[row.number])
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].resting:
                self._leave(slot)
        self._admit()

    def _leave(self, slot: int) -> None:
        last = self.rows.pop()
        if slot < len(self.rows):
            self.rows[slot] = last
            self.cache.copy(len(self.rows), slot, last.n_stored)

    def _admit(self) -> None:
        """Fill free slots from the queue, then read the prompts and observations of all rows that have not yet."""
        while self.queue and len(self.rows) < self.backend.n_slots:
            number, start = self.queue.popleft()
            self.rows.append(_Row(number, list(start.ids), start.budget, turn_start=len(start.ids)))
        leaders: dict[tuple[int, ...], int] = {}
        unread = [slot for slot, row in enumerate(self.rows) if not row.turn]
        for slot in unread:
            if self.rows[slot].n_stored == 0:
                leaders.setdefault(tuple(self.rows[slot].context), slot)
        # A follower reads its last token only, once it has its leader's keys.
        followers = {
            slot: leader
            for slot in unread
            if self.rows[slot].n_stored == 0 and (leader := leaders[tuple(self.rows[slot].context)]) != slot
        }
        self._read([slot for slot in unread if slot not in followers])
        for slot, leader in followers.items():
            self.rows[slot].n_stored = len(self.rows[slot].context) - 1
            self.cache.copy(leader, slot, self.rows[slot].n_stored)
        self._read(list(followers))

    def _read(self, slots: list[int]) -> None:
        """Forward the unread tokens of `slots`, long ones together, and write each turn's first token."""
        slots = sorted(slots, key=lambda slot: len(self.rows[slot].unread), reverse=True)
        while slots:
            n_rows = max(1, TOKENS_PER_READING // len(self.rows[slots[0]].unread))
            self._write(sorted(slots[:n_rows]))
            slots = slots[n_rows:]

    def _write(self, slots: Sequence[int]) -> None:
        """Forward the unread tokens of `slots` and append the next token to each row that does not rest."""
        rows = [self.rows[slot] for slot in slots]
        logits = self._forward(rows, slots)
        tokens = self.backend.sampler(logits, [row.context for row in rows])
        for row, token in zip(rows, tokens, strict=True):
            if row.resting:
                continue
            row.n_stored = len(row.context)
            row.context.append(token)
            row.resting = len(row.turn) >= row.budget or self.backend.turn_ended(row.turn)

    def _forward(self, rows: list[_Row], slots: Sequence[int]) -> Float[Tensor, "R V"]:
        chunk = Chunk.pack([row.unread for row in rows], [row.n_stored for row in rows], slots, self.model.device)
        self.cache.chunk = chunk
        mask = chunk.attention_mask
        if self.eager:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        output = self.model(
            input_ids=chunk.input_ids,
            attention_mask=mask,
            position_ids=chunk.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **self.extra,
        )
        return output.logits[:, -1]
