"""Score gold answers on verl's workers, with the weights that are about to be trained."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from transformers import AutoConfig
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.fs import copy_to_local
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.engine_forward import causal_model, module_forward
from a2tgpo.integrations.verl.gold_answers import gold_answers
from a2tgpo.integrations.verl.queue_rows import LIKELIHOOD, as_scored
from a2tgpo.integrations.verl.row_scoring import answer_rows, rows_likelihood
from a2tgpo.integrations.verl.turn_credit_loss import SeenUpdate, TurnCreditLoss
from a2tgpo.pipeline import RolloutBatch
from a2tgpo.pipeline.likelihood import score_answers
from a2tgpo.signals.answer_likelihood import AnswerScorer
from a2tgpo.signals.answer_likelihood.model_support import why_not_cached

SETTINGS, TEMPERATURE = "a2tgpo_settings", "temperature"
"""Keys of a batch's `extra_info`: fields of `TurnCreditSettings`, and what logits are divided by."""

SCORED_COLUMNS = ("prompts", "responses", "response_mask", "reward_model")


class AnswerScoring:
    """Add to a worker that holds an actor what per-turn credit asks of it."""

    actor: TrainingWorker

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def score_answers(self, data: TensorDict) -> TensorDict | None:
        """Return the column `LIKELIHOOD` for rows of `SCORED_COLUMNS`; None on ranks that give no output.

        A collective of the actor's ranks.
        """
        settings = TurnCreditSettings(**tu.get(data, SETTINGS))
        tokenizer = self.actor.model_config.tokenizer
        scorer = settings.scorer(tokenizer)
        temperature = float(tu.get(data, TEMPERATURE, default=1.0))
        obstacle = why_not_own_module(self.actor)
        if settings.gain_method == "cached" and obstacle is not None:
            raise ValueError(f"+a2tgpo.gain_method='cached': {obstacle}; leave it at 'auto', which then reads rows")
        found: Tensor | None
        if settings.gain_method == "rows" or obstacle is not None:
            batch = _as_batch(data, tokenizer, settings, torch.device("cpu"))
            found = score_rows(self.actor, batch, scorer, temperature)
        else:
            batch = _as_batch(data, tokenizer, settings, get_device_id())
            found = score_cached(self.actor, batch, scorer, temperature, settings.gain_tokens)
        if found is None:
            return None
        counts = batch.boundaries.exists.sum(dim=1).tolist()
        rows = [values[:count] for values, count in zip(found.cpu(), counts, strict=True)]
        likelihood = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        return TensorDict({LIKELIHOOD: likelihood}, batch_size=len(rows))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_updates(self) -> list[SeenUpdate]:
        """Return what the loss saw in this process since the last time; nothing on ranks that repeat another's rows."""
        assert isinstance(self.actor.loss_fn, TurnCreditLoss), "the trainer set it"
        seen = self.actor.loss_fn.take_updates()
        return seen if self.actor.engine.is_mp_src_rank_with_outputs() else []


class ScoringWorker(AnswerScoring, ActorRolloutRefWorker):
    """Be verl's worker of trainers whose rollouts share its devices, with `score_answers`."""


class DetachedScoringWorker(AnswerScoring, DetachActorWorker):
    """Be verl's worker of the trainer with rollouts on devices of their own, with `score_answers`."""


def check_cached(model: Any) -> None:
    """Check, before workers start, that a model's KV cache can be cut at turn boundaries.

    Args:
        model: verl's `actor_rollout_ref.model`.

    Raises:
        ValueError: it cannot.
    """
    trusted = {"trust_remote_code": model.get("trust_remote_code", False)}
    overridden = dict(model.get("override_config") or {})
    config = AutoConfig.from_pretrained(copy_to_local(model.get("hf_config_path") or model.path), **trusted)
    config._attn_implementation = overridden.get("attn_implementation", "flash_attention_2")
    if (obstacle := why_not_cached(config)) is not None:
        raise ValueError(f"+a2tgpo.gain_method='cached': {obstacle}; leave it at 'auto', which then reads rows")


def why_not_own_module(actor: TrainingWorker) -> str | None:
    """Say why the actor's module cannot be run with a KV cache, None where it can."""
    strategy = actor.engine_config.strategy
    if strategy not in ("fsdp", "fsdp2"):
        return f"the {strategy} engine does not run a Hugging Face model with its cache"
    if getattr(actor.engine_config, "ulysses_sequence_parallel_size", 1) > 1:
        return "with Ulysses a process has a part of each sequence only"
    if actor.engine_config.use_fused_kernels:
        return "verl's fused kernels replace the model's forward"
    return why_not_cached(causal_model(actor.engine.module).config)


def score_cached(
    actor: TrainingWorker, batch: RolloutBatch, scorer: AnswerScorer, temperature: float, max_tokens: int | None
) -> Tensor:
    """Read the answers from the KV cache of one pass over each trajectory, on the actor's own module."""
    engine, config = actor.engine, actor.engine_config
    # As the engine's own forwards choose it.
    dtype = getattr(engine, "_autocast_dtype", torch.bfloat16)

    def autocast() -> Any:
        return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype=dtype)

    width = batch.ids.size(1)
    budget = config.infer_max_token_len_per_gpu if config.use_dynamic_bsz else None
    budget = max_tokens or budget or config.infer_micro_batch_size_per_gpu * width
    with engine.eval_mode(), torch.no_grad():
        scores = score_answers(
            batch,
            scorer,
            module_forward(engine.module, autocast, temperature),
            causal_model(engine.module).config,
            rows_per_forward=max(1, budget // width),
        )
    return scores.likelihood


def score_rows(actor: TrainingWorker, batch: RolloutBatch, scorer: AnswerScorer, temperature: float) -> Tensor | None:
    """Read the answers as rows of their own through the engine's log-probability pass, which every engine has."""
    rows = answer_rows(batch, scorer)
    # Ranks cut their rows into equally many micro-batches, and so need equally many of them.
    n_rows = torch.tensor(len(rows), device=get_device_id())
    group = actor.engine.get_data_parallel_group()
    torch.distributed.all_reduce(n_rows, op=torch.distributed.ReduceOp.MAX, group=group)
    shortest = min(rows, key=lambda row: len(row.ids))
    ids = [row.ids for row in rows] + [shortest.ids] * (int(n_rows) - len(rows))

    def packed(tensors: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

    request = TensorDict(
        {
            "input_ids": packed(ids),
            "position_ids": packed([torch.arange(len(row)) for row in ids]),
            "loss_mask": packed([torch.ones_like(row) for row in ids]),
        },
        batch_size=len(ids),
    )
    budget = max(actor.engine_config.infer_max_token_len_per_gpu or 0, max(map(len, ids)))
    tu.assign_non_tensor(
        request,
        temperature=temperature,
        compute_loss=False,
        calculate_entropy=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=budget,
    )
    output = actor.infer_batch(request)
    if output is None:
        return None
    return rows_likelihood(rows, output["log_probs"].unbind()[: len(rows)], batch, scorer)


def _as_batch(data: TensorDict, tokenizer: Any, settings: TurnCreditSettings, device: Any) -> RolloutBatch:
    """Return this process's rows."""
    columns: dict[str, Any] = {
        name: [row.to(device) for row in data[name].unbind()] for name in SCORED_COLUMNS if name != "reward_model"
    }
    answers = [gold_answers(row, f"rollout {i}") for i, row in enumerate(tu.get(data, "reward_model"))]
    return as_scored(columns, answers, tokenizer, cut_last_result=settings.cut_last_result)
