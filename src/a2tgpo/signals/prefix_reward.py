"""Sequence classifiers as process reward models: how the score of everything so far changes with each turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.transcript import Transcript


@dataclass(frozen=True, eq=False)
class PrefixReward:
    """The change in a sequence classifier's score over each process turn and its observation.

        number_t = s(prompt, steps 1..t) − s(prompt, steps 1..t−1)

    The number is a difference: the classifier judges everything so far, as the answer's likelihood does, and the level
    would credit a turn with what earlier turns achieved. As with information gain, the numbers of a rollout add up to
    the change from the prompt to the last observation.

    A prefix is one text, encoded with the tokenizer's special tokens and closed by its end-of-sequence token if there
    is one, as TRL's `RewardTrainer` closes its texts.
    """

    classifier: Classifier

    def __call__(self, rollouts: Sequence[Transcript]) -> list[list[float]]:
        """The change over every process turn.

        Raises:
            SignalError: a prefix that does not fit the model; nothing is cut.
        """
        prefixes = [list(accumulate((rollout.prompt, *rollout.steps))) if rollout.steps else [] for rollout in rollouts]
        texts = list(dict.fromkeys(text for row in prefixes for text in row))  # a prompt's rollouts share its score
        scores = self.classifier.scores([self.encode(text) for text in texts])
        value = {text: score.item() for text, score in zip(texts, scores, strict=True)}
        return [[value[after] - value[before] for before, after in pairwise(row)] for row in prefixes]

    def encode(self, text: str) -> list[int]:
        """The row of a prefix."""
        tokenizer = self.classifier.tokenizer
        end = tokenizer.eos_token or ""
        return tokenizer(text if text.endswith(end) else text + end)["input_ids"]
