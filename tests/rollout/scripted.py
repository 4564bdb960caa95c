"""A backend that plays written turns instead of sampling, so that every token of a rollout is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from a2tgpo.rollout.backend import Continuation, TakeTurns


class ScriptedBackend:
    """Plays turn k (text, or ids) of script i for row i, all rows in step.

    `contexts[k]` are the contexts of the rows still open then.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scripts: Sequence[Sequence[str | list[int]]]) -> None:
        self.tokenizer = tokenizer
        self.scripts = scripts
        self.contexts: list[list[list[int]]] = []

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns) -> None:
        assert len(starts) == len(self.scripts)
        contexts = [list(start.ids) for start in starts]
        going = dict(enumerate(starts))
        for turn in range(max(map(len, self.scripts), default=0)):
            self.contexts.append([list(contexts[row]) for row in going])
            turns = {row: self._ids(self.scripts[row][turn])[: start.budget] for row, start in going.items()}
            going = take_turns(turns)
            for row, continuation in going.items():
                contexts[row] += turns[row] + continuation.ids
        assert not going, f"the scripts of rows {sorted(going)} are too short"

    def _ids(self, turn: str | list[int]) -> list[int]:
        return turn if isinstance(turn, list) else self.tokenizer(turn, add_special_tokens=False)["input_ids"]
