"""TRL's options mean here what they mean there: our loss with each of them beside TRL's own, on the same batch."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import GRPOTrainer

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl.objective import AGGREGATES, OTHER_OBJECTIVES
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.integrations.parts import Recorded, ScriptedRollout, by_turn, config, questions, scripted_trainer
from tests.integrations.test_trl_trainer import gradient_of, logps_of, one_batch

SEARCH = search_turn("find it", "Kelo mentor")
SCRIPTS = [
    [SEARCH, answer_turn("bora")],
    [answer_turn("kelo")],
    [SEARCH, SEARCH, answer_turn("bora")],
    ["nothing to say"],
    [answer_turn("bora")],
    [SEARCH, answer_turn("kelo")],
    [answer_turn("mitu")],
    [SEARCH, SEARCH, answer_turn("bora")],
]
OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "sequence": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4},
    "delta": {"loss_type": "grpo", "delta": 1.25},
    "entropy bonus": {"loss_type": "grpo", "entropy_coef": 0.05},
    "adaptive entropy": {
        "loss_type": "dapo",
        "use_adaptive_entropy": True,
        "entropy_coef": 0.05,
        "entropy_target": 9.0,
    },
    "entropy quantile": {"loss_type": "grpo", "top_entropy_quantile": 0.4},
    "entropy bonus on unsure tokens": {"loss_type": "grpo", "top_entropy_quantile": 0.4, "entropy_coef": 0.05},
    "off-policy mask": {"loss_type": "grpo", "off_policy_mask_threshold": 0.01},
    "batch scale": {"loss_type": "grpo", "scale_rewards": "batch"},
    "no scale": {"loss_type": "grpo", "scale_rewards": False},
}


def length_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A second reward of another scale."""
    return [len(ids) / 100 for ids in completion_ids]


def moved(trainer: A2TGPOTrainer) -> dict[str, Any]:
    """A batch whose ratios have left 1, some beyond every bound."""
    batch = one_batch(trainer)
    logps = logps_of(trainer, batch)
    torch.manual_seed(0)
    batch["old_per_token_logps"] = logps + 0.3 * torch.randn_like(logps)
    return batch


@pytest.mark.parametrize("option", list(OPTIONS))
def test_the_loss_and_its_gradient_are_trls(tmp_path: Path, option: str) -> None:
    """With method grpo our loss under each option, and its gradient, equal TRL's own from TRL's advantages on the same
    batch; TRL divides by a standard deviation + 1e-4, hence the tolerance."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, method="grpo", beta=0.0, num_iterations=2, **OPTIONS[option])
    batch = moved(trainer)
    controller = trainer.entropy_coef, 0.0
    trainer.entropy_coef, trainer._last_world_entropy = controller
    ours = trainer._compute_loss(trainer.model, dict(batch))
    gradient = gradient_of(trainer, ours)
    after = trainer.entropy_coef, trainer._last_world_entropy
    trainer.entropy_coef, trainer._last_world_entropy = controller
    mask = {"tool_mask": (batch["turn_ids"] >= 0).long()}
    theirs = GRPOTrainer._compute_loss(trainer, trainer.model, batch | mask | {"advantages": trls_advantages(trainer)})
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=2e-3)
    torch.testing.assert_close(gradient, gradient_of(trainer, theirs), atol=2e-6, rtol=2e-2)
    assert after == pytest.approx((trainer.entropy_coef, trainer._last_world_entropy), rel=1e-5)


def trls_advantages(trainer: A2TGPOTrainer) -> torch.Tensor:
    """What TRL itself would have given the rollouts of `SCRIPTS`: rewards 1, 0 or −1, by its rule."""
    rewards = torch.tensor([1.0, 0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0])
    groups = rewards.view(2, 4)
    centred = (groups - groups.mean(1, keepdim=True)).flatten()
    if trainer.scale_rewards == "none":
        return centred
    std = rewards.std() if trainer.scale_rewards == "batch" else groups.std(1).repeat_interleave(4)
    return centred / (std + 1e-4)


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_reward_scaling_reaches_a_method_with_turn_credit(tmp_path: Path, scale: str, assigned: list[Recorded]) -> None:
    """A²TGPO's answer turns have the outcome as TRL scales it, and process turns have it beside their gain."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, scale_rewards=scale)
    one_batch(trainer)
    (recorded,) = assigned
    last = (recorded.credit.n_turns - 1).clamp(min=0)[:, None]
    answered = recorded.credit.advantage.gather(1, last)[:, 0]
    torch.testing.assert_close(answered, trls_advantages(trainer), atol=1e-4, rtol=1e-3)


