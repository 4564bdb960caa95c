"""Generate rollouts through TRL so that their turns, answers, rewards and failures are known when credit is given."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from a2tgpo.errors import JudgeError, ToolError
from a2tgpo.integrations.trl.accelerate_collective import AccelerateCollective
from a2tgpo.integrations.trl.answer_scoring import AnswerScoring
from a2tgpo.integrations.trl.checks import (
    aliases_of_rows,
    check_answers,
    check_batch_size,
    check_logprobs,
    check_model,
    check_prompts,
    check_rollouts,
    check_traps,
    check_whole_groups,
    refuse_nan,
    require_answers,
    reveals_answers,
)
from a2tgpo.integrations.trl.clock import StepClock
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.integrations.trl.dynamic_rows import open_dynamic_sampler, tool_dicts
from a2tgpo.integrations.trl.generation_batch import (
    Generated,
    GeneratedRollout,
    GenerationBatch,
    join_rollouts,
    records_of,
    split_rollouts,
)
from a2tgpo.integrations.trl.plain_head import give_head
from a2tgpo.integrations.trl.policy_model import loadable
from a2tgpo.integrations.trl.tool_failures import ToolFailures
from a2tgpo.integrations.trl.tool_loop import ToolLoopCache
from a2tgpo.integrations.trl.trl_contract import check_trl
from a2tgpo.pipeline.signal_health import SignalHealth
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.types import NOT_THE_POLICYS
from a2tgpo.signals import ProcessSignal

if TYPE_CHECKING:
    from a2tgpo.methods import Method


class RolloutTrainer(GRPOTrainer):
    """Be `GRPOTrainer` up to the rewards of a batch, and hand what it made to `_add_credit`.

    Adds dynamic sampling, KV-cache reuse in TRL's tool loop, answers read while rollouts are written, and tools whose
    failures are told from the policy's. Arguments and errors are those of `A2TGPOTrainer`.
    """

    args: A2TGPOConfig
    method: Method

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
        if not isinstance(args, A2TGPOConfig):
            raise TypeError(
                f"args is a {type(args).__name__}: write A2TGPOConfig(...) with the same arguments, without epsilon"
            )
        check_trl()
        assert args.beta is not None, "the configuration takes the method's"
        with loadable(model, args.beta):
            super().__init__(model, refuse_nan(reward_funcs), args, *positional, **kwargs)
        give_head(self)
        self.method = args.resolve_method()
        self.collective = AccelerateCollective(self.accelerator)
        check_model(self.model, is_multimodal=self._is_vlm)
        if isinstance(self.train_dataset, Dataset):
            check_batch_size(len(self.train_dataset), args)
        check_rollouts(self.rollout_func, self.method)
        rows_per_process = args.per_device_train_batch_size * args.steps_per_generation
        check_whole_groups(self.method, rows_per_process, self.num_generations)
        self._scoring = AnswerScoring.open(
            args, self.method, turn_signal, self.model, self._tokenizer, self.accelerator
        )
        check_traps(
            (self.train_dataset, self.eval_dataset),
            tools=self.tools,
            in_environments=self.environment_factories is not None,
            reward_funcs=reward_funcs if isinstance(reward_funcs, list) else [reward_funcs],
            scaffold=args.answer_scaffold if self._scoring.needs_answers else None,
            method=self.method,
        )
        if self._scoring.needs_answers:
            revealed = reveals_answers(self.rollout_func, self.environment_factories)
            for dataset in (self.train_dataset, self.eval_dataset):
                check_answers(dataset, self._scoring.scorer, revealed=revealed)
        self._dynamic_sampler = open_dynamic_sampler(
            self.method,
            self.train_dataset,
            group_size=self.num_generations,
            rows_per_batch=rows_per_process,
            in_environments=self.environment_factories is not None,
            generate=self._generate_rows,
            rewards=self._reward_rows,
            collective=self.collective,
            seed=args.seed,
        )
        self._tool_loop = ToolLoopCache(self, self.answer_reader, enabled=args.tool_loop_kv_cache)
        self._generation: GenerationBatch | None = None
        self.rows_to_generate: list[dict[str, Any]] | None = None
        self._tool_failures = ToolFailures()
        self._signal_health = SignalHealth()
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
        """Tell if a batch feeds updates of a policy that did not write it. TRL then asks for old log-probabilities."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % generate_every != 0

    @property
    def _needs_old_logps(self) -> bool:
        """Tell if TRL asks for old log-probabilities: for several updates, and to correct for vLLM."""
        return self._several_updates or (self.use_vllm and self.vllm_importance_sampling_correction)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor | Any]:
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        generation = GenerationBatch(inputs, [], group_size)
        if self._dynamic_sampler is not None and self.model.training:
            sampled = self._dynamic_sampler.sample(inputs, self.state.global_step)
            self._metrics["train"]["rollout/sampled_batches"].append(sampled.batches)
            generation.rows, generation.generated = sampled.rows, join_rollouts(sampled.generated)
            generation.failed = [one.failed for one in sampled.generated]
            generation.rewards = [one.rewards for one in sampled.generated]
            self._pending_extra_logs.clear()  # columns of rollouts that were dropped are among them
        generation.answers = aliases_of_rows(generation.rows)
        self._generation, self.rows_to_generate = generation, generation.rows
        try:
            output = super()._generate_and_score_completions(generation.rows)
            if not self._several_updates:
                # The ratio to oneself is 1, whatever two passes round to.
                output.pop("old_per_token_logps", None)
            return self._add_credit(generation, output)
        except (ToolError, JudgeError):
            # The weights are those of the last update: nothing of them is lost with the tool or the judge.
            if self.model.training and self.state.global_step > 0 and self.args.save_strategy != "no":
                self._save_checkpoint(self.model, trial=None)
            raise
        finally:
            self._generation = self.rows_to_generate = None

    @abstractmethod
    def _add_credit(self, generation: GenerationBatch, output: dict[str, Any]) -> dict[str, Any]:
        """Return TRL's batch with what the loss reads of its turns."""

    def _generate_rows(self, rows: list[dict[str, Any]]) -> list[GeneratedRollout]:
        """Generate a rollout for each row, before TRL has set up a batch of them."""
        self.rows_to_generate = rows
        self._sync_tool_dicts, self._async_tool_dicts = tool_dicts(self.tools, len(rows))
        return split_rollouts(*self._generate_once([row["prompt"] for row in rows]))

    def _reward_rows(self, rows: list[dict[str, Any]], generated: list[GeneratedRollout]) -> Tensor:
        """Reward rollouts that TRL has not got yet; NaN for those that their tool failed."""
        known = [row | one.extra_fields for row, one in zip(rows, generated, strict=True)]
        joined, prompts = join_rollouts(generated), [row["prompt"] for row in known]
        per_func = super()._calculate_rewards(known, prompts, joined.completions, joined.completion_ids)
        for one, rewards in zip(generated, self._own_rows(per_func, len(rows)), strict=True):
            one.rewards = rewards
        failed = torch.tensor([one.failed for one in generated])
        return self._weigh(self._own_rows(per_func, len(rows))).cpu().masked_fill(failed, math.nan)

    def _own_rows(self, joined: Tensor, n_rows: int) -> Tensor:
        """Return this process's rows of a batch joined over all."""
        return joined[self.collective.rank * n_rows :][:n_rows]

    def _weigh(self, rewards_per_func: Tensor) -> Tensor:
        """Sum rewards by TRL's weights; NaN where none of the functions applied."""
        rewards = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        return rewards.masked_fill(rewards_per_func.isnan().all(dim=1), math.nan)

    def _generate(self, prompts: list[Any]) -> Any:
        generation = self._generation
        if generation is None:
            return self._generate_once(prompts)[0]  # somebody asks outside a batch
        generation.prompts = list(prompts)
        if generation.generated is None:
            generation.generated, generation.failed = self._generate_once(prompts)
        self._tool_failures.count(not self.collective.any(not all(generation.failed)))
        generation.end_episodes(self.environments)
        if self._scoring.needs_answers:
            require_answers(generation.rows, generation.answers, generation.failed)
        return generation.generated

    def _generate_once(self, prompts: list[Any]) -> tuple[Generated, list[bool]]:
        """Generate for `prompts`, and read answers from the KV cache on the way where that spares a pass.

        Returns:
            What was generated, and the rollouts that a tool failed.
        """
        if self.tools:
            check_prompts(prompts)
            self._tool_failures.begin([*self._sync_tool_dicts, *self._async_tool_dicts])
        with self._clock.measure(self._mode, "generation"), self._tool_loop.batch():
            generated = Generated(*super()._generate(prompts))
            if (generation := self._generation) is not None and generation.reader is not None:
                ids = generated.prompt_ids, generated.completion_ids
                complete = self._tool_loop.finish(*ids, generation.answers)
                self._clock.move(self._mode, generation.reader.seconds, "gain")
                if not complete:
                    generation.reader = None
        check_logprobs(generated.logprobs, corrects_vllm=self.use_vllm and self.vllm_importance_sampling_correction)
        of_records = [record is not None and record.termination in NOT_THE_POLICYS for record in records_of(generated)]
        raised = self._tool_failures.of(generated.completions)
        return generated, [a or b for a, b in zip(of_records, raised, strict=True)]

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
        if not all(generation.answers):
            return None  # the environment may reveal one at the end
        generation.reader = self._scoring.reader(model, generation.answers)
        return generation.reader

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        generation = self._generation
        if generation is None:
            return super()._calculate_rewards(*args, **kwargs)
        known = [one for one in generation.rewards if one is not None]
        # Known of this very batch from dynamic sampling: a judge is not asked twice.
        asked = not known
        rewards = super()._calculate_rewards(*args, **kwargs) if asked else self.collective.gather(torch.stack(known))
        failed = self.collective.gather(torch.tensor(generation.failed, device=rewards.device).long()).bool()
        # A rollout that its tool failed is in no baseline, TRL's own neither.
        generation.rewards_per_func = rewards.masked_fill(failed[:, None], math.nan)
        return generation.rewards_per_func
