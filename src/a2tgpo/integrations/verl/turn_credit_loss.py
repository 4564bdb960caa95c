"""Be the loss that verl's workers call for every micro-batch: the pipeline's, and verl's entropy bonus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from a2tgpo.integrations.verl.micro_batch import Update, micro_batch_loss
from a2tgpo.integrations.verl.queue_rows import UPDATE_COLUMNS
from a2tgpo.methods import Method

REAL_SHARE = "a2tgpo_real_share"
"""Key of a batch's `extra_info`: see `Update.real_share`."""

TOKEN_WEIGHT = "turn_token_weight"
"""Column of importance weights; only where verl corrects for the rollout engine."""

DIAGNOSTIC = "a2tgpo/"
"""Prefix of a diagnostic times the tokens it is a mean over; `TOKENS` has those, so that micro-batches without a token
of the policy do not dilute the mean."""
TOKENS = f"{DIAGNOSTIC}tokens"


def turn_credit_loss(
    model_output: Mapping[str, Any], data: Any, dp_group: Any = None, *, config: Any, method: Method
) -> tuple[Tensor, dict[str, Any]]:
    """Return loss and metrics of a micro-batch, as `TrainingWorker.set_loss_fn` expects.

    Args:
        model_output: `log_probs` and, where they are computed, `entropy`, packed.
        data: the micro-batch's columns, packed, and what verl adds about the update.
        config: verl's `ActorConfig`.
        method: the row of the methods table.
    """
    logps = no_padding_2_padding(model_output["log_probs"], data)
    update = Update(
        n_rows=data["global_batch_size"],
        n_tokens=max(float(data["batch_num_tokens"]), 1.0),
        n_processes=data["dp_size"],
        real_share=tu.get(data, REAL_SHARE, default=1.0),
    )
    names = [*UPDATE_COLUMNS, "old_log_probs"] + ["ref_log_prob"] * config.use_kl_loss
    columns = {name: data[name].unbind() for name in names}
    if TOKEN_WEIGHT in data:
        columns["token_weight"] = data[TOKEN_WEIGHT].unbind()
    kl_beta = config.kl_loss_coef if config.use_kl_loss else 0.0
    found = micro_batch_loss(logps, columns, method, update, kl_beta=kl_beta)
    loss = found.loss
    n_tokens = sum(float((ids >= 0).sum()) for ids in columns["turn_ids"])
    values: dict[str, Any] = {
        f"{DIAGNOSTIC}{name.rpartition('/')[2]}": value * n_tokens for name, value in found.diagnostics.items()
    }
    values |= {TOKENS: n_tokens, "actor/pg_loss": loss.detach()}
    if config.entropy_coeff and model_output.get("entropy") is not None:
        entropy = agg_loss(
            loss_mat=no_padding_2_padding(model_output["entropy"], data),
            loss_mask=data["loss_mask"].to_padded_tensor(0),
            loss_agg_mode=config.loss_agg_mode,
            dp_size=data["dp_size"],
            batch_num_tokens=data["batch_num_tokens"],
            global_batch_size=data["global_batch_size"],
            loss_scale_factor=config.loss_scale_factor,
        )
        loss = loss - config.entropy_coeff * entropy
        values["actor/entropy_loss"] = entropy.detach()
    return loss, Metric.from_dict(values, aggregation=AggregationType.SUM)


def mean_diagnostics(metrics: dict[str, Any]) -> dict[str, float]:
    """Take the summed diagnostics of an update out of `metrics` and return their means, under the names TRL's runs
    have."""
    prefix = f"actor/{DIAGNOSTIC}"
    summed = {name.removeprefix(prefix): metrics.pop(name) for name in list(metrics) if name.startswith(prefix)}
    n_tokens = max(float(summed.pop("tokens", 0.0)), 1.0)
    return {("kl" if name == "kl" else f"loss/{name}"): float(v) / n_tokens for name, v in summed.items()}
