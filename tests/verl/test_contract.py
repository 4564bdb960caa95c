# ruff: noqa: E402
"""What the plug-in builds on in verl, by what it does: registration, verl's defaults, the packed loss, the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

REASON = "verl is not installed here; `make test-verl` makes it an environment of its own"
verl = pytest.importorskip("verl", reason=REASON)
pytest.importorskip("transfer_queue", reason=REASON)

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch.nn.utils.rnn import pad_sequence
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric

from a2tgpo.integrations.verl import credit_trainer, turn_credit_loss
from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.micro_batch import Update, micro_batch_loss
from a2tgpo.integrations.verl.queue_rows import LOG_LINE
from a2tgpo.integrations.verl.refusals import AGENT_LOOP, check_config
from a2tgpo.methods import METHODS
from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.run.verl_overrides import quoted

NEEDED = ["algorithm.adv_estimator=a2tgpo", "actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.n=8"]


def config(*overrides: str) -> Any:
    """verl's own configuration, composed as main_ppo does."""
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(str(folder), version_base=None):
        return compose("ppo_trainer", [*NEEDED, *overrides])


def test_verl_finds_the_plugin() -> None:
    """The entry point alone registers the trainers, the estimator's name and the agent loop."""
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    assert get_trainer_cls("a2tgpo") is credit_trainer.SyncTrainer
    assert get_trainer_cls("a2tgpo_colocate_async") is credit_trainer.ColocateAsyncTrainer
    assert get_trainer_cls("a2tgpo_separate_async") is credit_trainer.SeparateAsyncTrainer
    assert _agent_loop_registry[AGENT_LOOP]["_target_"].endswith("search_loop.SearchAgentLoop")


def test_another_trainer_gets_no_advantages_of_zero() -> None:
    """`adv_estimator=a2tgpo` under verl's own trainers is an error and no silent run."""
    with pytest.raises(ValueError, match=r"trainer\.v1\.trainer_mode=a2tgpo as well"):
        get_adv_estimator_fn("a2tgpo")(token_level_rewards=torch.zeros(1, 2), response_mask=torch.ones(1, 2))


