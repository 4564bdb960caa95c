"""Generation that keeps each rollout's keys over all its turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.rollout.answers import AnswerReader
from a2tgpo.rollout.backend import Continuation, TakeTurns
from a2tgpo.rollout.conversation import Conversation
from a2tgpo.rollout.evaluating import evaluating
from a2tgpo.rollout.sampler import Sampler
from a2tgpo.rollout.slots import SlotCache
from a2tgpo.rollout.turn_end import TurnEnd

RESTING_SHARE = 1 / 8
"""Share of the rows that may wait, their turn finished, before they go on together: where every forward has its price,
however few its tokens. On the CPU it costs little more than its tokens cost, and no row waits."""


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
        self._cache: tuple[torch.dtype, SlotCache | None] = (model.dtype, None)

    @torch.no_grad()
    def __call__(
        self,
        starts: Sequence[Continuation],
        take_turns: TakeTurns,
        n_entropies: int = 0,
        reader: AnswerReader | None = None,
    ) -> None:
        """See `Backend`; `reader` is shown the keys of every row that ends."""
        with evaluating(self.model):
            conversation = self.open(starts, n_entropies, reader)
            turns = conversation.begin()
            while turns:
                turns = conversation.go_on(take_turns(turns))

    def open(
        self, starts: Sequence[Continuation], n_entropies: int = 0, reader: AnswerReader | None = None
    ) -> Conversation:
        """The same for who asks for turns when it wants them; one at a time."""
        kept_for, cache = self._cache
        if cache is None or kept_for != self.model.dtype:
            cache = SlotCache(self.model.config.get_text_config(decoder=True).num_hidden_layers)
        # Fresh memory costs the CPU a fault for every page. On a GPU the update needs the room.
        self._cache = self.model.dtype, cache if self.model.device.type == "cpu" else None
        return Conversation(self, starts, n_entropies, reader, cache)
