"""Sequence classifiers: differences of scores of whole prefixes, as one plain forward per prefix gives them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification
from trl import RewardConfig, RewardTrainer

from a2tgpo.signals import Classifier, PrefixReward, process_reward_model
from tests.signals.parts import ROLLOUTS, byte_tokenizer, encoder_config, sequence_classifier


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("tokens_per_batch", [1, 70, 150, 16_384])
def test_numbers_are_differences_of_one_forward_per_prefix(num_labels: int, tokens_per_batch: int) -> None:
    """Whatever shares a forward, each number is s(prefix through o_t) − s(prefix through o_{t−1}) of unpadded rows;
    a rollout's numbers add up to the change from its prompt to its last observation."""
    tokenizer = byte_tokenizer()
    model = sequence_classifier(tokenizer, num_labels)

    def score(text: str) -> float:
        ids = tokenizer(text + tokenizer.eos_token, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0].double()
        return (logits[0] if num_labels == 1 else (logits[1] - logits[0]).sigmoid()).item()

    found = process_reward_model(model, tokenizer, tokens_per_batch=tokens_per_batch)(ROLLOUTS)
    for row, made in zip(found, ROLLOUTS, strict=True):
        prefixes = [made.prompt + "".join(made.steps[:t]) for t in range(len(made.steps) + 1)]
        scores = [score(prefix) for prefix in prefixes]
        assert row == pytest.approx([after - before for before, after in pairwise(scores)], abs=1e-5)
        assert sum(row) == pytest.approx(scores[-1] - scores[0], abs=1e-5)
    assert torch.tensor([number for row in found for number in row]).std() > 0.03


def test_prefixes_are_encoded_as_trls_reward_trainer_encodes_texts(tmp_path: Path) -> None:
    """The tokens of a prefix are those that `RewardTrainer` trains on for the same text, end of sequence included."""
    tokenizer = byte_tokenizer()
    model = sequence_classifier(tokenizer)
    text = ROLLOUTS[0].prompt + "".join(ROLLOUTS[0].steps)
    trainer = RewardTrainer(
        model,
        RewardConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset.from_list([{"chosen": text, "rejected": text + tokenizer.eos_token}]),
        processing_class=tokenizer,
    )
    row = trainer.train_dataset[0]
    signal = PrefixReward(Classifier(model, tokenizer))
    assert signal.encode(text) == row["chosen_ids"]
    assert signal.encode(text + tokenizer.eos_token) == row["rejected_ids"]
    assert row["chosen_ids"][-1] == tokenizer.eos_token_id


def test_encoders_work() -> None:
    """A sequence classifier may read in both directions: it sees a prefix and nothing after it."""
    tokenizer = byte_tokenizer()
    together = process_reward_model(BertForSequenceClassification(encoder_config(tokenizer)).eval(), tokenizer)
    alone = [together([made])[0] for made in ROLLOUTS]
    assert [len(row) for row in alone] == [3, 0, 1, 2]
    for row, expected in zip(together(ROLLOUTS), alone, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