def test_a_plugin_that_cannot_load_says_so() -> None:
    """Where TransferQueue is missing, verl goes on in silence and we name the extra."""
    script = """
        import sys
        sys.modules["transfer_queue"] = None
        import verl
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "trainer_mode=a2tgpo cannot be used: " in done.stderr and "transfer_queue" in done.stderr


def test_verls_defaults_are_taken() -> None:
    """What is refused are its user's changes: the numbers that we take for defaults are verl's."""
    assert check_config(config(), TurnCreditSettings()) == METHODS["a2tgpo"]
    with pytest.raises(ValueError, match=r"clip_ratio_high=0\.28"):
        check_config(config("actor_rollout_ref.actor.clip_ratio_high=0.28"), TurnCreditSettings())


@pytest.mark.parametrize(
    "text", ["it's, {answer}", SCAFFOLD, "a\\'{answer}", "ends in \\ {answer}\\", "[{answer}]: =x"]
)
def test_keys_come_through_hydra(text: str) -> None:
    """What `a2tgpo verl` writes is what arrives, whatever is in it."""
    made = config("+a2tgpo.method=igpo", "+a2tgpo.turn_gamma=0.9", f"+a2tgpo.answer_scaffold={quoted(text)}")
    given = TurnCreditSettings.of(OmegaConf.to_container(made.a2tgpo))
    assert (given.method, given.turn_gamma, given.answer_scaffold) == ("igpo", 0.9, text)


def packed(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@pytest.mark.parametrize("method", ["a2tgpo", "igpo+tg"])
@pytest.mark.parametrize("kl_beta", [0.0, 0.1])
def test_the_loss_reads_verls_packed_rows(method: str, kl_beta: float) -> None:
    """Log-probabilities packed over prompt and response, each a token ahead, come to the loss of the plain columns."""
    generator = torch.Generator().manual_seed(0)
    lengths, prompts = [4, 1, 3], [2, 127, 5]
    response = [torch.randn(n, generator=generator) - 2 for n in lengths]
    columns = {
        "turn_ids": [torch.tensor([0, -1, 1, 1]), torch.tensor([-1]), torch.tensor([0, 0, 0])],
        "advantages": [torch.tensor([1.0, 0, -1, -1]), torch.zeros(1), torch.tensor([0.5, 0.5, 0.5])],
        "turn_clip_scale": [torch.tensor([1.1, 1, 1, 1]), torch.ones(1), torch.ones(3)],
        "old_log_probs": [row + 0.01 for row in response],
        "ref_log_prob": [row - 0.3 for row in response],
    }
    expected = micro_batch_loss(
        pad_sequence(response, batch_first=True), columns, METHODS[method], Update(6, 9.0, 2, 0.75), kl_beta=kl_beta
    )

    # verl's column i holds the log-probability of token i + 1.
    whole = [
        torch.cat([torch.full((p - 1,), 9.0), row, torch.tensor([9.0])])
        for p, row in zip(prompts, response, strict=True)
    ]
    columns[LOG_LINE] = [torch.tensor([5]), torch.tensor([-1]), torch.tensor([2])]
    data = TensorDict(
        {name: packed(rows) for name, rows in columns.items()}
        | {
            "prompts": packed([torch.zeros(n).long() for n in prompts]),
            "responses": packed([torch.zeros(n).long() for n in lengths]),
        },
        batch_size=3,
    )
    tu.assign_non_tensor(data, global_batch_size=6, batch_num_tokens=9, dp_size=2)
    tu.assign_non_tensor_data(data, turn_credit_loss.REAL_SHARE, 0.75)
    actor = SimpleNamespace(use_kl_loss=kl_beta > 0, kl_loss_coef=kl_beta, entropy_coeff=0.0)
    loss = turn_credit_loss.TurnCreditLoss(actor, METHODS[method])
    found, metrics = loss(model_output={"log_probs": packed(whole)}, data=data, dp_group=None)
    assert found.item() == pytest.approx(expected.loss.item(), rel=1e-6)

    summed = {f"actor/{name}": metric.aggregate() for name, metric in metrics.items()}
    means = turn_credit_loss.mean_diagnostics(summed, METHODS[method])
    assert means.keys() == expected.diagnostics.keys()
    assert means["loss/ratio_mean"] == pytest.approx(expected.diagnostics["loss/ratio_mean"].item(), rel=1e-6)
    assert ("kl" in means) == (kl_beta > 0)
    assert not any("a2tgpo/" in name for name in summed)
    (seen,) = loss.take_updates()
    assert seen.lines.tolist() == [5, 2], "padding is not in the log"
    assert torch.allclose(seen.log_ratio[1, :3], torch.tensor(-0.01)) and loss.take_updates() == []


@pytest.mark.parametrize("method", ["a2tgpo", "gspo"])
def test_diagnostics_are_those_of_all_rows_together(method: str) -> None:
    """However an update is cut over micro-batches and processes, and with padding rows, what is logged is what one
    micro-batch of its rollouts alone would say."""
    generator = torch.Generator().manual_seed(3)
    lengths = [4, 6, 1, 3, 1, 5, 1, 1]  # rows 2, 4, 6 and 7 are padding
    padding = {2, 4, 6, 7}
    logps = [torch.randn(n, generator=generator) - 2 for n in lengths]
    columns = {
        "turn_ids": [torch.full((n,), -1 if i in padding else 0) for i, n in enumerate(lengths)],
        "advantages": [torch.full((n,), (-1.0) ** i) for i, n in enumerate(lengths)],
        "turn_clip_scale": [torch.ones(n) for n in lengths],
        "old_log_probs": [row + 0.003 * i - 0.01 for i, row in enumerate(logps)],
    }
    actor = SimpleNamespace(use_kl_loss=False, kl_loss_coef=0.0, entropy_coeff=0.0)
    loss = turn_credit_loss.TurnCreditLoss(actor, METHODS[method])

    def metrics_of(rows: list[int]) -> dict[str, Metric]:
        data = TensorDict(
            {name: packed([values[i] for i in rows]) for name, values in columns.items()}
            | {
                "prompts": packed([torch.zeros(2).long() for _ in rows]),
                "responses": packed([torch.zeros(lengths[i]).long() for i in rows]),
            },
            batch_size=len(rows),
        )
        tu.assign_non_tensor(data, global_batch_size=8, batch_num_tokens=18, dp_size=2)
        whole = packed([torch.cat([torch.zeros(1), logps[i], torch.zeros(1)]) for i in rows])
        return loss(model_output={"log_probs": whole}, data=data)[1]

    processes = [[metrics_of([0, 1]), metrics_of([2, 4])], [metrics_of([3, 7, 6]), metrics_of([5])]]
    joined: dict[str, list[Metric]] = {}
    for micro_batches in processes:
        for name in micro_batches[0]:
            one = micro_batches[0][name]
            one.extend(micro_batches[1][name])
            joined.setdefault(name, []).append(one)
    cut = {f"actor/{name}": Metric.aggregate_dp(values) for name, values in joined.items()}
    alone = {f"actor/{name}": metric.aggregate() for name, metric in metrics_of([0, 1, 3, 5]).items()}
    found, expected = (turn_credit_loss.mean_diagnostics(values, METHODS[method]) for values in (cut, alone))
    assert found.keys() == expected.keys() and {"clip_ratio/low_min", "clip_ratio/high_max"} < found.keys()
    assert all(found[name] == pytest.approx(value, rel=1e-5) for name, value in expected.items()), (found, expected)
    assert expected["clip_ratio/low_mean"] + expected["clip_ratio/high_mean"] > 0
