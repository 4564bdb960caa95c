"""Generation with `transformers.generate`, which re-reads the whole context at every turn.

The reference for `KeptKeysBackend`, and what is left for models and sampling options that it cannot serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.rollout.backend import Continuation, TakeTurns, Turn
from a2tgpo.rollout.evaluating import evaluating
from a2tgpo.rollout.sampler import Sampler


@dataclass
class RereadingBackend:
    """`Backend` over a Hugging Face causal LM, all rows turn by turn in step.

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
            going = take_turns(turns)

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
        )
        return [self._trim(ids) for ids in output[:, batch["input_ids"].size(1) :].tolist()]

    def _entropies(self, context: list[int], turn: list[int]) -> list[float]:
        """Of the distributions that the tokens of `turn` were drawn from, by one more reading."""
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
