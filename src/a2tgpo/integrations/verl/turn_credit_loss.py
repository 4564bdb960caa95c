"""Be the loss that verl's workers call for every micro-batch: the pipeline's, and verl's entropy bonus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from verl.trainer.ppo.core_algos import agg_loss
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from a2tgpo.integrations.verl.micro_batch import Update, micro_batch_loss, without_empty_rows
from a2tgpo.integrations.verl.queue_rows import LOG_LINE, UPDATE_COLUMNS
from a2tgpo.methods import Method
from a2tgpo.pipeline import TurnLoss

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

REAL_SHARE = "a2tgpo_real_share"
"""Key of a batch's `extra_info`: see `Update.real_share`."""

TOKEN_WEIGHT = "turn_token_weight"
"""Column of importance weights; only where verl corrects for the rollout engine."""

DIAGNOSTIC = "a2tgpo/"
"""Prefix of a diagnostic times what it is a mean over, tokens or rollouts; `TOKENS` and `ROLLOUTS` have those, so that
micro-batches without a token of the policy do not dilute the mean."""
TOKENS, ROLLOUTS = f"{DIAGNOSTIC}tokens", f"{DIAGNOSTIC}rollouts"

_WHERE_PRESENT = {"token_weight": TOKEN_WEIGHT, LOG_LINE: LOG_LINE}
"""Name the columns of what `micro_batch_loss` or the log reads."""

_OVER_ROLLOUTS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
"""Means over rollouts where the ratio is the sequence's, else over tokens."""


@dataclass(frozen=True)
class SeenUpdate:
    """Hold what an update made of the rollouts of one micro-batch, for `RolloutLog.write_updates`.

    Attributes:
        lines: of each rollout in the log, from 0; −1 on padding.
    """

    lines: Int[Tensor, " B"]
    log_ratio: Float[Tensor, "B L"]
    turn_ids: Int[Tensor, "B L"]
    clipped_turns: Bool[Tensor, "B T"]

    def logged(self) -> SeenUpdate:
        """Return the rollouts that the log has, on the CPU."""
        kept = self.lines >= 0
        return SeenUpdate(*(t[kept].cpu() for t in (self.lines, self.log_ratio, self.turn_ids, self.clipped_turns)))


@dataclass
class TurnCreditLoss:
    """Compute loss and metrics of each micro-batch, as `TrainingWorker.set_loss_fn` expects, and keep what the rollout
    log has of updates until it is asked for.

    Attributes:
        config: verl's `ActorConfig`.
        method: the row of the methods table.
    """

    config: Any
    method: Method
    _seen: list[SeenUpdate] = field(default_factory=list, repr=False)

    def __call__(
        self, model_output: Mapping[str, Any], data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return loss and metrics of a micro-batch.

        Args:
            model_output: `log_probs` and, where they are computed, `entropy`, packed.
            data: the micro-batch's columns, packed, and what verl adds about the update.
        """
        config = self.config
        logps = no_padding_2_padding(model_output["log_probs"], data)
        update = Update(
            n_rows=data["global_batch_size"],
            n_tokens=max(float(data["batch_num_tokens"]), 1.0),
            n_processes=data["dp_size"],
            real_share=tu.get(data, REAL_SHARE, default=1.0),
        )
        names = {name: name for name in (*UPDATE_COLUMNS, "old_log_probs")}
        names |= {"ref_log_prob": "ref_log_prob"} if config.use_kl_loss else {}
        names |= {name: key for name, key in _WHERE_PRESENT.items() if key in data}
        logps, columns = without_empty_rows(logps, {name: data[key].unbind() for name, key in names.items()})
        kl_beta = config.kl_loss_coef if config.use_kl_loss else 0.0
        found = micro_batch_loss(logps, columns, self.method, update, kl_beta=kl_beta)
        if LOG_LINE in columns:
            ids = pad_sequence(list(columns["turn_ids"]), batch_first=True, padding_value=-1)
            lines = torch.cat(list(columns[LOG_LINE]))
            self._seen.append(SeenUpdate(lines, found.log_ratio, ids, found.clipped_turns))
        metrics = _diagnostics(found, columns["turn_ids"], self.method)
        values: dict[str, Any] = {"actor/pg_loss": found.loss.detach()}
        loss = found.loss
        if config.entropy_coeff and model_output.get("entropy") is not None:
            entropy = _entropy(model_output["entropy"], data, config)
            loss = loss - config.entropy_coeff * entropy
            values["actor/entropy_loss"] = entropy.detach()
        return loss, metrics | Metric.from_dict(values, aggregation=AggregationType.SUM)

    def take_updates(self) -> list[SeenUpdate]:
        """Return what was seen since the last time."""
        seen, self._seen = [one.logged() for one in self._seen], []
        return [one for one in seen if len(one.lines)]


def _entropy(packed: Tensor, data: Any, config: Any) -> Tensor:
    """Return verl's entropy bonus, averaged as verl's options say."""
    return agg_loss(
        loss_mat=no_padding_2_padding(packed, data),
        loss_mask=data["loss_mask"].to_padded_tensor(0),
        loss_agg_mode=config.loss_agg_mode,
        dp_size=data["dp_size"],
        batch_num_tokens=data["batch_num_tokens"],
        global_batch_size=data["global_batch_size"],
        loss_scale_factor=config.loss_scale_factor,
    )


def _diagnostics(found: TurnLoss, turn_ids: Sequence[Tensor], method: Method) -> dict[str, Metric]:
    """Return a micro-batch's diagnostics as verl can join them over micro-batches, updates and processes."""
    n_tokens = sum(int((ids >= 0).sum()) for ids in turn_ids)
    n_rollouts = sum(bool((ids >= 0).any()) for ids in turn_ids)
    sums = {TOKENS: float(n_tokens), ROLLOUTS: float(n_rollouts)}
    joined = {}
    for name, value in found.diagnostics.items():
        key = f"{DIAGNOSTIC}{name}"
        if name.endswith(("_min", "_max")):
            least = name.endswith("_min")
            nothing = math.inf if least else -math.inf
            kind = AggregationType.MIN if least else AggregationType.MAX
            joined[key] = Metric(kind, value if n_rollouts else nothing)
        else:
            sums[key] = float(value) * (n_rollouts if _is_of_rollouts(name, method) else n_tokens)
    return joined | Metric.from_dict(sums, aggregation=AggregationType.SUM)


def _is_of_rollouts(name: str, method: Method) -> bool:
    return method.ratio == "sequence" and name in _OVER_ROLLOUTS


def mean_diagnostics(metrics: dict[str, Any], method: Method) -> dict[str, float]:
    """Take the joined diagnostics of a batch's updates out of `metrics` and return them under the names TRL's runs
    have; what no token of the policy had a part in is left out."""
    prefix = f"actor/{DIAGNOSTIC}"
    found = {name.removeprefix(prefix): float(metrics.pop(name)) for name in list(metrics) if name.startswith(prefix)}
    n_tokens, n_rollouts = found.pop("tokens", 0.0), found.pop("rollouts", 0.0)
    if not n_tokens:
        return {}
    return {
        name: value
        if name.endswith(("_min", "_max"))
        else value / (n_rollouts if _is_of_rollouts(name, method) else n_tokens)
        for name, value in found.items()
    }
