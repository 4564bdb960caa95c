"""A backend that plays written turns instead of sampling, so that every token of a rollout is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class ScriptedBackend:
    """Plays turn k of script i at the k-th call for context i; contexts are recognised by their prompt's order."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scripts: Sequence[Sequence[str]]) -> None:
        self.tokenizer = tokenizer
        self.scripts = scripts
        self.contexts: list[list[list[int]]] = []
        self._owners: dict[int, int] = {}
        self._turn = [0] * len(scripts)

    def __call__(self, contexts: Sequence[list[int]], budgets: Sequence[int]) -> list[list[int]]:
        self.contexts.append([list(context) for context in contexts])
        if len(self.contexts) == 1:
            assert len(contexts) == len(self.scripts)
            self._prompts = [list(context) for context in contexts]
        turns = []
        taken: set[int] = set()
        for context, budget in zip(contexts, budgets, strict=True):
            owner = next(
                i
                for i, prompt in enumerate(self._prompts)
                if i not in taken and context[: len(prompt)] == prompt and self._turn[i] < len(self.scripts[i])
            )
            taken.add(owner)
            text = self.scripts[owner][self._turn[owner]]
            self._turn[owner] += 1
            turns.append(self.tokenizer(text, add_special_tokens=False)["input_ids"][:budget])
        return turns
