"""What a credit rule reads of turns beside their gain, from TRL's batch on: who shares them, where they started from,
how sure the policy was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl.rollout_func import rollout_columns
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import concat_prompt_completion
from a2tgpo.pipeline.anchor_states import number_states
from a2tgpo.pipeline.prefix_tree import renumber_nodes, shared_turns
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.rollout.types import Rollout, Termination
from tests.integrations.parts import Recorded, by_turn, config, questions, scripted_trainer, tiny_llama

SEARCH = search_turn("find it", "Kelo mentor")
END = answer_turn("bora")


class Branched:
    """A `rollout_func` of four written rollouts for each prompt, of which the second branched off the first after its
    first turn; the last one may be cut off in its fifth turn."""

    sampling = METHODS["aepo"].sampling

    def __init__(self, tokenizer: Any, *, cut: bool = False) -> None:
        self.tokenizer = tokenizer
        last = ([SEARCH] * 5, [3, 4, 5, 6, 7]) if cut else ([END], [3])
        self.written = [([SEARCH, END], [0, 1]), ([SEARCH, END], [0, 2]), ([END], [8]), last]

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        return rollout_columns([self.rollout(prompt, i % 4) for i, prompt in enumerate(prompts)])

    def rollout(self, prompt: str, number: int) -> Rollout:
        turns, nodes = self.written[number]
        rollout = Rollout(self.encode(prompt), nodes=list(nodes), answer="bora" if number % 3 else "kelo")
        for turn in turns:
            rollout.append(self.encode(turn), by_policy=True)
            if turn is not turns[-1]:
                rollout.append(self.encode("<result> bora </result>"), by_policy=False)
        if turns[-1] is END:
            rollout.append([self.tokenizer.eos_token_id], by_policy=False)
        rollout.end(Termination.ANSWERED if turns[-1] is END else Termination.OUT_OF_TOKENS)
        return rollout

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def branched_trainer(tmp_path: Path, *, cut: bool = False, **changes: Any) -> A2TGPOTrainer:
    """A trainer of two prompts, each with the rollouts of `Branched`."""
    tokenizer = build_tokenizer()
    return A2TGPOTrainer(
        tiny_llama(tokenizer),
        exact_match_reward,
        config(tmp_path, method="aepo", **changes),
        train_dataset=questions(),
        processing_class=tokenizer,
        rollout_func=Branched(tokenizer, cut=cut),
    )


def one_batch(trainer: A2TGPOTrainer) -> dict[str, Any]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])


def test_a_shared_turn_weighs_as_its_leaves(tmp_path: Path, assigned: list[Recorded]) -> None:
    """The turn that two rollouts share is carried by the first of them in the loss, with the weight of both and their
    advantages for each sign apart; the second's tokens there are the policy's and weigh nothing. Trees grow by aepo's
    rule here, whose mean is over tokens: a leaf weighs 1."""
    batch = one_batch(branched_trainer(tmp_path))
    (recorded,) = assigned
    weight = by_turn(batch, "turn_weight", 2)
    assert weight.tolist() == [[2, 1], [0, 1], [1, 0], [1, 0]] * 2
    own = recorded.credit.advantage[:2, 0]
    positive, negative = (by_turn(batch, name, 2)[0, 0] for name in ("advantages", "turn_negative_advantages"))
    assert own[0] * own[1] < 0
    assert positive == own.clamp(min=0).sum() and negative == own.clamp(max=0).sum()
    assert (batch["turn_ids"][1] == 0).any() and (batch["turn_weight"][1][batch["turn_ids"][1] == 0] == 0).all()


def test_a_truncated_rollout_shares_nothing(tmp_path: Path) -> None:
    """With `mask_truncated_completions` a rollout that was cut off in its fifth turn, while the others have two at
    most, is out of the loss; the shared turn of the others counts once all the same, and the loss is finite."""
    trainer = branched_trainer(tmp_path, cut=True, mask_truncated_completions=True)
    batch = one_batch(trainer)
    assert (batch["turn_ids"][3] == -1).all() and (batch["turn_ids"][:3] >= 0).any(dim=1).all()
    owned = by_turn(batch, "turn_weight", 2) > 0
    assert owned[:4].tolist() == [[True, True], [False, True], [True, False], [False, False]]
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))


def test_the_sampled_turns_of_what_is_left() -> None:
    """Rows without turns have no nodes, and what is left is numbered from 0 however high it was numbered before."""
    rollouts = [Rollout([1], nodes=[0, 90], tree=2), Rollout([1], nodes=[5] * 5), Rollout([1], nodes=[0, 7])]
    tree, node = shared_turns(rollouts, torch.tensor([2, 0, 2]), 2)
    assert tree.tolist() == [2, 0, 0] and node.tolist() == [[0, 90], [-1, -1], [0, 7]]
    assert renumber_nodes(node).tolist() == [[0, 2], [-1, -1], [0, 1]]


def test_states_are_the_observations_before_a_turn(tmp_path: Path, assigned: list[Recorded]) -> None:
    """gigpo's state of a turn is the result it read before: none for the first turn, one and the same for all others of
    a tool that always finds the same, whatever their depth."""
    scripts = [[SEARCH, END], [END], [SEARCH, SEARCH, END], ["no tag"]]
    one_batch(scripted_trainer(tmp_path, scripts, method="gigpo"))
    (recorded,) = assigned
    assert recorded.signals.observations is not None
    state = number_states(recorded.signals.observations, 4, 3)
    assert state.tolist() == [[0, 1, -1], [0, -1, -1], [0, 1, 1], [0, -1, -1]] * 2


def test_entropies_are_the_sampling_policys(tmp_path: Path, assigned: list[Recorded]) -> None:
    """aepo's entropy of a turn is the mean over its tokens of the policy's, in nats, at the temperature of sampling, as
    a plain forward gives it."""
    trainer = branched_trainer(tmp_path, temperature=0.7)
    batch = one_batch(trainer)
    (recorded,) = assigned
    assert recorded.signals.entropy is not None
    ids, mask = (concat_prompt_completion(batch[f"prompt_{k}"], batch[f"completion_{k}"]) for k in ("ids", "mask"))
    with torch.no_grad():
        logps = (trainer.model(input_ids=ids, attention_mask=mask).logits / 0.7).log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)[:, batch["prompt_ids"].size(1) - 1 : -1]
    for row in range(8):
        for turn in range(2 if row % 4 < 2 else 1):
            expected = entropy[row][batch["turn_ids"][row] == turn].mean()
            torch.testing.assert_close(recorded.signals.entropy[row, turn], expected, atol=1e-4, rtol=1e-4)
