"""Judge each turn of a rollout with a process reward model, a transformers classifier by path or Hub name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.transcript import Transcript

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_AUTO_CLASSES = {
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}


def process_reward_model(
    model: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: torch.device | str | None = None,
    step_separator: str = "\n",
    tokens_per_batch: int = 16_384,
) -> StepReward | PrefixReward:
    """Open a process reward model as a signal: `StepReward` for a token, `PrefixReward` for a sequence classifier.

    Args:
        model: a path or Hub name, or a loaded model, which then needs its `tokenizer` and is frozen.
        device: where the model is moved; by default it stays where it is.
        step_separator: what ended each step in training, TRL's option of that name; only token classifiers have one.
        tokens_per_batch: see `Classifier`.

    Raises:
        ValueError: a model of another architecture, or one that `Classifier` or `StepReward` cannot read.
    """
    if isinstance(model, str):
        architectures = AutoConfig.from_pretrained(model).architectures or ["unknown"]
        auto = _auto_class(model, architectures[0])
        tokenizer = AutoTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
        model = auto.from_pretrained(model, dtype="auto")
    elif tokenizer is None:
        raise ValueError("tokenizer is None; a loaded process reward model needs its own tokenizer beside it")
    else:
        auto = _auto_class("given", type(model).__name__)
    classifier = Classifier(model if device is None else model.to(device), tokenizer, tokens_per_batch)
    if auto is AutoModelForSequenceClassification:
        return PrefixReward(classifier)
    return StepReward(classifier, step_separator)


def _auto_class(name: str, architecture: str) -> Any:
    for ending, auto in _AUTO_CLASSES.items():
        if architecture.endswith(ending):
            return auto
    raise ValueError(
        f"process reward model {name!r} has architecture {architecture!r}; pass one whose name ends in "
        f"{' or '.join(_AUTO_CLASSES)}"
    )


@dataclass(frozen=True, eq=False)
class StepReward:
    """Score each step, a process turn with its observation, by a token classifier at the step's last token.

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
        """Score every process turn.

        Raises:
            SignalError: a rollout that does not fit the model; nothing is cut.
        """
        encoded = [self.encode(rollout) for rollout in rollouts if rollout.steps]
        scores = iter(self.classifier.scores([ids for ids, _ in encoded]))
        ends = iter(ends for _, ends in encoded)
        return [next(scores)[next(ends)].tolist() if rollout.steps else [] for rollout in rollouts]

    def encode(self, rollout: Transcript) -> tuple[list[int], list[int]]:
        """Encode a rollout: its row and the column of each step's last token."""
        tokenizer = self.classifier.tokenizer
        prompt, separator, *steps = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (rollout.prompt, self.step_separator, *rollout.steps)
        )
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        pieces = [start + prompt, *(step + separator for step in steps)]
        ends = [length - 1 for length in accumulate(map(len, pieces))]
        return [token for piece in pieces for token in piece], ends[1:]


@dataclass(frozen=True, eq=False)
class PrefixReward:
    """Score the change in a sequence classifier's score over each process turn and its observation.

        number_t = s(prompt, steps 1..t) − s(prompt, steps 1..t−1)

    The number is a difference: the classifier judges everything so far, as the answer's likelihood does, and the level
    would credit a turn with what earlier turns achieved. As with information gain, the numbers of a rollout add up to
    the change from the prompt to the last observation.

    A prefix is one text, encoded with the tokenizer's special tokens and closed by its end-of-sequence token if there
    is one, as TRL's `RewardTrainer` closes its texts.
    """

    classifier: Classifier

    def __call__(self, rollouts: Sequence[Transcript]) -> list[list[float]]:
        """Score the change over every process turn.

        Raises:
            SignalError: a prefix that does not fit the model; nothing is cut.
        """
        prefixes = [list(accumulate((rollout.prompt, *rollout.steps))) if rollout.steps else [] for rollout in rollouts]
        texts = list(dict.fromkeys(text for row in prefixes for text in row))  # a prompt's rollouts share its score
        scores = self.classifier.scores([self.encode(text) for text in texts])
        value = {text: score.item() for text, score in zip(texts, scores, strict=True)}
        return [[value[after] - value[before] for before, after in pairwise(row)] for row in prefixes]

    def encode(self, text: str) -> list[int]:
        """Encode a prefix."""
        tokenizer = self.classifier.tokenizer
        end = tokenizer.eos_token or ""
        return tokenizer(text if text.endswith(end) else text + end)["input_ids"]


@torch.no_grad()
def _sees_later_tokens(model: PreTrainedModel) -> bool:
    """Tell whether the first token's logits change with the second token."""
    first = model(input_ids=torch.tensor([[0, 1], [0, 2]], device=model.device)).logits[:, 0].float()
    return not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-5)
