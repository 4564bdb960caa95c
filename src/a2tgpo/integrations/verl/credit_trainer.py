"""Train with per-turn credit: verl's V1 trainers, whose advantages, loss and workers are ours.

verl samples, rewards, computes old log-probabilities, updates, checkpoints and synchronises weights. The driver holds
every row of a batch in TransferQueue, so that credit needs no gathering over processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain
from typing import Any, ClassVar

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.gold_answers import gold_answers, read_gold_answers
from a2tgpo.integrations.verl.queue_rows import (
    LIKELIHOOD,
    LOG_LINE,
    RowOrder,
    as_rollouts,
    credit_columns,
    end_ids,
    pad_likelihoods,
    token_weights,
)
from a2tgpo.integrations.verl.refusals import ESTIMATOR, check_config
from a2tgpo.integrations.verl.run_log import RunLog, batch_metrics
from a2tgpo.integrations.verl.scoring_worker import (
    SCORED_COLUMNS,
    SETTINGS,
    TEMPERATURE,
    DetachedScoringWorker,
    ScoringWorker,
    check_cached,
)
from a2tgpo.integrations.verl.server_scoring import check_server_room
from a2tgpo.integrations.verl.turn_credit_loss import REAL_SHARE, TOKEN_WEIGHT, TurnCreditLoss, mean_diagnostics
from a2tgpo.pipeline import (
    BatchCredit,
    RolloutBatch,
    SingleProcess,
    TurnSignals,
    add_overlong_penalty,
    assign_credit,
    collect_signals,
)
from a2tgpo.pipeline.metrics import credit_metrics, rollout_metrics
from a2tgpo.pipeline.plugins import load_turn_signal
from a2tgpo.pipeline.signal_health import SignalHealth, signal_counts

_TENSORS = ("prompts", "responses", "response_mask", "rm_scores", "entropy", LIKELIHOOD)
_OBJECTS = ("reward_model", "extra_fields", "raw_prompt", "extra_info")
_CORRECTED = ("response_mask", "rollout_is_weights")
"""Columns that verl's correction for the rollout engine writes."""


