"""`rollout_func` for TRL: our agent loop, TRL's sampling settings, TRL's output columns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from a2tgpo.errors import ToolError
from a2tgpo.integrations.trl.accelerate_collective import sharded_by
from a2tgpo.integrations.trl.policy_model import generating
from a2tgpo.integrations.trl.vllm_engine import TRLTokenEngine, largest_of_processes
from a2tgpo.rollout.agent import Agent
from a2tgpo.rollout.branching import EntropyExpansion, TreeExpansion
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.expansion import Expansion
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine, transformers_engine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.strategies import EntropyBranch, Independent, Sampling, Tree, check_group_size
from a2tgpo.rollout.types import Rollout

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
    from trl import GRPOTrainer

_INDEPENDENT = Independent()


class TagRollout:
    """Pass an instance as `rollout_func=` of `A2TGPOTrainer` (or of `GRPOTrainer`: it needs nothing of ours).

    TRL hands over this process's prompts, each repeated `num_generations` times, and expects token ids back.
    `env_mask` marks the policy's tokens; `rollout` carries our record of each conversation to the reward functions,
    which receive it as a keyword argument, and to the rollout log. With `use_vllm` turns come from TRL's vLLM engine or
    server, otherwise from the model itself, `rows_at_a_time` rollouts together.

    `sampling` says which rollouts of a prompt share their beginning: `Tree` or `EntropyBranch`.
    `DynamicSampling` samples independent ones here, as the trainer replaces them, and so does evaluation,
    which asks what the policy would do.

    Raises:
        ValueError: when called by a trainer whose `num_generations` is not what `sampling` makes of a prompt, or whose
            model is in shards that every process would have to ask for equally often.
    """

    def __init__(self, agent: Agent, rows_at_a_time: int = 256, sampling: Sampling = _INDEPENDENT) -> None:
        self.agent = agent
        self.rows_at_a_time = rows_at_a_time
        self.sampling = sampling
        self._generator: KVCacheEngine | HFGenerateEngine | None = None
        self._made_for: tuple[object, object] = (None, None)

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        expansion = self._expansion(trainer)
        with self._engine(trainer, len(prompts)) as engine:
            rows = getattr(trainer, "rows_to_generate", None)
            run = partial(self.agent.run, prompts, engine, expansion, rows, _template(trainer))
            return rollout_columns(_in_all(run))

    def _expansion(self, trainer: GRPOTrainer) -> Expansion | None:
        if not isinstance(self.sampling, Tree | EntropyBranch) or not trainer.model.training:
            return None
        check_group_size(self.sampling, trainer.num_generations)
        if isinstance(self.sampling, Tree):
            return TreeExpansion(self.sampling)
        return EntropyExpansion(self.sampling, trainer.num_generations)

    @contextmanager
    def _engine(self, trainer: GRPOTrainer, n_rows: int) -> Iterator[GenerationEngine]:
        if trainer.use_vllm:
            # TRL has synchronised the weights before it calls us.
            yield LockstepEngine(TRLTokenEngine(trainer.vllm_generation), self._stops, largest_of_processes)
            return
        _refuse_shards(trainer)
        with generating(trainer) as model:
            generator = self._generator_of(model, trainer.generation_config)
            if isinstance(generator, KVCacheEngine) and hasattr(trainer, "answer_reader"):
                yield partial(generator, reader=trainer.answer_reader(model, n_rows))
            else:
                yield generator

    @property
    def _stops(self) -> tuple[str, ...]:
        return self.agent.protocol.stop_strings

    def _generator_of(
        self, model: PreTrainedModel, generation_config: GenerationConfig
    ) -> KVCacheEngine | HFGenerateEngine:
        """The last call's where the model is the same: it has the memory for the keys already."""
        if self._generator is None or self._made_for != (model, generation_config):
            self._made_for = model, copy.deepcopy(generation_config)
            self._generator = transformers_engine(
                model, self.agent.tokenizer, generation_config, self._stops, self.rows_at_a_time
            )
        return self._generator


def _in_all(run: Callable[[], list[Rollout]]) -> list[Rollout]:
    """Run, and raise a `ToolError` of one process in all of them, so that none waits for it or saves alone."""
    rollouts, error = [], None
    try:
        rollouts = run()
    except ToolError as failure:
        error = failure
    if any(gather_object([error is not None])):
        raise error or ToolError("the environment failed in another process, whose log says why")
    return rollouts


def _template(trainer: GRPOTrainer) -> dict[str, Any]:
    """Return what TRL gives the chat template of its own prompts."""
    chat_template = getattr(trainer, "chat_template", None)
    named = {} if chat_template is None else {"chat_template": chat_template}
    return named | getattr(trainer, "chat_template_kwargs", {})


def _refuse_shards(trainer: GRPOTrainer) -> None:
    kind = sharded_by(trainer.accelerator)
    gathered = kind == "FSDP2" or (kind == "DeepSpeed ZeRO-3" and trainer.args.ds3_gather_for_generation)
    if kind is not None and not gathered:
        raise ValueError(
            f"rollout_func=TagRollout: {kind} keeps the model in shards, which want equally many forwards of every "
            "process, and rollouts differ in length; set use_vllm=True, or shard with FSDP2 (ZeRO-3 works with "
            "ds3_gather_for_generation=True)"
        )


def rollout_columns(rollouts: list[Rollout]) -> dict[str, Any]:
    """TRL's columns for `rollouts`. `logprobs`, with which TRL corrects for what another engine drew otherwise than the
    policy, is None where the policy itself generated."""
    logps = [rollout.logps for rollout in rollouts]
    reported = any(logps)
    assert not reported or all(len(r.logps) == len(r.completion_ids) for r in rollouts), "a turn without logps"
    return {
        "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
        "completion_ids": [rollout.completion_ids for rollout in rollouts],
        "env_mask": [rollout.model_mask for rollout in rollouts],
        "logprobs": logps if reported else None,
        "rollout": rollouts,
    }
