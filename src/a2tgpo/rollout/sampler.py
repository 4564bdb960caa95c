"""Drawing the next token as `transformers.generate` would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import GenerationMode
from transformers.generation import logits_process as processors

if TYPE_CHECKING:
    from jaxtyping import Float

_OF_ONE_ROW = (
    processors.TemperatureLogitsWarper,
    processors.TopKLogitsWarper,
    processors.TopPLogitsWarper,
    processors.MinPLogitsWarper,
    processors.TypicalLogitsWarper,
    processors.EpsilonLogitsWarper,
    processors.EtaLogitsWarper,
    processors.RepetitionPenaltyLogitsProcessor,
    processors.SuppressTokensLogitsProcessor,
)
"""Processors that look at one row's tokens and scores alone: not at its length, its neighbours or its padding."""

_OF_THE_PROMPT = {"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "token_healing": False}
"""Settings by which `generate` treats the tokens it starts from unlike its own, and the values that turn them off."""


class Sampler:
    """Greedy or sampled choice under a generation config, completed as `generate` completes it from the model's own.

    The processors are transformers' own, in `generate`'s order, on float32 logits.
    """

    def __init__(self, model: PreTrainedModel, generation_config: GenerationConfig) -> None:
        self.config, _ = model._prepare_generation_config(generation_config)
        # `generate` does so first: processors of end tokens read what it leaves in the config.
        model._prepare_special_tokens(self.config, kwargs_has_attention_mask=True, device=model.device)
        # The length only tells it that there is a prompt; what would use it otherwise is an `obstacle`.
        self._processors = model._get_logits_processor(self.config, input_ids_seq_length=1, device=str(model.device))

    @property
    def obstacle(self) -> str | None:
        """Why rows at different depths cannot be drawn together under this config, or None where they can."""
        if self.config.num_beams != 1 or self.config.num_return_sequences != 1:
            return "the generation config asks for several beams or sequences per row"
        mode = self.config.get_generation_mode()
        if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            return f"the generation config asks for {mode.value}"
        foreign = [type(p).__name__ for p in self._processors if not isinstance(p, _OF_ONE_ROW)]
        foreign += [name for name, off in _OF_THE_PROMPT.items() if getattr(self.config, name, None) not in (None, off)]
        return f"the generation config uses {', '.join(foreign)}" if foreign else None

    def __call__(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> list[int]:
        """The next token of each row, whose tokens so far are `contexts[r]`."""
        return self._draw(self._scores(logits, contexts))

    def with_entropies(
        self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]
    ) -> tuple[list[int], list[float]]:
        """The next token of each row, and the entropy in nats of the distribution that it was drawn from."""
        scores = self._scores(logits, contexts)
        return self._draw(scores), self._entropies(scores)

    def entropies(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> list[float]:
        """The entropy in nats of the distribution that each row's next token is drawn from; 0 for a greedy choice."""
        return self._entropies(self._scores(logits, contexts))

    def _scores(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> Float[Tensor, "R V"]:
        scores = logits.float()
        if self._processors:
            width = max(map(len, contexts))
            # Padded with a token the row has anyway, so that a repetition penalty meets no other.
            ids = [[context[0]] * (width - len(context)) + context for context in contexts]
            scores = self._processors(torch.tensor(ids).to(logits.device), scores)
        return scores

    def _draw(self, scores: Float[Tensor, "R V"]) -> list[int]:
        if not self.config.do_sample:
            return scores.argmax(-1).tolist()
        return torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1).tolist()

    def _entropies(self, scores: Float[Tensor, "R V"]) -> list[float]:
        if not self.config.do_sample:
            return [0.0] * len(scores)
        return torch.special.entr(scores.softmax(-1)).sum(-1).tolist()
