"""Token classifiers as process reward models: one score per step, as TRL's `PRMTrainer` trained them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.transcript import Transcript

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class StepReward:
    """A token classifier's score of each step, a process turn with its observation, read at the step's last token.

    A row is that of TRL's `PRMTrainer` (its last release is in trl 1.13; Uesato et al., arXiv 2211.14275): the
    beginning-of-sequence token if the tokenizer has one, the prompt, and each step followed by `step_separator`; every
    piece is encoded by itself, without special tokens, and the separator's last token carries the step's label.

    The number is a level: such a model is trained to say whether this step is good, given what came before, so its
    score is already the turn's own share. A difference would charge a good step for following another good one.

    Raises:
        ValueError: a model in which a step would see the turns after it.
    """

    classifier: Classifier
    step_separator: str = "\n"

    def __post_init__(self) -> None:
        if _sees_later_tokens(self.classifier.model):
            raise ValueError(
                f"{type(self.classifier.model).__name__} reads in both directions, so that a step's score would "
                "depend on later turns; use a causal token classifier, or a sequence classifier"
            )

    def __call__(self, rollouts: Sequence[Transcript]) -> list[list[float]]:
        """The score of every process turn.

        Raises:
            SignalError: a rollout that does not fit the model; nothing is cut.
        """
        encoded = [self.encode(rollout) for rollout in rollouts if rollout.steps]
        scores = iter(self.classifier.scores([ids for ids, _ in encoded]))
        ends = iter(ends for _, ends in encoded)
        return [next(scores)[next(ends)].tolist() if rollout.steps else [] for rollout in rollouts]

    def encode(self, rollout: Transcript) -> tuple[list[int], list[int]]:
        """The row of a rollout and the column of each step's last token."""
        tokenizer = self.classifier.tokenizer
        prompt, separator, *steps = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (rollout.prompt, self.step_separator, *rollout.steps)
        )
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        pieces = [start + prompt, *(step + separator for step in steps)]
        ends = [length - 1 for length in accumulate(map(len, pieces))]
        return [token for piece in pieces for token in piece], ends[1:]


@torch.no_grad()
def _sees_later_tokens(model: PreTrainedModel) -> bool:
    """Whether the first token's logits change with the second token."""
    first = model(input_ids=torch.tensor([[0, 1], [0, 2]], device=model.device)).logits[:, 0].float()
    return not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-5)
