"""Give each batch of TRL's its credit: rollouts, signals and credit of the pipeline, as columns of TRL's batch."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.integrations.trl.accelerate_collective import sharded_by
from a2tgpo.integrations.trl.generation_batch import GenerationBatch
from a2tgpo.integrations.trl.objective import OTHER_OBJECTIVES, normalizes_otherwise
from a2tgpo.integrations.trl.policy_model import reading
from a2tgpo.integrations.trl.rollout_trainer import RolloutTrainer
from a2tgpo.pipeline import (
    BatchCredit,
    LossInputs,
    RolloutBatch,
    TurnSignals,
    add_overlong_penalty,
    assign_credit,
    collect_signals,
)
from a2tgpo.pipeline.likelihood import score_policy
from a2tgpo.pipeline.metrics import credit_metrics, rollout_metrics
from a2tgpo.pipeline.rollout_log import RolloutLog
from a2tgpo.pipeline.signal_health import in_all_processes, signal_counts
from a2tgpo.pipeline.turn_loss import tokens_per_process
from a2tgpo.pipeline.update_gain import UpdateGain, is_cheaper
from a2tgpo.rollout.rows import forward_price
from a2tgpo.signals.answer_likelihood import Scores, fused_forward

_PADDED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
LOGGED_ROW = "rollout_row"
"""Column of TRL's batch: the line of each rollout in the log, counted from the batch's first where the update reads the
gains."""


class TurnCreditTrainer(RolloutTrainer):
    """Be `GRPOTrainer` up to the credit of a batch, in columns that the loss reads.

    Where the update's own forwards can give the credit, the columns wait for it in `_update_gain`. Arguments and errors
    are those of `A2TGPOTrainer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        folder: str | Path | None = self.args.rollouts_dir
        if folder is None:
            folder = Path(str(self.args.output_dir)) / "rollouts"
        self._rollout_log = RolloutLog(folder, self.collective) if folder != "" else None
        self._update_gain: UpdateGain | None = None
        self._feeds_update = False

    def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        generation = self._generation
        of_old_policy = generation is not None and self._needs_old_logps and generation.rollouts is None
        of_reference = generation is not None and not of_old_policy and self.beta != 0.0
        if generation is None or not (of_old_policy or (of_reference and sharded_by(self.accelerator) is None)):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        # In place of TRL's passes: rollouts of like length together, and the output head on the policy's tokens alone.
        n_prompt = input_ids.size(1) - logits_to_keep
        (prompt_ids, ids), (prompt_mask, mask) = (
            rows.tensor_split([n_prompt], dim=1) for rows in (input_ids, attention_mask)
        )
        batch = self._as_rollouts(generation, prompt_ids, prompt_mask, ids, mask)
        if of_old_policy and self._scoring.by_policy:  # reads the answer likelihoods along the way
            generation.scores = self._score(batch, old_logps=True)
            return generation.scores.old_logps, None, None  # type: ignore[return-value]
        part = "old_logps" if of_old_policy else "reference"
        with self._clock.measure(self._mode, part), reading(self) as whole:
            # Without a model of its own the reference is the policy, of which TRL has switched the adapter.
            asked = whole if of_old_policy or self.ref_model is None else self.ref_model
            forward = fused_forward(asked, self.accelerator.autocast)
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
        if self._feeds_update:
            self._update_gain = None  # of a run that stopped inside an update
        batch = self._as_rollouts(generation, *(output[name] for name in _PADDED))
        assert generation.rewards_per_func is not None, "TRL rewards a batch before it returns it"
        rewards = self._weigh(self._own_rows(generation.rewards_per_func, len(generation.rows)))
        rewards = add_overlong_penalty(rewards, batch, self.method, self.max_completion_length)
        # TRL has compared the outcomes already, in whichever way its user asked for.
        outcome = output["advantages"] if normalizes_otherwise(self.args) else None
        if self._scoring.needs_answers and generation.scores is None:
            read = generation.read_scores(self._scoring.scorer)
            # A pass is one of all processes.
            passes = self.collective.any(read is None)
            if passes and self._reads_gain_in_update(batch):
                self._update_gain = UpdateGain(batch, rewards, outcome, self._assign)
                output[LOGGED_ROW] = torch.arange(len(rewards), device=batch.turn_ids.device)
                return output | self._loss_columns(output, self._update_gain.provisional())
            generation.scores = self._score(batch) if passes or read is None else read
        signals = self._signals(batch, generation.scores.likelihood if generation.scores is not None else None)
        credit = self._assign(batch, signals, rewards, outcome)
        lines = self._log_credit(batch, credit, signals)
        if lines is not None:
            output[LOGGED_ROW] = torch.tensor(lines, device=batch.turn_ids.device)
        inputs = LossInputs.of(credit.local(self.collective), batch.model_mask)
        return output | self._loss_columns(output, inputs)

    def _assign(
        self, batch: RolloutBatch, signals: TurnSignals, rewards: Tensor, outcome: Tensor | None
    ) -> BatchCredit:
        return assign_credit(batch, signals, rewards, self.method, self.collective, normalized_outcome=outcome)

    def _loss_columns(self, output: dict[str, Any], inputs: LossInputs) -> dict[str, Tensor]:
        windows = self.args.steps_per_generation / self._window if self.model.training else 1
        tokens = tokens_per_process([inputs], self.collective)
        # What TRL's own objectives read: the same tokens, in every process.
        output["num_items_in_batch"] = tokens * self.collective.size
        return inputs.over_tokens(tokens / windows).columns()

    def _log_credit(self, batch: RolloutBatch, credit: BatchCredit, signals: TurnSignals) -> range | None:
        """Log what a batch was given; return the lines of its rollouts where they are logged."""
        logged = credit_metrics(credit) | rollout_metrics(batch.records, credit, self.collective)
        logged |= signal_counts(self._scoring.process_signal, self.collective)
        for name, value in logged.items():
            self._metrics[self._mode][name].append(value)
        self._log_advantages(credit)
        if self._rollout_log is None or not self.model.training:
            return None
        step = self.state.global_step
        return self._rollout_log.write(batch, credit, self.method, self._tokenizer, step, signals)

    def _signals(self, batch: RolloutBatch, likelihood: Tensor | None) -> TurnSignals:
        """Collect what the method reads of each turn.

        Raises:
            JudgeError: the judge refuses, or is gone.
        """
        entropies = self._entropies(batch) if "entropy" in self.method.credit.reads else None

        def collect() -> TurnSignals:
            return collect_signals(
                batch,
                self.method,
                self._tokenizer,
                likelihood=likelihood,
                process_signal=self._scoring.process_signal,
                turn_rewards=self._scoring.by_environment,
                entropies=entropies,
            )

        if self._scoring.process_signal is None:
            return collect()
        with self._clock.measure(self._mode, "turn_signal"):
            signals = in_all_processes(collect, self.collective)
        self._signal_health.note(signals, batch, self.collective)
        return signals

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

    @cached_property
    def _window(self) -> int:
        """Consecutive micro-batches of one generation that feed one update."""
        return math.gcd(self.args.gradient_accumulation_steps, self.args.steps_per_generation)

    def _reads_gain_in_update(self, batch: RolloutBatch) -> bool:
        """Tell whether each forward of the batch's one update holds whole groups, and leaves keys to read gains from.

        Sharded models, and rows in several processes, are scored by a pass.
        """
        args = self.args
        return (
            self._feeds_update
            and self.collective.size == 1
            and sharded_by(self.accelerator) is None
            and not self._several_updates
            and not args.gradient_checkpointing
            and args.per_device_train_batch_size % self.num_generations == 0
            and self.loss_type not in OTHER_OBJECTIVES
            and self._scoring.from_own_keys(self.model)
            and is_cheaper(
                batch.completion_mask.sum(dim=1).tolist(),
                batch.prompt_ids.size(1),
                args.per_device_train_batch_size,
                self._window,
                forward_price(self.model),
            )
        )
