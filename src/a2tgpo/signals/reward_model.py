"""Process reward models by path or Hub name: transformers classifiers that judge each turn of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.prefix_reward import PrefixReward
from a2tgpo.signals.step_reward import StepReward

if TYPE_CHECKING:
    import torch
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
    """The signal of a process reward model: `StepReward` for a token, `PrefixReward` for a sequence classifier.

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
