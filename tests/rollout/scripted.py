"""An engine that plays written turns instead of sampling, so that every token of a rollout is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn, ready


class ScriptedEngine:
    """Plays script i (turns as text, as ids, or with their entropies) for row i, all rows in step.

    Scripts beyond the starts are those of rows that begin later, in the order they do. `contexts[k]` are the contexts
    of the rows open in step k.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scripts: Sequence[Sequence[str | list[int] | Turn]]) -> None:
        self.tokenizer = tokenizer
        self.scripts = [list(script) for script in scripts]
        self.contexts: list[list[list[int]]] = []

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        assert len(starts) <= len(self.scripts)
        left = [list(script) for script in self.scripts]
        contexts: dict[int, list[int]] = {}
        going = dict(enumerate(starts))
        while going:
            for row, continuation in going.items():
                contexts[row] = contexts.get(row, []) + continuation.ids
            self.contexts.append([contexts[row] for row in going])
            assert all(left[row] for row in going), f"the scripts of some rows in {sorted(going)} are too short"
            turns = {row: self._turn(left[row].pop(0), start.budget, n_entropies) for row, start in going.items()}
            for row, turn in turns.items():
                contexts[row] = contexts[row] + turn.ids
            going = ready(take_turns(turns), take_turns)
        assert len(contexts) == len(self.scripts), f"{len(contexts)} rows for {len(self.scripts)} scripts"

    def _turn(self, written: str | list[int] | Turn, budget: int, n_entropies: int) -> Turn:
        if isinstance(written, Turn):
            return Turn(written.ids[:budget], written.entropies[: min(budget, n_entropies)], written.logps[:budget])
        ids = written if isinstance(written, list) else self.tokenizer(written, add_special_tokens=False)["input_ids"]
        return Turn(ids[:budget])