class TurnCreditMixin(PPOTrainer):
    """Give a trainer of verl's per-turn credit.

    Raises:
        ValueError: an option that cannot be honoured, or a data set without answers where they are scored.
    """

    mode: ClassVar[str]
    """The trainer's name with verl, to which `trainer.v1.trainer_mode` is set back: verl reads it in places."""
    worker: ClassVar[type] = ScoringWorker

    def __init__(self, config: Any) -> None:
        self.credit_settings = TurnCreditSettings.of(OmegaConf.to_container(config.get("a2tgpo") or OmegaConf.create()))
        self.method = check_config(config, self.credit_settings)
        self.turn_signal = load_turn_signal(self.credit_settings.turn_signal, self.credit_settings.judge)
        self._signal_health = SignalHealth()
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.mode
        super().__init__(config)
        self.run_log = RunLog(self.credit_settings.run_dir or config.trainer.default_local_dir)

    # --- start -------------------------------------------------------------------------------------------------------

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        if self.processor is not None:
            raise ValueError(
                f"actor_rollout_ref.model.path={self.config.actor_rollout_ref.model.path} has a multimodal processor: "
                "answer likelihoods are read from text alone; use a text model"
            )
        settings, model = self.credit_settings, self.config.actor_rollout_ref.model
        if not settings.scores_answers:
            return
        if settings.gain_method == "cached":
            check_cached(model)
        rows = getattr(self.train_dataset, "dataframe", None)  # a data set class of the user's may have none
        if rows is not None:
            names = rows.column_names
            answers = read_gold_answers(rows["reward_model"] if "reward_model" in names else [None] * len(rows))
            if settings.gain_method == "server":
                check_server_room(self.config, settings.scorer(self.tokenizer), answers)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(self.worker)

    def on_init_end(self) -> None:
        super().on_init_end()
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(TurnCreditLoss(actor, self.method))
        resumes = self.config.trainer.resume_mode != "disable"
        self._rollout_log = self.run_log.begin(self._as_recipe(), step=self.global_steps, resumes=resumes)

    def _as_recipe(self) -> dict[str, Any]:
        rollout = self.config.actor_rollout_ref.rollout
        return self.credit_settings.as_recipe() | {
            "engine": f"verl {self.mode}",
            "model_name_or_path": self.config.actor_rollout_ref.model.path,
            "num_generations": rollout.n,
            "temperature": rollout.temperature,
            "max_completion_length": self.config.data.max_response_length,
            "learning_rate": self.config.actor_rollout_ref.actor.optim.lr,
        }

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        settings = self.credit_settings
        if settings.scores_answers and settings.gain_method != "server":
            with marked_timer("gain", self.timing_raw):
                self._score_answers(batch)
        columns = self._read(batch, [*_TENSORS, *_OBJECTS])
        if settings.gain_method == "server":
            columns[LIKELIHOOD] = [torch.tensor(fields.get(LIKELIHOOD, ())) for fields in columns["extra_fields"]]
        with _advantages_to_follow():
            batch = super()._compute_advantage(batch, metrics)
        order = RowOrder.of(batch.keys, [tag.get("is_padding", False) for tag in batch.tags])
        rollouts = self._as_rollouts(columns, order)
        with nullcontext() if self.turn_signal is None else marked_timer("turn_signal", self.timing_raw):
            signals = self._collect_signals(columns, order, rollouts)
        credit = self._assign_credit(columns, order, rollouts, signals)
        lines = self._log_credit(rollouts, credit, signals, metrics)
        updated = credit_columns(credit, rollouts, order, [len(row) for row in columns["responses"]])
        updated["returns"] = updated["advantages"]
        updated[LOG_LINE] = order.lines(lines)
        weights = token_weights(columns["response_mask"], **self._read(batch, list(_CORRECTED)))
        if weights is not None:
            updated[TOKEN_WEIGHT] = weights
        if credit.valid.any():  # verl's metrics cannot do without a token
            updated["response_mask"] = updated["loss_mask"]
        fields = TensorDict({name: _packed(rows) for name, rows in updated.items()}, batch_size=len(batch))
        batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        batch.extra_info[REAL_SHARE] = order.real_share
        return batch

    def _collect_signals(self, columns: dict[str, list[Any]], order: RowOrder, rollouts: RolloutBatch) -> TurnSignals:
        likelihood = entropies = None
        if self.credit_settings.scores_answers:
            likelihood = pad_likelihoods(order.pick(columns[LIKELIHOOD], lambda: torch.zeros(0)), rollouts)
        if "entropy" in self.method.credit.reads:
            entropies = pad_sequence(order.pick(columns["entropy"], lambda: torch.zeros(0)), batch_first=True)
        signals = collect_signals(
            rollouts,
            self.method,
            self.tokenizer,
            likelihood=likelihood,
            process_signal=self.turn_signal,
            entropies=entropies,
        )
        self._signal_health.note(signals, rollouts, SingleProcess())
        return signals

    def _assign_credit(
        self, columns: dict[str, list[Any]], order: RowOrder, rollouts: RolloutBatch, signals: TurnSignals
    ) -> BatchCredit:
        rewards = torch.tensor(order.pick([float(row.sum()) for row in columns["rm_scores"]], lambda: math.nan))
        longest = self.config.data.max_response_length
        rewards = add_overlong_penalty(rewards, rollouts, self.method, longest)
        return assign_credit(rollouts, signals, rewards, self.method, SingleProcess())

    def _log_credit(
        self, rollouts: RolloutBatch, credit: BatchCredit, signals: TurnSignals, metrics: dict[str, Any]
    ) -> range:
        """Log a batch and return its lines in the rollout log."""
        metrics |= credit_metrics(credit) | rollout_metrics(rollouts.records, credit, SingleProcess())
        metrics |= signal_counts(self.turn_signal, SingleProcess())
        metrics |= batch_metrics(rollouts, credit)
        # TRL counts the updates before a batch was generated, verl its steps from 1.
        return self._rollout_log.write(
            rollouts, credit, self.method, self.tokenizer, self.global_steps - 1, signals=signals
        )

    def _score_answers(self, batch: KVBatchMeta) -> None:
        """Have the workers write the column `LIKELIHOOD`."""
        request = KVBatchMeta(
            keys=batch.keys,
            tags=batch.tags,
            partition_id=batch.partition_id,
            fields=list(SCORED_COLUMNS),
            extra_info={
                SETTINGS: asdict(self.credit_settings),
                TEMPERATURE: self.config.actor_rollout_ref.rollout.temperature,
            },
        )
        self.actor_rollout_wg.score_answers(request)

    def _read(self, batch: KVBatchMeta, names: list[str]) -> dict[str, list[Any]]:
        """Read columns of the batch, those of them that there are."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        found = {name: tu.get(data, name) for name in names if name in data}
        return {name: list(v.unbind()) if isinstance(v, Tensor) else v for name, v in found.items()}

    def _as_rollouts(self, columns: dict[str, list[Any]], order: RowOrder) -> RolloutBatch:
        answers: list[list[str]] = [[] for _ in range(order.n_rows)]
        for slot in order.slots:
            given = columns["reward_model"][slot] if slot is not None and "reward_model" in columns else None
            if slot is not None and (given is not None or self.credit_settings.scores_answers):
                answers[slot] = gold_answers(given, f"rollout {slot}")
        return as_rollouts(
            columns,
            order,
            answers=answers,
            pad_id=self.tokenizer.pad_token_id,
            end_ids=end_ids(self.tokenizer),
            cut_last_result=self.credit_settings.cut_last_result,
        )

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._update_actor(batch, metrics)
        metrics |= mean_diagnostics(metrics, self.method)
        for seen in chain.from_iterable(self.actor_rollout_wg.take_updates()):
            self._rollout_log.write_updates(
                seen.lines, self.global_steps, seen.log_ratio, seen.turn_ids, seen.clipped_turns
            )
        return batch

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        self.run_log.write_metrics(self.global_steps, metrics)


@register_trainer("a2tgpo")
class SyncTrainer(TurnCreditMixin, PPOTrainerSync):
    """Train on the rollouts of the policy as it is; rollouts and training take turns on the same devices."""

    mode = "sync"


@register_trainer("a2tgpo_colocate_async")
class ColocateAsyncTrainer(TurnCreditMixin, PPOTrainerColocateAsync):
    """Train on the same devices while long rollouts go on over updates."""

    mode = "colocate_async"


@register_trainer("a2tgpo_separate_async")
class SeparateAsyncTrainer(TurnCreditMixin, PPOTrainerSeparateAsync):
    """Train while other devices generate."""

    mode = "separate_async"
    worker = DetachedScoringWorker


_to_follow = False


@contextmanager
def _advantages_to_follow() -> Iterator[None]:
    """Let verl's own step run for all that it does besides advantages, which come after it."""
    global _to_follow
    _to_follow = True
    try:
        yield
    finally:
        _to_follow = False


@register_adv_est(ESTIMATOR)
def no_advantages(token_level_rewards: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Return zeros, which the trainer replaces.

    Raises:
        ValueError: another trainer asks.
    """
    if not _to_follow:
        raise ValueError(
            f"algorithm.adv_estimator={ESTIMATOR}: turns get their credit from the trainer of that name; set "
            "trainer.v1.trainer_mode=a2tgpo as well"
        )
    return torch.zeros_like(token_level_rewards), torch.zeros_like(token_level_rewards)


def _packed(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)
