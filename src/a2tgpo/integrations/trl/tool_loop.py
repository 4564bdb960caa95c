"""The turns that TRL's tool loop asks for, written from the keys of the turns before.

TRL asks for a turn of every rollout that goes on, runs their tools, and asks again with the tools' answers appended;
`transformers.generate` would read the whole context anew each time. Here the calls of one batch are one conversation
of the backend that keeps its keys.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import GenerationConfig, PreTrainedModel

from a2tgpo.integrations.trl.generation import generating
from a2tgpo.integrations.trl.sharding import sharded_by
from a2tgpo.messages import warn_once
from a2tgpo.pipeline.collective import any_process
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.conversation import Conversation
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation
from a2tgpo.rollout.hf_generate_engine import why_no_cache_reuse
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer

logger = logging.getLogger(__name__)

_ALL_ROWS = 2**31
"""TRL generates a turn of all its rollouts together, however many they are."""


class ToolTurns:
    """In place of `GRPOTrainer._generate_single_turn`, wherever that would call `generate` for a tool loop, with a
    model that each process holds whole and whose KV cache can be reused (`why_no_cache_reuse`): turns drawn from the
    distribution of `generate` in evaluation mode, each token read once.

    A turn after a tool's answer gets no more tokens than the rollout has left; TRL cuts what `generate` writes beyond.
    Answers are read from the keys as rollouts end (see `AnswerReader`).
    """

    def __init__(self, trainer: A2TGPOTrainer) -> None:
        self._trainer = trainer
        self._backend: KVCacheEngine | None = None
        self._decided_for: tuple[object, object] = (None, None)
        self._conversation: Conversation | None = None
        self._reader: AnswerReader | None = None
        self._contexts: list[list[int]] = []
        self._prompt_lengths: list[int] = []
        self._going: list[int] = []

    def begin(self) -> None:
        """Forget the batch before."""
        self._conversation, self._reader = None, None

    def write(self, contexts: Sequence[list[int]]) -> list[list[int]] | None:
        """The next turn after each of `contexts`; None where TRL has to generate it.

        The first call of a batch starts a rollout from each; each later one goes on with some of them, in order.
        """
        if not _asked_by_tool_loop(self._trainer):
            return None
        if kind := sharded_by(self._trainer.accelerator):
            _say_why(f"{kind} keeps the model in shards")
            return None
        with generating(self._trainer) as model:
            backend = self._backend_of(model)
            if backend is None:
                return None
            if self._conversation is None:
                self._going = list(range(len(contexts)))
                self._contexts, self._prompt_lengths = [[]] * len(contexts), [len(ids) for ids in contexts]
                self._reader = self._trainer.answer_reader(model, len(contexts))
                starts = [self._continuation(*both) for both in enumerate(contexts)]
                self._conversation = backend.open(starts, reader=self._reader)
                turns = self._conversation.begin()
            else:
                self._going = self._rollouts_of(contexts)
                answers = {
                    number: self._continuation(number, ids) for number, ids in zip(self._going, contexts, strict=True)
                }
                turns = self._conversation.go_on(answers)
        for number, ids in zip(self._going, contexts, strict=True):
            self._contexts[number] = ids + turns[number].ids
        return [turns[number].ids for number in self._going]

    def finish(self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> None:
        """End the batch, of which TRL made these rollouts, and give the reader their order."""
        conversation, self._conversation = self._conversation, None
        if conversation is None:
            return
        with generating(self._trainer):
            conversation.go_on({})
        if self._reader is None:
            return
        rollouts = [prompt + completion for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        numbers = [self._number_of(*both) for both in enumerate(rollouts)]
        found = self._reader.answer_logps
        self._reader.answer_logps = {row: found[n] for row, n in enumerate(numbers) if n is not None}
        # The pass that scores instead is one of all processes.
        if any_process(self._trainer.accelerator, None in numbers):
            self._trainer._batch["reader"] = None

    def _backend_of(self, model: PreTrainedModel) -> KVCacheEngine | None:
        config = self._trainer.generation_config
        if self._decided_for != (model, config):
            # A copy: a callback may change the trainer's.
            self._decided_for = model, copy.deepcopy(config)
            sampler = Sampler(model, self._with_all_ends(config))
            obstacle = _unheard(sampler.config) or why_no_cache_reuse(model, sampler)
            if obstacle is not None:
                _say_why(obstacle)
                self._backend = None
            else:
                tokenizer = self._trainer._tokenizer
                self._backend = KVCacheEngine(model, tokenizer, sampler, (), _ALL_ROWS, waiting_share=1.0)
        return self._backend

    def _with_all_ends(self, config: GenerationConfig) -> GenerationConfig:
        """`config` with the tokens at which TRL cuts what was generated."""
        config = copy.deepcopy(config)
        own = config.eos_token_id
        named = own if isinstance(own, list) else [] if own is None else [own]
        config.eos_token_id = list(dict.fromkeys([*named, *self._trainer.eos_token_ids]))
        return config

    def _continuation(self, number: int, context: list[int]) -> Continuation:
        budget = self._trainer.generation_config.max_new_tokens
        if written := self._contexts[number]:
            left = self._trainer.max_completion_length - (len(context) - self._prompt_lengths[number])
            budget = max(1, min(budget, left))
        return Continuation(context[len(written) :], budget)

    def _rollouts_of(self, contexts: Sequence[list[int]]) -> list[int]:
        """Which of the rollouts that wrote last goes on in each context; TRL keeps their order."""
        candidates = iter(self._going)
        found = [next((n for n in candidates if _begins(ids, self._contexts[n])), None) for ids in contexts]
        assert None not in found, "TRL's tool loop went on with a context that nothing here wrote"
        return [number for number in found if number is not None]

    def _number_of(self, row: int, rollout: list[int]) -> int | None:
        """The number under which TRL's rollout `row` was written: another's where two were equal until one ended.

        None where these two have different answers.
        """
        answers = self._trainer._batch["answers"]
        others = (n for n in range(len(self._contexts)) if answers[n] == answers[row])
        return next((n for n in (row, *others) if _begins(self._contexts[n], rollout)), None)


def _unheard(config: GenerationConfig) -> str | None:
    """What `generate` would stop for and the backend would not."""
    heeded = [name for name in ("stop_strings", "max_time") if getattr(config, name)]
    if config.max_new_tokens is None:
        heeded.append("max_new_tokens=None")
    return f"generation_kwargs has {heeded[0]}" if heeded else None


def _begins(context: list[int], start: list[int]) -> bool:
    return context[: len(start)] == start


def _asked_by_tool_loop(trainer: A2TGPOTrainer) -> bool:
    """Whether TRL would call `generate` from the prompts on, with tools."""
    elsewhere = trainer.rollout_func is not None or trainer.use_vllm or trainer.use_transformers_continuous_batching
    return bool(trainer.tools) and not elsewhere


def _say_why(obstacle: str) -> None:
    warn_once(logger, f"TRL's tool loop re-reads its whole context at every turn, because {obstacle}.")
