"""Every row of the methods table in the real trainer: against TRL's own losses where it has them, and end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from a2tgpo import A2TGPOConfig
from a2tgpo.integrations.trl.objective import TOKEN_MEANS
from a2tgpo.integrations.trl.plain_head import give_head
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import SingleProcess
from a2tgpo.pipeline.anchor_states import number_states
from a2tgpo.pipeline.dynamic_sampling import DynamicSampler
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.rollout.strategies import DynamicSampling
from tests.integrations.parts import ScriptedRollout, build_tokenizer, config, questions, scripted_trainer, tiny_llama

SEARCH = search_turn("find it", "Kelo mentor")
SCRIPTS = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], ["no tag"]]
INDEPENDENT = [name for name, method in METHODS.items() if not method.shares_turns]


def weights_after(trainer: Any) -> torch.Tensor:
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


TRLS = {
    "grpo": {"loss_type": "grpo", "epsilon": 0.2},
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
}


@pytest.mark.parametrize("name", list(TRLS))
def test_two_updates_are_trls_own(tmp_path: Path, name: str) -> None:
    """On the same rollouts, with two plain gradient steps on one batch in two micro-batches each (so that ratios leave
    1, and tokens must be counted over the whole update), the rows grpo, dapo and gspo move the weights as TRL's
    `GRPOTrainer` does, and log under TRL's names what it logs. Both divide by the sample's standard deviation, TRL
    after adding 1e-4, we after 1e-6."""
    group = 8
    shared: dict[str, Any] = dict(
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_iterations=2,
        max_steps=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_generations=group,
        warmup_steps=0,
    )
    rate = 1e-3
    ours = scripted_trainer(tmp_path / "ours", SCRIPTS, method=name, learning_rate=rate, **shared)
    theirs_config = {key: value for key, value in vars(config(tmp_path / "theirs", **shared)).items() if key in _PASSED}
    tokenizer = build_tokenizer()
    theirs = GRPOTrainer(
        model=tiny_llama(tokenizer),
        reward_funcs=exact_match_reward,
        args=GRPOConfig(**theirs_config, **TRLS[name], learning_rate=rate, beta=0.0),
        train_dataset=questions(),
        processing_class=tokenizer,
        rollout_func=ScriptedRollout(tokenizer, SCRIPTS),
    )
    give_head(theirs)
    start = torch.cat([parameter.detach().flatten() for parameter in theirs.model.parameters()])
    mine, other = weights_after(ours) - start, weights_after(theirs) - start
    assert other.norm() > 1e-4
    assert torch.nn.functional.cosine_similarity(mine, other, dim=0) > 0.9999
    assert mine.norm() / other.norm() == pytest.approx(1.0, abs=1e-3)
    # Extremes of a micro-batch depend on which rollouts are in it, and ours hold rollouts of like length. TRL's means
    # over tokens are means of its micro-batches', ours those of the update.
    apart = ("step_time", "clip_ratio/low_min", "clip_ratio/high_max", *TOKEN_MEANS)
    for our_log, their_log in zip(ours.state.log_history[:2], theirs.state.log_history[:2], strict=True):
        expected = {key: value for key, value in their_log.items() if key not in apart}
        assert their_log.keys() <= our_log.keys()
        assert {key: our_log[key] for key in expected} == pytest.approx(expected, abs=2e-3, rel=1e-3)


_PASSED = (
    *("output_dir", "use_cpu", "bf16", "per_device_train_batch_size", "num_generations", "max_steps"),
    *("gradient_accumulation_steps", "max_completion_length", "gradient_checkpointing", "logging_steps"),
    *("save_strategy", "report_to", "disable_tqdm", "optim", "lr_scheduler_type", "max_grad_norm", "num_iterations"),
    "warmup_steps",
)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_method_scores_gains_only_where_it_reads_them(tmp_path: Path, name: str) -> None:
    """Each row takes a step and changes the weights; gains, and the pass that scores them, are there for the rows whose
    credit reads gains and for no other."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, method=name, learning_rate=0.01)
    before = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    assert (weights_after(trainer) - before).abs().max() > 0
    logged = trainer.state.log_history[0]
    assert ("gain/turn_1" in logged) == ("seconds/gain" in logged) == METHODS[name].signal
    assert METHODS[name].signal == ("gain" in METHODS[name].credit.reads)
    assert ("rollout/sampled_batches" in logged) == isinstance(METHODS[name].sampling, DynamicSampling)