def test_several_rewards_are_normalised_apart(tmp_path: Path, assigned: list[Recorded]) -> None:
    """With `normalize_then_sum` (GDPO) each reward is normalised before they are summed, as TRL does it."""
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        method="grpo",
        beta=0.0,
        reward=[exact_match_reward, length_reward],
        multi_objective_aggregation="normalize_then_sum",
    )
    seen: list[torch.Tensor] = []
    score = GRPOTrainer._generate_and_score_completions

    def watched(self: Any, rows: Any) -> Any:
        output = score(self, rows)
        seen.append(output["advantages"])
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_and_score_completions", watched)
        one_batch(trainer)
    assert len(set(seen[0].tolist())) > 4
    torch.testing.assert_close(assigned[0].credit.advantage[:, 0], seen[0])


def test_other_objectives_are_for_methods_with_trls_ratio(tmp_path: Path) -> None:
    """They train igpo's per-turn credit, and are refused for a turn's ratio with the row to take."""
    for name in OTHER_OBJECTIVES:
        with pytest.raises(ValueError, match=f"loss_type='{name}' with method='a2tgpo'.*take method='grpo'"):
            config(tmp_path, loss_type=name)
    trainer = scripted_trainer(tmp_path, SCRIPTS, method="igpo", beta=0.0, loss_type="cispo", learning_rate=0.01)
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.lm_head.weight)


COMBINATIONS = list(
    itertools.product(
        (*AGGREGATES, *OTHER_OBJECTIVES),
        (True, False, "group", "batch", "none"),
        ("token", "sequence"),
        ("sum_then_normalize", "normalize_then_sum"),
    )
)
NAMES = ("loss_type", "scale_rewards", "importance_sampling_level", "multi_objective_aggregation")


@pytest.mark.parametrize("method", ["a2tgpo", "grpo", "dapo", "igpo", "mica", "aepo", "tree-grpo"])
def test_every_combination_is_taken_or_refused_by_name(tmp_path: Path, method: str) -> None:
    """Each of TRL's loss types with each scaling, level and aggregation: a refusal begins with the option as the user
    wrote it, and the options as TRL has them by default are never refused."""
    taken = 0
    for combination in COMBINATIONS:
        options = dict(zip(NAMES, combination, strict=True))
        try:
            config(tmp_path, method=method, num_generations=8, **options)
            taken += 1
        except ValueError as error:
            name, _, value = str(error).partition(f" with method={method!r}")[0].partition("=")
            assert name in NAMES and value == repr(options[name]), str(error)
    assert taken > 0
    for name in AGGREGATES:
        config(tmp_path, method=method, num_generations=8, loss_type=name)


@pytest.mark.parametrize("loss", AGGREGATES)
@pytest.mark.parametrize("scale", ["group", "batch", False])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_turn_credit_trains_with_what_is_taken(tmp_path: Path, loss: str, scale: Any, aggregation: str) -> None:
    """A²TGPO with TRL's divisors, scalings and aggregations makes an update."""
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        reward=[exact_match_reward, length_reward],
        loss_type=loss,
        scale_rewards=scale,
        multi_objective_aggregation=aggregation,
        rollouts_dir="",
    )
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.lm_head.weight)
    assert math.isfinite(trainer.state.log_history[0]["loss"]) and trainer.state.log_history[0]["grad_norm"] > 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("loss_type", "gspo", r"loss_type='gspo': choose one of .*'dapo'"),
        ("importance_sampling_level", "turn", r"importance_sampling_level='turn': choose one of 'token', 'sequence'"),
        ("scale_rewards", "std", "scale_rewards='std': choose one of"),
        ("multi_objective_aggregation", "sum", "multi_objective_aggregation='sum': choose one of"),
        ("delta", 1.004, r"delta=1.004: .*ends at 1.004"),
        ("temperature", 0.0, "temperature=0.0: logits are divided by it"),
    ],
)
def test_values_that_trl_meets_later_are_refused_at_once(tmp_path: Path, option: str, value: Any, said: str) -> None:
    """TRL says so in the first step, after generation, or not at all."""
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **{option: value})


