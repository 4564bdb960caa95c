"""Run a frozen transformers classifier over rows of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.errors import SignalError
from a2tgpo.signals.answer_likelihood.token_budget import Extent, cut_by_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Classifier:
    """Score rows with a token or sequence classifier of one or two labels and its own tokenizer.

    Two labels give the probability of label 1, TRL's label of a correct step, in [0, 1]; one label gives its logit.

    Attributes:
        model: set to evaluation mode without gradients; it runs on the device and in the dtype it has.
        tokens_per_batch: tokens of a forward, padding included; a longer row runs alone.

    Raises:
        ValueError: a model of more labels, or no padding token that model and tokenizer agree on.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens_per_batch: int = 16_384

    def __post_init__(self) -> None:
        config = self.model.config
        if config.num_labels not in (1, 2):
            raise ValueError(
                f"the process reward model has num_labels={config.num_labels}; use one with 1 label (a score) or 2 "
                "(label 1 is the good one)"
            )
        pad, model_pad = self.tokenizer.pad_token_id, config.get_text_config().pad_token_id
        if pad is None or pad != model_pad:
            raise ValueError(
                f"pad_token_id is {pad} in the process reward model's tokenizer and {model_pad} in its config; set "
                "both to the token it was trained with"
            )
        self.model.eval().requires_grad_(False)

    @property
    def max_tokens(self) -> int:
        """Give the longest row the model and its tokenizer allow, in tokens."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)

    @torch.no_grad()
    def scores(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "*L"]]:
        """Score each row, or each of its tokens, in float32 on the CPU. Rows are padded on the right.

        Raises:
            SignalError: a row longer than `max_tokens`, which would have to be cut, or without tokens.
        """
        for ids in rows:
            if not 0 < len(ids) <= self.max_tokens:
                raise SignalError(
                    f"a row of {len(ids)} tokens, which ends in {self.tokenizer.decode(ids[-20:])!r}, does not fit the "
                    f"process reward model's 1 to {self.max_tokens}; lower max_completion_length or use a model "
                    "with a longer context"
                )
        found = [torch.empty(0)] * len(rows)
        device = self.model.device
        for batch in cut_by_tokens([Extent(0, len(ids)) for ids in rows], self.tokens_per_batch, device):
            tokens = [torch.tensor(rows[row]) for row in batch.rows]
            input_ids = pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
            logits = self.model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.float()
            score = logits.softmax(-1)[..., 1] if logits.shape[-1] == 2 else logits[..., 0]
            for row, values in zip(batch.rows, score.cpu(), strict=True):
                found[row] = values
        return found
