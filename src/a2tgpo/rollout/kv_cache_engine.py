"""Generate with KV-cache reuse: each rollout keeps its cache over all its turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.conversation import Conversation, Decoding
from a2tgpo.rollout.decoding import Sampler, TurnEnd
from a2tgpo.rollout.engine import Continuation, TakeTurns, evaluating
from a2tgpo.rollout.slot_cache import SlotCache

WAITING_SHARE = 1 / 8
"""Share of the rows that may wait for the tool before they go on together, where every forward has its price.
On the CPU a forward costs little more than its tokens do, and no row waits for others."""

FORWARDS_PER_POLL, FORWARDS_PER_POLL_ON_CPU = 8, 1
"""Forwards after which rows that write hear what has come of those that wait for a slow tool, which may then cost a
forward of its own; on the CPU that is little more than its tokens cost anyway."""


class KVCacheEngine:
    """Generate with a Hugging Face causal LM that reads every token once (a `GenerationEngine`).

    Rows write at their own pace: a row whose turn has ended waits for the tool until `waiting_share` of the rows do;
    then all of these are handed to the environment and go on from their observations, the only tokens then read. While
    a slow environment lets a row wait, the others write on. Ended rows leave, and queued rows take their slots. A row
    starts from the KV cache of the row that shares the most of its first tokens, but for models with states; rows with
    the same context share one reading of the rest.

    Args:
        model: unwrapped causal LM for which `why_no_cache_reuse` is None.
        tokenizer: the policy's.
        sampler: how the next token is drawn.
        stop_strings: texts that close a turn.
        n_slots: most rows that write at a time.
        waiting_share: in [0, 1]; None takes what suits the device: 0 on the CPU, else `WAITING_SHARE`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Sampler,
        stop_strings: Sequence[str],
        n_slots: int = 256,
        waiting_share: float | None = None,
    ) -> None:
        self.model = model
        by_device = 0.0 if model.device.type == "cpu" else WAITING_SHARE
        self.decoding = Decoding(
            sampler,
            TurnEnd(tokenizer, stop_strings, sampler.config.eos_token_id),
            n_slots,
            by_device if waiting_share is None else waiting_share,
        )
        self._cache: tuple[torch.dtype, SlotCache | None] = (model.dtype, None)

    @torch.no_grad()
    def __call__(
        self,
        starts: Sequence[Continuation],
        take_turns: TakeTurns,
        n_entropies: int = 0,
        reader: AnswerReader | None = None,
    ) -> None:
        """Write turns until all rows have ended; `reader` sees the cache of each row that ends."""
        with evaluating(self.model):
            conversation, poll = self.open(starts, n_entropies, reader), getattr(take_turns, "poll", None)
            if poll is not None:
                on_cpu = self.model.device.type == "cpu"
                conversation.forwards_per_poll = FORWARDS_PER_POLL_ON_CPU if on_cpu else FORWARDS_PER_POLL
            turns = conversation.begin()
            while conversation.rows:
                asks_for_news = not turns and conversation.writing
                turns = conversation.go_on(poll() if asks_for_news and poll is not None else take_turns(turns))

    def open(
        self, starts: Sequence[Continuation], n_entropies: int = 0, reader: AnswerReader | None = None
    ) -> Conversation:
        """Open a batch for a caller that asks for turns when it wants them; one at a time."""
        kept_for, cache = self._cache
        if cache is None or kept_for != self.model.dtype:
            cache = SlotCache.of(self.model)
        # Fresh memory costs the CPU a fault for every page. On a GPU the update needs the room.
        self._cache = self.model.dtype, cache if self.model.device.type == "cpu" else None
        return Conversation(self.model, self.decoding, starts, n_entropies, reader, cache)