def test_truncated_rollouts_stay_in_the_baseline(tmp_path: Path, assigned: list[Recorded]) -> None:
    """Of four rollouts two are cut off and masked, and the others are right: they learn, against a baseline of all."""
    long = [search_turn("so " * 100, "Kelo mentor")] * 12
    scripts = [long, [answer_turn("bora")], long, [answer_turn("bora")]]
    trainer = scripted_trainer(tmp_path, scripts, mask_truncated_completions=True, max_completion_length=380)
    batch = one_batch(trainer)
    assert (batch["turn_ids"][[0, 2]] == -1).all()
    assert by_turn(batch, "advantages", 1)[:4, 0].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-4)
    assert assigned[0].credit.valid.all()
    assert gradient_of(trainer, trainer._compute_loss(trainer.model, batch)).abs().max() > 0


def test_a_subclass_may_put_its_own_advantages(tmp_path: Path) -> None:
    """Advantages that a subclass writes into TRL's batch, one a rollout, are what the loss takes."""
    trainer = scripted_trainer(tmp_path, SCRIPTS)
    batch = one_batch(trainer)
    once, doubled = torch.linspace(-1, 1, 8), torch.linspace(-2, 2, 8)
    losses = [trainer._compute_loss(trainer.model, batch | {"advantages": one}) for one in (once, doubled)]
    torch.testing.assert_close(2 * losses[0], losses[1])


def test_the_table_of_completions_shows_the_credit(tmp_path: Path, assigned: list[Recorded]) -> None:
    """`log_completions` shows each rollout's mean credit and each turn's, not TRL's advantage."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, log_completions=True)
    one_batch(trainer)
    (recorded,) = assigned
    turns = trainer._logs["extra"]["advantage_by_turn"]
    n_turns = recorded.credit.n_turns.tolist()
    assert [len(row) for row in turns] == n_turns and len(trainer._logs["advantages"]) == 8
    for shown, row in zip(trainer._logs["advantages"], turns, strict=True):
        assert shown == pytest.approx(sum(row) / len(row), abs=1e-3)


def test_padding_to_a_multiple_is_kept(tmp_path: Path) -> None:
    """A width that TRL pads to is not cut below its multiple."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, pad_to_multiple_of=128)
    batch = one_batch(trainer)
    assert batch["completion_ids"].size(1) % 128 == 0
    widths = []
    trainer.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].size(1)), with_kwargs=True
    )
    trainer._compute_loss(trainer.model, batch)
    assert [width % 128 for width in widths] == [0]


def test_a_mixture_of_experts_has_its_load_balancing_loss(tmp_path: Path) -> None:
    """A router's loss, which its architecture asks for, is added as TRL adds it: value and gradient."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            router_aux_loss_coef=0.1,
        )
    )
    trainer = A2TGPOTrainer(
        model,
        exact_match_reward,
        config(tmp_path, method="grpo", beta=0.0),
        train_dataset=questions(),
        processing_class=tokenizer,
        rollout_func=ScriptedRollout(tokenizer, SCRIPTS),
    )
    batch = one_batch(trainer)
    ours = trainer._compute_loss(trainer.model, dict(batch))
    gradient = gradient_of(trainer, ours)
    mask = {"tool_mask": (batch["turn_ids"] >= 0).long()}
    theirs = GRPOTrainer._compute_loss(trainer, model, batch | mask | {"advantages": trls_advantages(trainer)})
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(gradient, gradient_of(trainer, theirs), atol=2e-6, rtol=2e-2)
    trainer.train()
    assert trainer.state.log_history[0]["aux_loss"] > 0
