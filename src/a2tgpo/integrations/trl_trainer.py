"""`A2TGPOTrainer`: TRL's `GRPOTrainer` with per-turn credit.

TRL generates, rewards, batches, updates, checkpoints and logs. This class adds three things: the answer's likelihood
at every turn boundary, read in the same pass as the old log-probabilities; the credit of each turn from it; and the
turn-level loss. The mathematics is in `a2tgpo.core`, the likelihoods are in `a2tgpo.scoring`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.core import kl_penalty, policy_loss, rollout_mean, turn_ids
from a2tgpo.integrations.batch_credit import assign_credit
from a2tgpo.integrations.checks import check_answers, check_trainer, gold_aliases, refuse_nan
from a2tgpo.integrations.metrics import credit_metrics, rollout_metrics
from a2tgpo.integrations.rollout_log import RolloutLog
from a2tgpo.integrations.trl_config import A2TGPOConfig
from a2tgpo.scoring import AnswerScaffold, AnswerScorer, Scores, fused_forward

__all__ = ["A2TGPOTrainer"]


class A2TGPOTrainer(GRPOTrainer):
    """Agentic Turn-Group Policy Optimization (arXiv 2605.06200) in place of `trl.GRPOTrainer`.

    Takes `GRPOTrainer`'s arguments, with `args` an `A2TGPOConfig`, and one more column in the data set: `answer`, the
    gold answer or a list of its aliases. Turns come from TRL's tool mask, so `tools=`, `environment_factory=` and
    `rollout_func=` (see `TagRollout`) work unchanged.

    Raises:
        ValueError: an option this loss cannot honour, a data set without answers, or an answer without tokens; the
            message names it and says what to do.
    """

    _tag_names = ("trl", "a2tgpo")
    _name = "A2TGPO"
    args: A2TGPOConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: A2TGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else A2TGPOConfig("a2tgpo-output")
        super().__init__(
            model,
            refuse_nan(reward_funcs),
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        check_trainer(self)
        self._scorer = AnswerScorer(
            AnswerScaffold(args.answer_scaffold),
            self._tokenizer,
            likelihood=args.likelihood,
            alias=args.answer_alias,
            method=args.gain_method,
            cut_last_result=args.cut_last_result,
            count_padding=True,
        )
        for dataset in (train_dataset, eval_dataset):
            check_answers(dataset, self._scorer)
        self._rollout_log = RolloutLog(args.rollouts_dir) if args.rollouts_dir is not None else None
        self._pass_ahead = False
        self._batch: dict[str, Any] = {}
        self._seconds: dict[str, dict[str, float]] = {"train": defaultdict(float), "eval": defaultdict(float)}
        self._seconds_preparing = 0.0
        self.add_callback(_OptimizerClock(self))

    # --- one generation batch ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor | Any]:
        self._batch = {"answers": [gold_aliases(row, number) for number, row in enumerate(inputs)]}
        self._pass_ahead = self._trl_scores_old_logps()
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._pass_ahead = False
        if "scores" not in self._batch:
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                self._score(self.model, ids, mask, output["completion_ids"].size(1))
        return self._add_credit(inputs, output)

    def _trl_scores_old_logps(self) -> bool:
        """Whether TRL will ask for the policy's old log-probabilities itself in this batch (its own condition)."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % generate_every != 0

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        start = time.perf_counter()
        generated = super()._generate(prompts)
        self._log_seconds("generation", time.perf_counter() - start)
        self._batch["tool_mask"] = generated[2]
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        self._batch["rewards_per_func"] = rewards_per_func
        return rewards_per_func

    def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self._pass_ahead:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        # TRL's pass for the old log-probabilities: ours reads the answer likelihoods along the way.
        self._pass_ahead = False
        return self._score(model, input_ids, attention_mask, logits_to_keep).old_logps, None, None

    @torch.no_grad()
    def _score(self, model: Any, input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> Scores:
        """Old log-probabilities and answer likelihoods of the batch from one trajectory pass."""
        prompt_ids, completion_ids = input_ids.tensor_split([input_ids.size(1) - completion_length], dim=1)
        prompt_mask, completion_mask = attention_mask.tensor_split([attention_mask.size(1) - completion_length], dim=1)
        scores = self._scorer.score(
            fused_forward(model, self.accelerator.autocast),
            self.model.config,
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            completion_ids=completion_ids,
            completion_mask=completion_mask,
            model_mask=self._model_mask(completion_mask),
            answers=self._batch["answers"],
            batch_size=self._scoring_rows(),
        )
        self._log_seconds("old_logps", scores.seconds_logps)
        self._log_seconds("gain", scores.seconds_gain)
        self._batch["scores"] = scores
        return scores

    def _scoring_rows(self) -> int:
        train = self.model.training
        return self.args.per_device_train_batch_size if train else self.args.per_device_eval_batch_size

    def _model_mask(self, completion_mask: Tensor) -> Tensor:
        """`[B, L]`, True where the policy wrote the token."""
        rows = self._batch["tool_mask"]
        if rows is None:
            return completion_mask.bool()
        mask = torch.zeros_like(completion_mask, dtype=torch.bool)
        for i, row in enumerate(rows):
            mask[i, : len(row)] = torch.tensor(row, dtype=torch.bool)
        return mask & completion_mask.bool()

    def _add_credit(self, inputs: list[dict[str, Any]], output: dict[str, Any]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        scores: Scores = self._batch["scores"]
        rewards_per_func = self._batch["rewards_per_func"]
        outcome = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        outcome[torch.isnan(rewards_per_func).all(dim=1)] = math.nan
        group_size = self.num_generations if mode == "train" else self.num_generations_eval
        model_mask = self._model_mask(output["completion_mask"])
        credit = assign_credit(self.accelerator, scores, outcome, group_size, model_mask.any(dim=1), self.args)

        for name, value in credit_metrics(credit).items():
            self._metrics[mode][name].append(value)
        for name, value in rollout_metrics(self.accelerator, inputs, credit).items():
            self._metrics[mode][name].append(value)
        if self._rollout_log is not None and mode == "train":
            self._rollout_log.write(self, inputs, output, model_mask, credit)

        local = credit.local(self.accelerator.process_index)
        output["old_per_token_logps"] = scores.old_logps
        output["turn_ids"] = turn_ids(model_mask & local.valid[:, None])
        output["turn_advantages"] = local.advantage
        output["turn_clip_scale"] = local.clip_scale
        return output

    # --- one update ----------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        mode = "train" if self.model.training else "eval"
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            model, ids, mask, inputs["completion_ids"].size(1), compute_entropy=True
        )
        result = policy_loss(
            logps,
            inputs["old_per_token_logps"],
            inputs["turn_ids"],
            inputs["turn_advantages"],
            inputs["turn_clip_scale"],
            eps_low=self.epsilon_low,
            eps_high=self.epsilon_high,
        )
        loss = result.loss
        if self.beta != 0.0:
            old_logps = inputs["old_per_token_logps"] if self.args.use_bias_correction_kl else None
            kl = kl_penalty(logps, inputs["ref_per_token_logps"], inputs["turn_ids"], old_logps)
            penalty = rollout_mean(kl, inputs["turn_ids"])
            loss = loss + self.beta * penalty
            self._log_mean(mode, "kl", penalty)
        written = inputs["turn_ids"] >= 0
        assert entropies is not None
        self._log_mean(mode, "entropy", (entropies * written).sum() / written.sum().clamp(min=1))
        for name in ("clipped_low", "clipped_high", "ratio_mean", "approx_kl"):
            self._log_mean(mode, f"loss/{name}", getattr(result, name))
        return loss / (self.current_gradient_accumulation_steps if mode == "train" else 1.0)

    def _log_mean(self, mode: str, name: str, value: Tensor) -> None:
        self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())

    # --- seconds -------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        start = time.perf_counter()
        prepared = super()._prepare_inputs(generation_batch)
        self._seconds_preparing = time.perf_counter() - start
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self._log_seconds("update", time.perf_counter() - start - self._seconds_preparing)
        return loss

    def _log_seconds(self, part: str, seconds: float) -> None:
        self._seconds["train" if self.model.training else "eval"][part] += seconds

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the seconds each part took since the last one, summed over its calls."""
        mode = "train" if self.model.training else "eval"
        for part, seconds in self._seconds[mode].items():
            self._metrics[mode][f"seconds/{part}"] = [seconds]
        self._seconds[mode].clear()
        super().log(logs, start_time)


class _OptimizerClock(TrainerCallback):
    """Logs the optimizer's own share of the step."""

    def __init__(self, trainer: A2TGPOTrainer) -> None:
        self._log: Callable[[str, float], None] = trainer._log_seconds
        self._start = 0.0

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._log("optimizer", time.perf_counter() - self._start)
