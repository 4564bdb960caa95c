"""`A2TGPOTrainer`: TRL's `GRPOTrainer` with per-turn credit, by A²TGPO or any other row of the methods table.

TRL generates, rewards, batches, updates, checkpoints and logs. This class translates: TRL's tensors into a
`RolloutBatch`, the pipeline's `LossInputs` into columns of TRL's batch. The mathematics is in `a2tgpo.core`.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.integrations.trl.callbacks import FiniteGuard, MetricsFile, ScriptFiles
from a2tgpo.integrations.trl.generation_batch import GenerationBatch
from a2tgpo.integrations.trl.objective import OTHER_OBJECTIVES, normalizes_otherwise, update_loss
from a2tgpo.integrations.trl.policy_model import reading
from a2tgpo.integrations.trl.rollout_trainer import RolloutTrainer
from a2tgpo.pipeline import BatchCredit, LossInputs, RolloutBatch, add_overlong_penalty, assign_credit, collect_signals
from a2tgpo.pipeline.likelihood import score_policy
from a2tgpo.pipeline.metrics import credit_metrics, rollout_metrics
from a2tgpo.pipeline.microbatches import count_tokens_by_update, sort_by_length, trim_padding
from a2tgpo.pipeline.rollout_log import RolloutLog
from a2tgpo.pipeline.turn_loss import tokens_per_process
from a2tgpo.signals.answer_likelihood import Scores, fused_forward

__all__ = ["A2TGPOTrainer"]

_PADDED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_LOGGED_ROW = "rollout_row"
"""Column of TRL's batch: the line of each rollout in the log."""


