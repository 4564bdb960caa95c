"""`A2TGPOTrainer`: TRL's `GRPOTrainer` with per-turn credit, by A²TGPO or any other row of the methods table.

TRL generates, rewards, batches, updates, checkpoints and logs. This class adds three things: the answer's likelihood
at every turn boundary where the method asks for it, read from keys that the old log-probabilities or generation need
anyway; the credit of each turn; and the loss, which reads the policy's tokens alone. The mathematics is in
`a2tgpo.core`, the likelihoods are in `a2tgpo.signals.answer_likelihood`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.core import turn_ids
from a2tgpo.integrations.trl.checks import check_answers, check_logprobs, check_trainer, gold_aliases, refuse_nan
from a2tgpo.integrations.trl.clock import StepClock
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.integrations.trl.kept_answers import answer_reader, kept_scores
from a2tgpo.integrations.trl.signal import open_signal
from a2tgpo.integrations.trl.tool_loop import ToolTurns
from a2tgpo.pipeline.answer_scores import score_answers, score_old_logps
from a2tgpo.pipeline.credit import assign_credit
from a2tgpo.pipeline.dynamic_sampling import refiller
from a2tgpo.pipeline.loss import loss_fields, update_loss
from a2tgpo.pipeline.metrics import credit_metrics, rollout_metrics
from a2tgpo.pipeline.microbatches import by_length, without_padding
from a2tgpo.pipeline.outcome import outcome_of
from a2tgpo.pipeline.rollout_log import RolloutLog
from a2tgpo.pipeline.turn_signals import global_states, local_turns, trl_boundaries, whole
from a2tgpo.pipeline.update_log import write_updates
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.signals import FrozenReference, ProcessSignal
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, Scores, fused_forward, fused_reading
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

__all__ = ["A2TGPOTrainer"]


class A2TGPOTrainer(GRPOTrainer):
    """Agentic Turn-Group Policy Optimization (arXiv 2605.06200) in place of `trl.GRPOTrainer`.

    Takes `GRPOTrainer`'s arguments, with `args` an `A2TGPOConfig`, and, where the method reads information gain, one
    more column in the data set: `answer`, the gold answer or a list of its aliases. Turns come from TRL's tool mask, so
    `tools=`, `environment_factory=` and `rollout_func=` (see `TagRollout`) work unchanged.

    Args:
        turn_signal: one number per process turn in place of information gain (`a2tgpo.signals`: a `TurnFunction` around
            a function of yours, a process reward model, or any `ProcessSignal`).

    Raises:
        ValueError: an option this loss cannot honour, a data set without answers, or an answer without tokens; the
            message names it and says what to do.
    """

    _tag_names = ("trl", "a2tgpo")
    _name = "A2TGPO"
    args: A2TGPOConfig
    _buffered_inputs: Any

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: A2TGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        turn_signal: ProcessSignal | None = None,
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
        self.method = args.chosen
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
        self._signal = open_signal(self, turn_signal)
        self._scores_policy = self.method.signal and self._signal is None
        self._scores_answers = self._scores_policy or isinstance(self._signal, FrozenReference)
        if self._scores_answers:
            for dataset in (train_dataset, eval_dataset):
                check_answers(dataset, self._scorer)
        self._refiller = refiller(self)
        self._rollout_log = RolloutLog(args.rollouts_dir) if args.rollouts_dir is not None else None
        self._tool_turns = ToolTurns(self)
        self._pass_ahead = False
        self._batch: dict[str, Any] = {}
        self._clock = StepClock()
        self._seconds_preparing = 0.0
        self.add_callback(self._clock)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    # --- one generation batch ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor | Any]:
        self._batch = {"inputs": inputs}
        if self._scores_answers:
            self._batch["answers"] = [gold_aliases(row, number) for number, row in enumerate(inputs)]
        self._pass_ahead = self._several_updates or self._corrects_vllm
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._pass_ahead = False
        if not self._several_updates:
            # The ratio to oneself is 1, whatever two passes round to.
            output.pop("old_per_token_logps", None)
        if self._scores_policy and "scores" not in self._batch:
            reader = self._batch.get("reader")
            if reader is not None and reader.answer_logps:
                self._use_kept(reader, output)
            else:
                with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                    self._score(self.model, *whole(output), output["completion_ids"].size(1), old_logps=False)
        return self._add_credit(inputs, output)

    def answer_reader(self, model: Any, n_rows: int) -> AnswerReader | None:
        """What is shown the keys of rollouts as they end, numbered as the prompts of the batch."""
        self._batch["reader"] = answer_reader(self, model, n_rows)
        return self._batch["reader"]

    def _use_kept(self, reader: AnswerReader, output: dict[str, Any]) -> None:
        boundaries = trl_boundaries(self, output, self._model_mask(output["completion_mask"]))
        self._batch["scores"] = kept_scores(self, reader, boundaries)
        self._clock.add(self._mode, "gain", reader.seconds)
        self._clock.add(self._mode, "generation", -reader.seconds)

    @property
    def _several_updates(self) -> bool:
        """Whether a batch feeds updates of a policy that did not write it. TRL then asks for old log-probabilities; it
        does so too where it corrects for vLLM."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % generate_every != 0

    @property
    def _corrects_vllm(self) -> bool:
        return self.use_vllm and self.vllm_importance_sampling_correction

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        with self._clock.measure(self._mode, "generation"):
            generated = self._generate_once(prompts)
            check_logprobs(self, generated[4])
            if self._refiller is not None and self.model.training:
                batches = self._refiller.run(self._batch["inputs"], list(generated), self._generate_once)
                # TRL holds this very list and goes on with the prompts of the replacements.
                prompts[:] = [row["prompt"] for row in self._batch["inputs"]]
                self._metrics["train"]["rollout/refill_batches"].append(batches)
        self._batch["tool_mask"] = generated[2]
        return generated

    def _generate_once(self, prompts: list[Any]) -> Any:
        self._tool_turns.begin()
        generated = super()._generate(prompts)
        prompt_ids, completion_ids, *_ = generated
        self._tool_turns.finish(prompt_ids, completion_ids)
        return generated

    def _generate_single_turn(  # type: ignore[no-untyped-def]
        self, prompt_ids, *args, **kwargs
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        written = self._tool_turns.write(prompt_ids)
        return super()._generate_single_turn(prompt_ids, *args, **kwargs) if written is None else (written, None)

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
        if self._scores_policy:
            found = self._score(model, input_ids, attention_mask, logits_to_keep, old_logps=True).old_logps
            assert found is not None, "a pass over the trajectories finds their log-probabilities"
            return found, None, None
        with self._clock.measure(self._mode, "old_logps"):
            forward = fused_forward(model, self.accelerator.autocast)
            return score_old_logps(self, forward, input_ids, attention_mask, logits_to_keep), None, None

    def _score(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, completion_length: int, *, old_logps: bool
    ) -> Scores:
        """Answer likelihoods of the batch from one pass over its trajectories, which old log-probabilities may need."""
        forward = fused_forward(model, self.accelerator.autocast)
        scores = score_answers(
            self, forward, self.model.config, input_ids, attention_mask, completion_length, old_logps=old_logps
        )
        if old_logps:
            self._clock.add(self._mode, "old_logps", scores.seconds_logps)
        self._clock.add(self._mode, "gain", scores.seconds_gain)
        self._batch["scores"] = scores
        return scores

    @property
    def rows_per_forward(self) -> int:
        """Rollouts per forward of an update, which scoring keeps to."""
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
        mode = self._mode
        group_size = self.num_generations if mode == "train" else self.num_generations_eval
        model_mask = self._model_mask(output["completion_mask"])
        ids = turn_ids(model_mask)
        if isinstance(self._signal, FrozenReference):
            with (
                self._clock.measure(mode, "gain"),
                disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            ):
                length = output["completion_ids"].size(1)
                self._batch["scores"] = score_answers(
                    self, self._signal.forward, self._signal.config, *whole(output), length
                )
        turns = local_turns(self, inputs, output, model_mask, ids, self._batch.get("scores"))
        outcome = outcome_of(self, self._batch["rewards_per_func"], output["completion_mask"])
        state = global_states(self, output, ids, group_size) if "state" in self.method.credit.reads else None
        credit = assign_credit(self.accelerator, turns, outcome, group_size, self.args, state)

        for name, value in credit_metrics(credit).items():
            self._metrics[mode][name].append(value)
        for name, value in rollout_metrics(self.accelerator, inputs, credit).items():
            self._metrics[mode][name].append(value)
        if self._rollout_log is not None and mode == "train":
            lines = self._rollout_log.write(self, inputs, output, model_mask, credit)
            output["rollout_row"] = torch.tensor(lines, device=model_mask.device)

        output |= loss_fields(self, credit.local(self.accelerator.process_index), model_mask)
        return output

    # --- one update ----------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        inputs = without_padding(inputs)
        ids, mask = whole(inputs)
        prompt_length = inputs["prompt_ids"].size(1)
        written = pad(inputs["turn_ids"] >= 0, (prompt_length, 0))
        # Nothing else of what the model says is in the loss, so the output head sees nothing else.
        reading = fused_reading(
            model, ids, ids.masked_fill(~written, IGNORED), self.accelerator.autocast, attention_mask=mask
        )
        assert reading.entropies is not None, "TRL adds its head with entropies"
        update = update_loss(self, inputs, reading.logps[:, prompt_length:], reading.entropies[:, prompt_length:])
        if self._rollout_log is not None and self._rollout_log.path is not None and "rollout_row" in inputs:
            write_updates(
                self._rollout_log.path,
                inputs["rollout_row"],
                self.state.global_step + 1,
                update.log_ratio,
                inputs["turn_ids"],
                update.clipped_turns,
            )
        self._log_means(self._mode, update.diagnostics)
        return update.loss

    def _log_means(self, mode: str, values: dict[str, Tensor]) -> None:
        """Log means over processes, fetched from the device together."""
        means = self.accelerator.gather(torch.stack(list(values.values())).detach()[None]).mean(dim=0)
        for name, value in zip(values, means.tolist(), strict=True):
            self._metrics[mode][name].append(value)

    # --- seconds -------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        start = time.perf_counter()
        buffered = self._buffered_inputs
        prepared = super()._prepare_inputs(generation_batch)
        if self.model.training and self._buffered_inputs is not buffered:
            micro_batches = self.args.steps_per_generation
            per_update = math.gcd(self.args.gradient_accumulation_steps, micro_batches)
            self._buffered_inputs = by_length(self._buffered_inputs, per_update)
            prepared = self._buffered_inputs[self._step % micro_batches]
        self._seconds_preparing = time.perf_counter() - start
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self._clock.add(self._mode, "update", time.perf_counter() - start - self._seconds_preparing)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the seconds each part took since the last one, summed over its calls."""
        mode = self._mode
        self._metrics[mode].update(self._clock.take(mode))
        super().log(logs, start_time)
