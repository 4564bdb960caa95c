"""Read what a method's turns are judged by: the gold answer's likelihood, or a process signal in its place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import SignalError
from a2tgpo.integrations.trl.accelerate_collective import sharded_by
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.pipeline import RolloutBatch
from a2tgpo.pipeline.likelihood import score_answers, score_answers_from
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.signals import FrozenReference, ProcessSignal, Transcript, process_reward_model
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, Scores, fused_forward
from a2tgpo.signals.answer_likelihood.forward import causal_model
from a2tgpo.signals.answer_likelihood.model_support import (
    layers_of,
    needs_additive_mask,
    needs_check,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from a2tgpo.methods import Method


@dataclass(frozen=True)
class AnswerScoring:
    """Score the turns of a trainer's batches.

    Attributes:
        scorer: places the gold answer behind a prefix and knows which tokens count.
        autocast: the context of the trainer's forwards.
        process_signal: numbers turns in place of the gold answer's likelihood.
        reference: scores answers in the policy's place.
        reads_gains: whether the method reads a signal of turns at all.
        shares_turns: whether rollouts of a prompt may begin with tokens of each other.
        by_environment: whether the environment's own rewards are the turns' signal.
    """

    scorer: AnswerScorer
    autocast: Callable[[], AbstractContextManager[Any]]
    process_signal: ProcessSignal | None
    reference: FrozenReference | None
    reads_gains: bool
    shares_turns: bool
    by_environment: bool = False

    @classmethod
    def open(
        cls,
        args: A2TGPOConfig,
        method: Method,
        given: ProcessSignal | None,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
    ) -> AnswerScoring:
        """Open what `args` and the user's signal ask for.

        Args:
            given: the user's process signal.
            policy: with TRL's fused output head, before its first update and before it is wrapped for training.

        Raises:
            ValueError: a signal that the method does not read, or two of them; a frozen reference of a sharded policy.
        """
        if given is not None and not method.signal:
            raise ValueError(f"turn_signal={given!r}: method {args.method!r} reads no process signal; leave it out")
        if given is not None and args.process_signal != "policy":
            raise ValueError(f"turn_signal={given!r} and process_signal={args.process_signal!r}: give one of them")
        reference = _freeze(policy, accelerator) if args.process_signal == "reference" else None
        if args.process_signal == "reward_model":
            assert args.process_reward_model is not None, "the configuration checks that they come together"
            given = process_reward_model(
                args.process_reward_model, device=accelerator.device, step_separator=args.step_separator
            )
        if inspect.isfunction(given):
            given = _of_a_batch(given)
        scorer = AnswerScorer(
            AnswerScaffold(args.answer_scaffold),
            tokenizer,
            likelihood=method.likelihood,
            alias=args.answer_alias,
            method=args.gain_method,
            cut_last_result=args.cut_last_result,
            count_padding=True,
        )
        by_environment = args.process_signal == "environment"
        return cls(scorer, accelerator.autocast, given, reference, method.signal, method.shares_turns, by_environment)

    @property
    def needs_answers(self) -> bool:
        """Tell if gold answers are scored, by the policy or by the reference."""
        return self.reads_gains and self.process_signal is None and not self.by_environment

    @property
    def by_policy(self) -> bool:
        """Tell if the policy itself scores them."""
        return self.needs_answers and self.reference is None

    def reader(self, model: PreTrainedModel, answers: Sequence[Sequence[str]]) -> AnswerReader | None:
        """Return what reads `answers` from the KV cache that `model` writes its rollouts with.

        None where a pass over the trajectories is needed: something else scores the turns, a row's own text begins
        after its prompt, the model keeps states, which have run past the boundaries, or an option asks for what the
        cache does not show.
        """
        if not self.by_policy or self.shares_turns or self.scorer.method == "rows" or self.scorer.cut_last_result:
            return None
        if any(layer.recurrent for layer in layers_of(model.config)):
            return None
        forward = fused_forward(model, self.autocast)
        return AnswerReader(
            forward,
            self.scorer.suffixes(answers),
            self.scorer.suffixes(answers, [True] * len(answers)) if self.scorer.scaffold.opens else None,
            self.scorer.opens_thought,
            additive_mask=needs_additive_mask(model.config),
            layers=layers_of(model.config),
        )

    def from_own_keys(self, policy: PreTrainedModel) -> bool:
        """Tell whether answers can be read from the keys that a forward of the policy's update leaves: the policy
        scores them, rollouts are rows of their own, and the tests have seen the model scored so and it keeps every
        token's keys."""
        own_rows = self.by_policy and not self.shares_turns
        return own_rows and self.scorer.method != "rows" and not needs_check(policy.config, causal_model(policy))

    def score_from(self, cache: Cache, batch: RolloutBatch, policy: PreTrainedModel) -> Tensor:
        """Return the answers' likelihood at every boundary, from the keys of `batch` in `cache`."""
        return score_answers_from(cache, batch, self.scorer, fused_forward(policy, self.autocast), policy.config)

    def score(
        self, batch: RolloutBatch, policy: PreTrainedModel, *, rows_per_forward: int, old_logps: bool = False
    ) -> Scores:
        """Score the answers of `batch` by a pass over its trajectories; see `score_answers`."""
        if self.reference is not None:
            forward, config = self.reference.forward, self.reference.config
        else:
            forward, config = fused_forward(policy, self.autocast), policy.config
        return score_answers(
            batch, self.scorer, forward, config, rows_per_forward=rows_per_forward, old_logps=old_logps
        )


def _of_a_batch(function: ProcessSignal) -> ProcessSignal:
    """Say what a user's function is called with, where it raises as one of a single rollout would."""

    name = getattr(function, "__name__", "function")

    @functools.wraps(function)
    def asked(rollouts: Sequence[Transcript]) -> Any:
        try:
            return function(rollouts)
        except (AttributeError, TypeError) as error:
            raise SignalError(
                f"turn_signal={name} raised {type(error).__name__}: {error}. It is called with the "
                f"rollouts of a batch; for a function of one rollout pass TurnFunction({name})"
            ) from error

    return asked


def _freeze(policy: PreTrainedModel, accelerator: Accelerator) -> FrozenReference:
    if (kind := sharded_by(accelerator)) is not None:
        raise ValueError(
            f"process_signal='reference' copies the whole policy, which {kind} keeps in shards; score information "
            "gain with the policy itself (process_signal='policy'), or train without sharding"
        )
    return FrozenReference.of(policy, device=accelerator.device, autocast=accelerator.autocast)
