"""`A2TGPOTrainer`: TRL's `GRPOTrainer` with per-turn credit, by A²TGPO or any other row of the methods table.

TRL generates, rewards, batches, updates, checkpoints and logs. This class translates: TRL's tensors into a
`RolloutBatch`, the pipeline's `LossInputs` into columns of TRL's batch. The mathematics is in `a2tgpo.core`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.integrations.trl.answer_scoring import AnswerScoring
from a2tgpo.integrations.trl.checks import (
    aliases_of_rows,
    check_answers,
    check_logprobs,
    check_model,
    check_rollouts,
    refuse_nan,
)
from a2tgpo.integrations.trl.clock import StepClock
from a2tgpo.integrations.trl.collective import AccelerateCollective
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.integrations.trl.dynamic_rows import open_dynamic_sampler, tool_dicts, without_failed
from a2tgpo.integrations.trl.generation_batch import (
    Generated,
    GeneratedRollout,
    GenerationBatch,
    join_rollouts,
    split_rollouts,
)
from a2tgpo.integrations.trl.objective import OTHER_OBJECTIVES, normalizes_otherwise, update_loss
from a2tgpo.integrations.trl.policy_model import loadable
from a2tgpo.integrations.trl.tool_loop import ToolLoopCache
from a2tgpo.pipeline import BatchCredit, LossInputs, RolloutBatch, add_overlong_penalty, assign_credit, collect_signals
from a2tgpo.pipeline.likelihood import score_policy
from a2tgpo.pipeline.loss import tokens_per_process
from a2tgpo.pipeline.metrics import credit_metrics, rollout_metrics
from a2tgpo.pipeline.microbatches import count_tokens_by_update, sort_by_length, trim_padding
from a2tgpo.pipeline.rollout_log import RolloutLog
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.signals import ProcessSignal
from a2tgpo.signals.answer_likelihood import Scores, fused_forward

if TYPE_CHECKING:
    from a2tgpo.methods import Method

__all__ = ["A2TGPOTrainer"]

_PADDED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_LOGGED_ROW = "rollout_row"
"""Column of TRL's batch: the line of each rollout in the log."""


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
    method: Method
    _buffered_inputs: Any

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: A2TGPOConfig | None = None,
        *positional: Any,
        turn_signal: ProcessSignal | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else A2TGPOConfig("a2tgpo-output")
        assert args.beta is not None, "the configuration takes the method's"
        with loadable(model, args.beta):
            super().__init__(model, refuse_nan(reward_funcs), args, *positional, **kwargs)
        self.method = args.resolve_method()
        check_model(self.model, is_multimodal=self._is_vlm)
        check_rollouts(self.rollout_func, self.method)
        self.collective = AccelerateCollective(self.accelerator)
        self._scoring = AnswerScoring.open(
            args, self.method, turn_signal, self.model, self._tokenizer, self.accelerator
        )
        if self._scoring.needs_answers:
            for dataset in (self.train_dataset, self.eval_dataset):
                check_answers(dataset, self._scoring.scorer)
        self._dynamic_sampler = open_dynamic_sampler(
            self.method,
            self.train_dataset,
            group_size=self.num_generations,
            rows_per_batch=args.per_device_train_batch_size * args.steps_per_generation,
            in_environments=self.environment_factories is not None,
            generate=self._generate_rows,
            rewards=self._reward_rows,
            collective=self.collective,
            seed=args.seed,
        )
        self._rollout_log = RolloutLog(args.rollouts_dir, self.collective) if args.rollouts_dir else None
        self._tool_loop = ToolLoopCache(self, self.answer_reader, self.collective, enabled=args.tool_loop_kv_cache)
        self._generation: GenerationBatch | None = None
        self.rows_to_generate: list[dict[str, Any]] | None = None
        self._clock = StepClock()
        self.add_callback(self._clock)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _rows_per_forward(self) -> int:
        """Rollouts per forward of an update, which scoring keeps to."""
        train = self.model.training
        return self.args.per_device_train_batch_size if train else self.args.per_device_eval_batch_size

    @property
    def _several_updates(self) -> bool:
        """Whether a batch feeds updates of a policy that did not write it. TRL then asks for old log-probabilities."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % generate_every != 0

    @property
    def _needs_old_logps(self) -> bool:
        """Whether TRL asks for old log-probabilities: for several updates, and to correct for vLLM."""
        return self._several_updates or (self.use_vllm and self.vllm_importance_sampling_correction)

    # --- one generation batch ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor | Any]:
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        generated, rows = None, inputs
        if self._dynamic_sampler is not None and self.model.training:
            sampled = self._dynamic_sampler.sample(inputs)
            self._metrics["train"]["rollout/sampled_batches"].append(sampled.batches)
            generated, rows = join_rollouts(sampled.generated), sampled.rows
        answers = aliases_of_rows(rows, required=self._scoring.needs_answers)
        self._generation = GenerationBatch(rows, answers, group_size, generated=generated)
        self.rows_to_generate = rows
        try:
            output = super()._generate_and_score_completions(rows)
            if not self._several_updates:
                # The ratio to oneself is 1, whatever two passes round to.
                output.pop("old_per_token_logps", None)
            return self._add_credit(self._generation, output)
        finally:
            self._generation = None

    def _generate_rows(self, rows: list[dict[str, Any]]) -> list[GeneratedRollout]:
        """Generate a rollout for each row, before TRL has set up a batch of them."""
        self.rows_to_generate = rows
        self._sync_tool_dicts, self._async_tool_dicts = tool_dicts(self.tools, len(rows))
        return split_rollouts(self._generate_once([row["prompt"] for row in rows]))

    def _reward_rows(self, rows: list[dict[str, Any]], generated: list[GeneratedRollout]) -> Tensor:
        """Reward rollouts that TRL has not got yet; NaN for those that their tool failed."""
        known = [row | one.extra_fields for row, one in zip(rows, generated, strict=True)]
        joined, prompts = join_rollouts(generated), [row["prompt"] for row in known]
        per_func = super()._calculate_rewards(known, prompts, joined.completions, joined.completion_ids)
        return without_failed(self._local_rewards(per_func, len(rows)), known)

    def _local_rewards(self, rewards_per_func: Tensor, n_rows: int) -> Tensor:
        """Sum the rewards of this process's rollouts by TRL's weights; NaN where no function applied."""
        rewards = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        rewards = rewards.masked_fill(rewards_per_func.isnan().all(dim=1), math.nan)
        return rewards[self.collective.rank * n_rows :][:n_rows]

    def _generate(self, prompts: list[Any]) -> Any:
        generation = self._generation
        assert generation is not None, "TRL generates for a batch"
        generation.prompts = list(prompts)
        if generation.generated is None:
            generation.generated = self._generate_once(prompts)
        return generation.generated

    def _generate_once(self, prompts: list[Any]) -> Generated:
        """Generate for `prompts`, and read answers from the KV cache on the way where that spares a pass."""
        with self._clock.measure(self._mode, "generation"), self._tool_loop.batch():
            generated = Generated(*super()._generate(prompts))
            generation = self._generation
            if generation is not None and generation.reader is not None:
                ids = generated.prompt_ids, generated.completion_ids
                complete = self._tool_loop.finish(*ids, generation.answers)
                self._clock.move(self._mode, generation.reader.seconds, "gain")
                if not complete:
                    generation.reader = None
        check_logprobs(generated.logprobs, corrects_vllm=self.use_vllm and self.vllm_importance_sampling_correction)
        return generated

    def _generate_single_turn(  # type: ignore[no-untyped-def]
        self, prompt_ids, *args, **kwargs
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        written = self._tool_loop.write(prompt_ids)
        return super()._generate_single_turn(prompt_ids, *args, **kwargs) if written is None else (written, None)

    def answer_reader(self, model: Any, n_rows: int) -> AnswerReader | None:
        """Return what reads answers from the KV cache of the `n_rows` rollouts that `model` is about to write.

        None where the batch is scored by a pass over its trajectories, which old log-probabilities need anyway, and
        outside a batch.
        """
        generation = self._generation
        if generation is None or len(generation.answers) != n_rows or self._needs_old_logps:
            return None
        generation.reader = self._scoring.reader(model, generation.answers)
        return generation.reader

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        if self._generation is not None:
            self._generation.rewards_per_func = rewards_per_func
        return rewards_per_func

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
        with self._clock.measure(self._mode, "old_logps"):
            forward = fused_forward(model, self.accelerator.autocast)
            return score_policy(batch, forward, rows_per_forward=self._rows_per_forward), None, None

    def _as_rollouts(self, generation: GenerationBatch, *tensors: Tensor) -> RolloutBatch:
        eos = self._tokenizer.eos_token_id
        end_ids = () if eos is None else (eos,)
        return generation.as_rollouts(*tensors, end_ids=end_ids, cut_last_result=self._scoring.scorer.cut_last_result)

    def _score(self, batch: RolloutBatch, *, old_logps: bool = False) -> Scores:
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            scores = self._scoring.score(
                batch, self.model, rows_per_forward=self._rows_per_forward, old_logps=old_logps
            )
        if old_logps:
            self._clock.move(self._mode, scores.seconds_logps, "old_logps")
        self._clock.move(self._mode, scores.seconds_gain, "gain")
        return scores

    def _add_credit(self, generation: GenerationBatch, output: dict[str, Any]) -> dict[str, Any]:
        batch = self._as_rollouts(generation, *(output[name] for name in _PADDED))
        if self._scoring.needs_answers and generation.scores is None:
            generation.scores = generation.read_scores(self._scoring.scorer) or self._score(batch)
        signals = collect_signals(
            batch,
            self.method,
            self._tokenizer,
            likelihood=generation.scores.likelihood if generation.scores is not None else None,
            process_signal=self._scoring.process_signal,
            entropies=self._entropies(batch) if "entropy" in self.method.credit.reads else None,
        )
        assert generation.rewards_per_func is not None, "TRL rewards a batch before it returns it"
        rewards = self._local_rewards(generation.rewards_per_func, len(generation.rows))
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
            return super()._compute_loss(model, inputs)  # TRL takes an advantage per token
        columns = trim_padding(inputs, self.pad_to_multiple_of)
        loss, turns, found, logged = update_loss(self, model, columns, self.method, self._window)
        self._log_means(logged)
        if self._rollout_log is not None and _LOGGED_ROW in inputs:
            self._rollout_log.write_updates(
                inputs[_LOGGED_ROW], self.state.global_step + 1, found.log_ratio, turns.turn_ids, found.clipped_turns
            )
        return loss

    def _log_means(self, values: dict[str, Tensor]) -> None:
        """Log means over processes, fetched from the device together."""
        means = self.accelerator.gather(torch.stack(list(values.values())).detach()[None]).mean(dim=0)
        for name, value in zip(values, means.tolist(), strict=True):
            self._metrics[self._mode][name].append(value)

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
            return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the seconds of each part since the last time, summed over its calls."""
        mode = self._mode
        self._metrics[mode].update(self._clock.take(mode))
        super().log(logs, start_time)