def test_an_option_changes_the_row_it_belongs_to() -> None:
    """Options left out are the row's; given ones replace them; ones the row does not have, and rollouts that do not
    make up its tree, are refused with what to change."""
    plain = A2TGPOConfig("x", method="gspo", use_cpu=True, bf16=False)
    assert (plain.epsilon, plain.epsilon_high) == (3e-4, 4e-4) and plain.gain_alpha is None
    options: dict[str, Any] = {"gain_alpha": 0.3, "turn_baseline": "absorbing", "epsilon": 0.01}
    changed = A2TGPOConfig("x", use_cpu=True, bf16=False, **options).resolve_method()
    assert (changed.credit.alpha, changed.credit.baseline, changed.credit.beta) == (0.3, "absorbing", 0.3)
    assert (changed.eps_low, changed.eps_high) == (0.01, 0.01)
    for wrong, message in (
        ({"method": "grpo", "gain_alpha": 0.3}, "gain_alpha=0.3: method 'grpo' has no such parameter"),
        ({"method": "grpo", "cut_last_result": True}, "method 'grpo' reads no gain"),
        ({"method": "igpo", "scale_rewards": "none"}, "scale_rewards='none' with method='igpo'"),
        ({"method": "dapo", "scale_rewards": "batch"}, "knows nothing of this method's penalty for length"),
        ({"method": "tree-grpo", "importance_sampling_level": "sequence"}, "share turns, which have no sequence"),
        ({"method": "tree-grpo", "num_generations": 4}, "set num_generations=8"),
        ({"method": "aepo", "num_generations": 2}, "set num_generations to at least 4"),
        ({"method": "a3tgpo"}, "choose one of 'grpo'"),
        ({"state_similarity": 0.0}, "state_similarity=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            A2TGPOConfig("x", use_cpu=True, bf16=False, **wrong)  # type: ignore[arg-type]


def test_states_are_numbered_within_a_prompt() -> None:
    """Turn 1 of all rollouts starts from the same state; later turns share one where the observation before them is the
    same text, whatever their depth; another prompt numbers anew; below 1, similar texts are one state."""
    observations = [["", "a b c d", "x"], ["", "x"], ["", "a b c e"], []]
    exact = number_states(observations, group_size=2, n_columns=3)
    assert exact.tolist() == [[0, 1, 2], [0, 2, -1], [0, 1, -1], [-1, -1, -1]]
    loose = number_states([["", "a b c d"], ["", "a b c e"]], group_size=2, n_columns=2, similarity=0.8)
    assert loose.tolist() == [[0, 1], [0, 1]]


class Prompts:
    """Generates for prompts `qN` rollouts that all earn N, or, for odd N, all but one do."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def generate(self, rows: list[dict[str, Any]]) -> list[str]:
        prompts = [row["prompt"] for row in rows]
        self.asked.append(prompts[::2])
        return [f"rollout of {prompt}" for prompt in prompts]

    @staticmethod
    def rewards(rows: list[dict[str, Any]], generated: list[str]) -> torch.Tensor:
        assert generated == [f"rollout of {row['prompt']}" for row in rows]
        numbers = [int(row["prompt"][1:]) for row in rows]
        return torch.tensor([float(n) - (n % 2) * (i % 2) for i, n in enumerate(numbers)])

    def sampling(self, numbers: list[int], max_batches: int) -> DynamicSampler[str]:
        """Of two rollouts a prompt, with these prompts to draw from."""
        rows = [{"prompt": f"q{n}"} for n in numbers]
        return DynamicSampler(
            DynamicSampling(max_batches), rows, 2, self.generate, self.rewards, SingleProcess(), seed=0
        )


def test_zero_variance_groups_are_replaced() -> None:
    """Of three prompts the two whose rollouts earn the same are replaced, rows and rollouts together, by the first
    ones of the training set that differ; the third stays where it was, and so do the caller's rows."""
    world = Prompts()
    rows = [{"prompt": f"q{n}"} for n in (2, 2, 3, 3, 10, 10)]
    sampled = world.sampling([4, 6, 7, 8, 9, 11], max_batches=10).sample(rows, step=0)
    prompts = [row["prompt"] for row in sampled.rows]
    assert prompts[2:4] == ["q3", "q3"] and rows[0] == {"prompt": "q2"}
    assert all(int(prompt[1:]) % 2 for prompt in prompts) and len(set(prompts)) == 3
    assert sampled.generated == [f"rollout of {prompt}" for prompt in prompts]
    assert sampled.batches == len(world.asked) and all(len(asked) == 3 for asked in world.asked)


def test_groups_without_a_difference_are_replaceable() -> None:
    """Equal rewards are replaced, also where some rollouts have none (a failed tool); two that differ are kept."""
    nan = float("nan")
    groups = [[1, 1, 1, 1], [1, 1, nan, 1], [nan] * 4, [1, nan, 0, nan], [nan, nan, nan, 0]]
    drawn: list[int] = []

    def rewards(rows: list[dict[str, Any]], generated: list[int]) -> torch.Tensor:
        fresh = rows[0]["prompt"] == "new"
        return torch.tensor([[0.0, 0.0, 0.0, 1.0]] * 5 if fresh else groups).flatten()

    def generate(rows: list[dict[str, Any]]) -> list[str]:
        drawn.append(len(rows))
        return [row["prompt"] for row in rows]

    sampling = DynamicSampler(DynamicSampling(), [{"prompt": "new"}], 4, generate, rewards, SingleProcess(), seed=0)
    sampled = sampling.sample([{"prompt": f"old {i // 4}"} for i in range(20)], step=0)
    assert sampled.generated[::4] == ["new", "new", "new", "old 3", "new"] and drawn == [20, 20]


def test_dynamic_sampling_is_bounded() -> None:
    """Where every group has no variance, the step goes on with what it has after `max_batches` batches."""
    world = Prompts()
    sampled = world.sampling([4, 6], max_batches=4).sample([{"prompt": "q2"}, {"prompt": "q2"}], step=0)
    assert sampled.batches == len(world.asked) == 4
    assert sampled.rows == [{"prompt": "q2"}, {"prompt": "q2"}]


def test_an_interrupted_run_draws_the_same_replacements() -> None:
    """A sampler made anew at step 2 asks for the prompts that one which made steps 0 and 1 asks for; steps differ."""
    rows, prompts = [{"prompt": "q2"}] * 2, list(range(0, 40, 2))
    unbroken, resumed = Prompts(), Prompts()
    sampler = unbroken.sampling(prompts, max_batches=5)
    for step in range(3):
        sampler.sample(rows, step)
    resumed.sampling(prompts, max_batches=5).sample(rows, step=2)
    first, _, last = (unbroken.asked[5 * step : 5 * step + 5] for step in range(3))
    assert last == resumed.asked and first != last
