"""Generate with `transformers.generate`, or with KV-cache reuse where that draws the same.

`HFGenerateEngine` reads the whole context anew at every turn: the reference for `KVCacheEngine`, and what is left for
models and sampling options that it cannot serve.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.messages import warn_once
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn, evaluating, ready
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.reuse_check import why_not_reused
from a2tgpo.signals.answer_likelihood.model_support import why_not_kept

logger = logging.getLogger(__name__)


@dataclass
class HFGenerateEngine:
    """Generate with a Hugging Face causal LM (a `GenerationEngine`), all rows turn by turn in step.

    Args:
        model: unwrapped causal LM.
        tokenizer: with a padding token.
        generation_config: sampling parameters (temperature, top-p, greedy...); length and stops are set per call.
        stop_strings: texts that close a turn.
        rows_at_a_time: rollouts generated together.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generation_config: GenerationConfig
    stop_strings: tuple[str, ...]
    rows_at_a_time: int = 256

    @torch.no_grad()
    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        with evaluating(self.model):
            self._run(dict(enumerate(starts)), take_turns, n_entropies)

    def _run(self, going: dict[int, Continuation], take_turns: TakeTurns, n_entropies: int) -> None:
        contexts: dict[int, list[int]] = {}
        while going:
            for row, continuation in going.items():
                contexts[row] = contexts.get(row, []) + continuation.ids
            written = self._turns([contexts[row] for row in going], [start.budget for start in going.values()])
            turns = {
                row: Turn(ids, self._entropies(contexts[row], ids[:n_entropies]))
                for row, ids in zip(going, written, strict=True)
            }
            for row, turn in turns.items():
                contexts[row] = contexts[row] + turn.ids
            going = ready(take_turns(turns), take_turns)

    def _turns(self, contexts: list[list[int]], budgets: list[int]) -> list[list[int]]:
        # Rows of one length class share a batch, so that little is padded.
        order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]))
        turns: dict[int, list[int]] = {}
        for start in range(0, len(order), self.rows_at_a_time):
            rows = order[start : start + self.rows_at_a_time]
            sampled = self._generate([contexts[row] for row in rows], max(budgets[row] for row in rows))
            turns |= {row: ids[: budgets[row]] for row, ids in zip(rows, sampled, strict=True)}
        return [turns[row] for row in range(len(contexts))]

    def _generate(self, contexts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        batch = self.tokenizer.pad({"input_ids": contexts}, padding=True, padding_side="left", return_tensors="pt").to(
            self.model.device
        )
        config = GenerationConfig.from_dict(self.generation_config.to_dict())
        config.update(max_new_tokens=max_new_tokens, stop_strings=list(self.stop_strings))
        output = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            generation_config=config,
            tokenizer=self.tokenizer,
            synced_gpus=False,  # every process has all parameters, and ends when its own rows do
        )
        return [self._trim(ids) for ids in output[:, batch["input_ids"].size(1) :].tolist()]

    def _entropies(self, context: list[int], turn: list[int]) -> list[float]:
        """Return the entropies of the distributions that `turn` was drawn from, by one more reading."""
        if not turn:
            return []
        sampler = Sampler(self.model, self.generation_config)
        ids = torch.tensor([context + turn[:-1]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :]
        # One by one: the processors that lead here need not bear padding.
        return [sampler.entropies(logits[[n]], [context + turn[:n]])[0] for n in range(len(turn))]

    def _trim(self, ids: list[int]) -> list[int]:
        """Cut the padding `generate` writes behind a finished row.

        Many tokenizers pad with the end-of-sequence token, so the first end-of-sequence token is the row's own only
        if no stop string was complete before it.
        """
        eos = self.generation_config.eos_token_id
        ends = {self.tokenizer.pad_token_id, *(eos if isinstance(eos, list) else [eos])}
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        if length == len(ids) or any(stop in self.tokenizer.decode(ids[:length]) for stop in self.stop_strings):
            return ids[:length]
        return ids[: length + 1]


def transformers_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig,
    stop_strings: Sequence[str],
    rows_at_a_time: int = 256,
) -> KVCacheEngine | HFGenerateEngine:
    """Make a `KVCacheEngine` wherever it draws what `generate` would, else an `HFGenerateEngine`, with a warning why.

    Args:
        model: unwrapped causal LM.
        tokenizer: with a padding token.
        generation_config: sampling parameters; what it leaves unset comes from the model's own. Lengths and stops are
            the engine's business: a turn ends on a stop string, or on any end token of the model, the tokenizer or
            this config.
        stop_strings: texts that close a turn.
        rows_at_a_time: most rollouts generated together.
    """
    generation_config = copy.deepcopy(generation_config)
    generation_config.eos_token_id = end_tokens(model, tokenizer, generation_config)
    sampler = Sampler(model, generation_config)
    obstacle = why_no_cache_reuse(model, sampler)
    if obstacle is None:
        return KVCacheEngine(model, tokenizer, sampler, stop_strings, rows_at_a_time)
    warn_once(logger, f"No KV-cache reuse: every turn reads its whole context again, because {obstacle}.")
    return HFGenerateEngine(model, tokenizer, generation_config, tuple(stop_strings), rows_at_a_time)


def end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig
) -> list[int]:
    """Return the tokens that end what `model` writes: the tokenizer's, the model's, and those asked for."""
    named = (tokenizer.eos_token_id, model.generation_config.eos_token_id, generation_config.eos_token_id)
    ends = [token for tokens in named for token in (tokens if isinstance(tokens, list) else [tokens])]
    return list(dict.fromkeys(token for token in ends if token is not None))


def why_no_cache_reuse(model: PreTrainedModel, sampler: Sampler) -> str | None:
    """Say why `KVCacheEngine` would not draw what `generate` does; None where it does."""
    if (obstacle := why_not_kept(model.config) or sampler.obstacle) is not None:
        return obstacle
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return f"{type(model).__name__}.forward takes no logits_to_keep"
    if len(devices := {str(parameter.device) for parameter in model.parameters()}) > 1:
        return f"its layers lie on several devices ({', '.join(sorted(devices))})"
    return why_not_reused(model)
