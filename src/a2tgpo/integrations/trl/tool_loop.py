"""KV-cache reuse inside TRL's own tool loop, behind `tool_loop_kv_cache`.

TRL asks for a turn of every rollout that goes on, runs their tools, and asks again with the tools' answers appended;
`transformers.generate` would read the whole context anew each time. Here the calls of one batch are one conversation
of the engine that reuses its KV cache. TRL does not say which rollout asks: they are known by the tokens they begin
with. Where that fails, or the loop is another than this one, the batch goes back to TRL with one warning.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from a2tgpo.integrations.trl.accelerate_collective import sharded_by
from a2tgpo.integrations.trl.policy_model import generating
from a2tgpo.messages import warn_once
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.conversation import Conversation
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation
from a2tgpo.rollout.hf_generate_engine import why_no_cache_reuse
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine

if TYPE_CHECKING:
    from trl import GRPOTrainer

logger = logging.getLogger(__name__)

_ALL_ROWS = 2**31
"""TRL generates a turn of all its rollouts together, however many they are."""


class ToolLoopCache:
    """Write turns in place of `GRPOTrainer._generate_single_turn`, wherever that would call `generate` for a tool loop.

    The model must lie whole in each process and its cache must be reusable. Turns are drawn from the distribution that
    `generate` draws from in evaluation mode, each token read once. A turn after a tool's answer gets no more tokens
    than the rollout has left; TRL cuts what `generate` writes beyond. Answers are read from the cache as rollouts end
    (see `AnswerReader`).

    Args:
        trainer: whose loop it is; only what TRL sets on it is read.
        answer_reader: makes what reads the answers of a batch of so many rollouts, or None.
        enabled: false leaves every turn to TRL.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        answer_reader: Callable[[PreTrainedModel, int], AnswerReader | None],
        *,
        enabled: bool,
    ) -> None:
        self._trainer = trainer
        self._answer_reader = answer_reader
        self._enabled = enabled
        self._engine: KVCacheEngine | None = None
        self._decided_for: tuple[object, object] = (None, None)
        self._batch: _ToolLoopBatch | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Forget the batch before, and free this one's cache at the end, also when it fails."""
        self._batch = _ToolLoopBatch()
        try:
            yield
        finally:
            self._batch = None

    def write(self, contexts: Sequence[list[int]]) -> list[list[int]] | None:
        """Return the next turn after each of `contexts`; None where TRL has to generate it.

        The first call of a batch starts a rollout from each; each later one goes on with some of them, in order.
        """
        batch = self._batch
        if batch is None or batch.handed_back or not self._enabled:
            return None
        if not _asked_by_tool_loop(self._trainer):
            return None
        if kind := sharded_by(self._trainer.accelerator):
            _say_why(f"{kind} keeps the model in shards")
            return None
        with generating(self._trainer) as model:
            engine = self._engine_of(model)
            if engine is None:
                return None
            if batch.conversation is None:
                batch.prompt_lengths = [len(ids) for ids in contexts]
                batch.contexts = [[]] * len(contexts)
                going = list(range(len(contexts)))
                batch.reader = self._answer_reader(model, len(contexts))
                starts = [self._continuation(batch, *both) for both in enumerate(contexts)]
                batch.conversation = engine.open(starts, reader=batch.reader)
                turns = batch.conversation.begin()
            else:
                going = batch.rollouts_of(contexts)
                if len(going) < len(contexts):
                    batch.hand_back()
                    _say_why("it went on with a context that it was not given")
                    return None
                answers = {n: self._continuation(batch, n, ids) for n, ids in zip(going, contexts, strict=True)}
                turns = batch.conversation.go_on(answers)
        batch.going = going
        for number, ids in zip(going, contexts, strict=True):
            batch.contexts[number] = ids + turns[number].ids
        return [turns[number].ids for number in going]

    def finish(
        self,
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
        answers: Sequence[Sequence[str]],
    ) -> bool:
        """Give the reader of answers the order in which TRL returns the rollouts of the batch.

        Args:
            answers: of each rollout's row.

        Returns:
            Whether the reader has found the answers of every rollout of this process.
        """
        batch = self._batch
        assert batch is not None, "a batch was begun"
        if batch.reader is None:
            return True
        if batch.conversation is not None:
            with generating(self._trainer):
                batch.conversation.go_on({})  # shows the reader the rollouts that were still open
        rollouts = [prompt + completion for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        numbers = [batch.number_of(row, rollout, answers) for row, rollout in enumerate(rollouts)]
        found = batch.reader.answer_logps
        complete = not batch.handed_back and None not in numbers
        batch.reader.answer_logps = (
            {row: found[n] for row, n in enumerate(numbers) if n is not None} if complete else {}
        )
        return complete

    def _engine_of(self, model: PreTrainedModel) -> KVCacheEngine | None:
        config = self._trainer.generation_config
        if self._decided_for != (model, config):
            # A copy: a callback may change the trainer's.
            self._decided_for = model, copy.deepcopy(config)
            sampler = Sampler(model, self._with_all_ends(config))
            obstacle = _why_generate(model, sampler.config) or why_no_cache_reuse(model, sampler)
            if obstacle is not None:
                _say_why(obstacle)
                self._engine = None
            else:
                tokenizer = self._trainer._tokenizer
                self._engine = KVCacheEngine(model, tokenizer, sampler, (), _ALL_ROWS, waiting_share=1.0)
        return self._engine

    def _with_all_ends(self, config: GenerationConfig) -> GenerationConfig:
        """Return `config` with the tokens at which TRL cuts what was generated."""
        config = copy.deepcopy(config)
        own = config.eos_token_id
        named = own if isinstance(own, list) else [] if own is None else [own]
        config.eos_token_id = list(dict.fromkeys([*named, *self._trainer.eos_token_ids]))
        return config

    def _continuation(self, batch: _ToolLoopBatch, number: int, context: list[int]) -> Continuation:
        budget = self._trainer.generation_config.max_new_tokens
        if written := batch.contexts[number]:
            left = self._trainer.max_completion_length - (len(context) - batch.prompt_lengths[number])
            budget = max(1, min(budget, left))
        return Continuation(context[len(written) :], budget)


class _ToolLoopBatch:
    """Hold the rollouts of one batch, numbered as TRL first asked for them."""

    def __init__(self) -> None:
        self.conversation: Conversation | None = None
        self.reader: AnswerReader | None = None
        self.contexts: list[list[int]] = []
        self.prompt_lengths: list[int] = []
        self.going: list[int] = []
        self.handed_back = False

    def hand_back(self) -> None:
        """Leave the rest of the batch to TRL."""
        self.conversation, self.handed_back = None, True

    def rollouts_of(self, contexts: Sequence[list[int]]) -> list[int]:
        """Return which of the rollouts that wrote last goes on in each context; TRL keeps their order.

        As far as they can be told: fewer than `contexts` where one goes on from nothing written here.
        """
        candidates = iter(self.going)
        found = [next((n for n in candidates if _begins(ids, self.contexts[n])), None) for ids in contexts]
        return [number for number in found if number is not None]

    def number_of(self, row: int, rollout: list[int], answers: Sequence[Sequence[str]]) -> int | None:
        """Return the number under which TRL's rollout `row` was written: another's where two were equal until one
        ended; None where these two have different answers."""
        others = (n for n in range(len(self.contexts)) if answers[n] == answers[row])
        return next((n for n in (row, *others) if _begins(self.contexts[n], rollout)), None)


def _why_generate(model: PreTrainedModel, config: GenerationConfig) -> str | None:
    """Say what `generate` would heed and the engine would not, or None where there is nothing."""
    if getattr(type(model), "generate", None) is not GenerationMixin.generate or "generate" in vars(model):
        return "the model's generate is not the one of transformers"
    heeded = [name for name in ("stop_strings", "max_time", "cache_implementation") if getattr(config, name, None)]
    if config.max_new_tokens is None:
        heeded.append("max_new_tokens=None")
    return f"generation_kwargs has {heeded[0]}" if heeded else None


def _begins(context: list[int], start: list[int]) -> bool:
    return context[: len(start)] == start


def _asked_by_tool_loop(trainer: GRPOTrainer) -> bool:
    """Return whether TRL would call `generate` from the prompts on, with tools."""
    elsewhere = trainer.rollout_func is not None or trainer.use_vllm or trainer.use_transformers_continuous_batching
    return bool(trainer.tools) and not elsewhere


def _say_why(obstacle: str) -> None:
    warn_once(logger, f"TRL's tool loop re-reads its whole context at every turn, because {obstacle}.")