class A2TGPOTrainer(RolloutTrainer):
    """Train by Agentic Turn-Group Policy Optimization (arXiv 2605.06200) in place of `trl.GRPOTrainer`.

    Takes `GRPOTrainer`'s arguments, with `args` an `A2TGPOConfig`, and, where the method reads information gain, one
    more column in the data set: `answer`, the gold answer or a list of its aliases. Turns come from TRL's tool mask, so
    `tools=`, `environment_factory=` and `rollout_func=` (see `TagRollout`) work unchanged.

    Args:
        turn_signal: one number per process turn in place of information gain (`a2tgpo.signals`: a `TurnFunction` around
            a function of yours, a process reward model, or any `ProcessSignal`). Keyword only.

    Raises:
        ValueError: an option that contradicts the method, a data set without answers, or an answer without tokens; the
            message names it and says what to do.
    """

    _tag_names = ("trl", "a2tgpo")
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name, self._paper = self.method.name, self.method.paper
        folder, output_dir = self.args.rollouts_dir, Path(str(self.args.output_dir))
        self._rollout_log: RolloutLog | None = None
        self._to_log: tuple[Any, ...] | None = None
        self.add_callback(FiniteGuard())
        if folder != "":
            self._rollout_log = RolloutLog(output_dir / "rollouts" if folder is None else folder, self.collective)
        if folder is None:  # a script's run: nobody else writes what `a2tgpo report` reads
            self.add_callback(ScriptFiles(output_dir))
            self.add_callback(MetricsFile(output_dir / "metrics.jsonl"))

    def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        generation = self._generation
        if generation is None or not self._needs_old_logps or generation.rollouts is not None:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        # TRL's pass for the old log-probabilities: ours reads the answer likelihoods along the way.
        n_prompt = input_ids.size(1) - logits_to_keep
        (prompt_ids, ids), (prompt_mask, mask) = (
            rows.tensor_split([n_prompt], dim=1) for rows in (input_ids, attention_mask)
        )
        batch = self._as_rollouts(generation, prompt_ids, prompt_mask, ids, mask)
        if self._scoring.by_policy:
            generation.scores = self._score(batch, old_logps=True)
            return generation.scores.old_logps, None, None  # type: ignore[return-value]
        with self._clock.measure(self._mode, "old_logps"), reading(self) as whole:
            forward = fused_forward(whole, self.accelerator.autocast)
            return score_policy(batch, forward, rows_per_forward=self._rows_per_forward), None, None

    def _as_rollouts(self, generation: GenerationBatch, *tensors: Tensor) -> RolloutBatch:
        eos = self._tokenizer.eos_token_id
        end_ids = () if eos is None else (eos,)
        return generation.as_rollouts(*tensors, end_ids=end_ids, cut_last_result=self._scoring.scorer.cut_last_result)

    def _score(self, batch: RolloutBatch, *, old_logps: bool = False) -> Scores:
        with reading(self) as model:
            scores = self._scoring.score(batch, model, rows_per_forward=self._rows_per_forward, old_logps=old_logps)
        if old_logps:
            self._clock.move(self._mode, scores.seconds_logps, "old_logps")
        self._clock.move(self._mode, scores.seconds_gain, "gain")
        return scores

    def _add_credit(self, generation: GenerationBatch, output: dict[str, Any]) -> dict[str, Any]:
        batch = self._as_rollouts(generation, *(output[name] for name in _PADDED))
        if self._scoring.needs_answers and generation.scores is None:
            read = generation.read_scores(self._scoring.scorer)
            # A pass is one of all processes.
            passes = self.collective.any(read is None)
            generation.scores = self._score(batch) if passes or read is None else read
        signals = collect_signals(
            batch,
            self.method,
            self._tokenizer,
            likelihood=generation.scores.likelihood if generation.scores is not None else None,
            process_signal=self._scoring.process_signal,
            turn_rewards=self._scoring.by_environment,
            entropies=self._entropies(batch) if "entropy" in self.method.credit.reads else None,
        )
        assert generation.rewards_per_func is not None, "TRL rewards a batch before it returns it"
        rewards = self._weigh(self._own_rows(generation.rewards_per_func, len(generation.rows)))
        credit = assign_credit(
            batch,
            signals,
            add_overlong_penalty(rewards, batch, self.method, self.max_completion_length),
            self.method,
            self.collective,
            # TRL has compared the outcomes already, in whichever way its user asked for.
            normalized_outcome=output["advantages"] if normalizes_otherwise(self.args) else None,
        )
        for name, value in (credit_metrics(credit) | rollout_metrics(batch.records, credit, self.collective)).items():
            self._metrics[self._mode][name].append(value)
        if self._rollout_log is not None and self.model.training:
            lines = self._rollout_log.write(batch, credit, self.method, self._tokenizer, self.state.global_step)
            output[_LOGGED_ROW] = torch.tensor(lines, device=batch.turn_ids.device)
        inputs = LossInputs.of(credit.local(self.collective), batch.model_mask)
        windows = self.args.steps_per_generation / self._window if self.model.training else 1
        tokens = tokens_per_process([inputs], self.collective) / windows
        self._log_advantages(credit)
        # What TRL's own objectives read: the same tokens, in every process.
        output["num_items_in_batch"] = tokens_per_process([inputs], self.collective) * self.collective.size
        return output | inputs.over_tokens(tokens).columns()

    def _log_advantages(self, credit: BatchCredit) -> None:
        """Show the credit that is used in TRL's table of completions, in place of the advantages that TRL computed."""
        shown, by_turn = self._logs["advantages"], self._logs["extra"]["advantage_by_turn"]
        for _ in range(min(len(shown), len(credit.outcome))):
            shown.pop()
        for advantage, n_turns in zip(credit.advantage.tolist(), credit.n_turns.tolist(), strict=True):
            turns = advantage[:n_turns]
            shown.append(sum(turns) / max(len(turns), 1))
            by_turn.append([round(one, 4) for one in turns])

    @torch.no_grad()
    def _entropies(self, batch: RolloutBatch) -> Tensor:
        """Return the entropy in nats at each completion token, under the policy that wrote it: one more pass."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            _, entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies(
                self,
                self.model,
                batch.ids,
                batch.mask,
                batch.completion_ids.size(1),
                batch_size=self._rows_per_forward,
                compute_entropy=True,
            )
        assert entropies is not None, "TRL was asked for them"
        return entropies

    # --- one update ----------------------------------------------------------------------------------------------

    @cached_property
    def _window(self) -> int:
        """Consecutive micro-batches of one generation that feed one update."""
        return math.gcd(self.args.gradient_accumulation_steps, self.args.steps_per_generation)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.loss_type in OTHER_OBJECTIVES:
            # TRL takes an advantage per token, and its mask from the tools'; a batch made by hand has its own.
            mask = {"tool_mask": (inputs["turn_ids"] >= 0).long()} if "turn_ids" in inputs else {}
            return super()._compute_loss(model, inputs | mask)
        columns = trim_padding(inputs, self.pad_to_multiple_of)
        loss, turns, found, logged = update_loss(self, model, columns, self.method, self._window)
        self._log_means(logged)
        if self._rollout_log is not None and _LOGGED_ROW in inputs:
            step = self.state.global_step + 1
            self._to_log = inputs[_LOGGED_ROW], step, found.log_ratio, turns.turn_ids, found.clipped_turns
        return loss

    def _log_means(self, values: dict[str, Tensor]) -> None:
        """Log means over processes, or the least and the largest, fetched from the device together."""
        gathered = self.accelerator.gather(torch.stack(list(values.values())).detach()[None])
        for name, of_processes in zip(values, gathered.T.tolist(), strict=True):
            reduce = min if name.endswith("_min") else max if name.endswith("_max") else fmean
            self._metrics[self._mode][name].append(reduce(of_processes))

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self._clock.measure(self._mode, None):
            buffered = self._buffered_inputs
            prepared = super()._prepare_inputs(generation_batch)
            if self.model.training and self._buffered_inputs is not buffered:
                fresh = sort_by_length(self._buffered_inputs, self._window)
                self._buffered_inputs = count_tokens_by_update(fresh, self._window, self.collective)
                prepared = self._buffered_inputs[self._step % self.args.steps_per_generation]
            return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._clock.measure(self._mode, "update"):
            loss = super().training_step(*args, **kwargs)
        if self._to_log is not None and self._rollout_log is not None:
            # Behind the backward pass, so that it does not wait for the host.
            self._rollout_log.write_updates(*self._to_log)
            self._to_log = None
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the seconds of each part since the last time, summed over its calls."""
        mode = self._mode
        self._metrics[mode].update(self._clock.take(mode))
        super().log(logs, start_time)
