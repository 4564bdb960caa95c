"""Token classifiers: rows as TRL trains them, scores as one plain forward per turn gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertForTokenClassification

from a2tgpo.signals import Classifier, StepReward, process_reward_model
from tests.signals.parts import ROLLOUTS, byte_tokenizer, encoder_config, rollout, token_classifier


def stepwise_row(tokenizer: Any, prompt: str, completions: list[str], labels: list[int]) -> tuple[list[int], list[int]]:
    """Input ids and labels of one row of a stepwise-supervision data set, by the rule of TRL's `PRMTrainer`: pieces
    encoded one by one without special tokens, "\\n" after each completion, its label on the last of those tokens."""
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids += tokenizer.encode(prompt, add_special_tokens=False)
    targets = [-100] * len(ids)
    for completion, label in zip(completions, labels, strict=True):
        piece = tokenizer.encode(completion, add_special_tokens=False)
        piece += tokenizer.encode("\n", add_special_tokens=False)
        ids += piece
        targets += [-100] * (len(piece) - 1) + [label]
    return ids, targets


@pytest.mark.parametrize("bos", [True, False])
def test_rows_are_those_of_trls_trainer(bos: bool) -> None:
    """A rollout's row is that of its stepwise-supervision example, and the columns read are those that carry the
    labels; byte by byte for a short one."""
    tokenizer = byte_tokenizer(bos)
    signal = StepReward(Classifier(token_classifier(tokenizer), tokenizer))
    for made in ROLLOUTS:
        ids, ends = signal.encode(made)
        expected, labels = stepwise_row(tokenizer, made.prompt, made.steps, [1] * len(made.steps))
        assert (ids, ends) == (expected, [column for column, label in enumerate(labels) if label == 1])
    start = [tokenizer.bos_token_id] if bos else []
    by_byte = tokenizer.convert_tokens_to_ids(["q", "a", "b", "Ċ"])
    assert signal.encode(rollout("q", ("a", "b"))) == (start + by_byte, [3 + len(start)])


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("tokens_per_batch", [1, 70, 150, 16_384])
def test_scores_are_those_of_one_forward_per_turn(num_labels: int, tokens_per_batch: int) -> None:
    """Whatever shares a forward, each process turn's number is the last logit of the unpadded row that ends with its
    step: the probability of label 1 of two, the logit itself of one."""
    tokenizer = byte_tokenizer()
    model = token_classifier(tokenizer, num_labels)
    found = process_reward_model(model, tokenizer, tokens_per_batch=tokens_per_batch)(ROLLOUTS)
    spread = []
    for row, made in zip(found, ROLLOUTS, strict=True):
        assert len(row) == len(made.steps)
        for t, number in enumerate(row):
            ids, _ = stepwise_row(tokenizer, made.prompt, made.steps[: t + 1], [1] * (t + 1))
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            expected = logits[0] if num_labels == 1 else (logits[1] - logits[0]).sigmoid()
            assert number == pytest.approx(expected.item(), abs=1e-5)
            spread.append(number)
    assert torch.tensor(spread).std() > 0.03


def test_a_model_trained_on_steps_judges_the_steps_of_rollouts() -> None:
    """A tiny classifier trained on stepwise rows, in which steps that found something are correct, gives such turns
    of rollouts it has not seen more than 0.9 and the others less than 0.1, whatever stands beside them."""
    tokenizer = byte_tokenizer()
    model = token_classifier(tokenizer, initializer_range=0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    good, bad = "find it: bora", "find it: none"
    rows = [
        stepwise_row(tokenizer, "who?", [good if label else bad for label in labels], labels)
        for labels in ([0, 1], [1, 0], [1, 1], [0, 0])
    ]
    input_ids, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    for _ in range(60):
        model(input_ids=input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found, none = ("find it", ": bora"), ("find it", ": none")
    seen = process_reward_model(model, tokenizer)([rollout("who?", found, none), rollout("who?", none, found, none)])
    assert [[number > 0.5 for number in row] for row in seen] == [[True, False], [False, True, False]]
    assert all(abs(number - 0.5) > 0.4 for row in seen for number in row)


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    """A step scored by an encoder would depend on the turns after it: ValueError says what to use."""
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match=r"BertForTokenClassification reads in both directions.*causal"):
        process_reward_model(BertForTokenClassification(encoder_config(tokenizer)), tokenizer)
