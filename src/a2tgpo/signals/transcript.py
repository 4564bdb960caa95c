"""Cut rollouts into turns and decode them: what a process signal reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from a2tgpo.core import turn_ids
from a2tgpo.signals.answer_likelihood import Boundaries

if TYPE_CHECKING:
    from jaxtyping import Bool, Integer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Turn:
    """Hold what the policy wrote and, on a process turn, the observation that followed; None on the answer turn."""

    text: str
    observation: str | None = None
    ids: tuple[int, ...] = ()
    observation_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """Hold one rollout as text.

    Attributes:
        prompt: everything before the first turn as the policy saw it, chat template and special tokens included.
        answers: the gold answer's aliases, canonical first.
        turns: process turns first; the answer turn after them, if the rollout came to one.
        prompt_ids: the policy's tokens of `prompt`. Ids are empty, here and in `turns`, in a transcript made by hand.
        asked: the prompt as the data set has it, text or chat messages.
        row: the data set's row, by column.
        environment: the object that answered this rollout, as the episode left it (our loop's, or that of TRL's
            `environment_factory`); None where one serves all rollouts, as search does.
        turn_rewards: what the environment gave for each turn, None where it gave nothing; empty where nobody asked it.
    """

    prompt: str
    answers: tuple[str, ...]
    turns: tuple[Turn, ...]
    prompt_ids: tuple[int, ...] = ()
    asked: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    environment: Any = field(default=None, repr=False)
    turn_rewards: tuple[float | None, ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation: what was asked, then an assistant's message a turn and a tool's an observation."""
        asked = self.prompt if self.asked is None else self.asked
        said = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
        for turn in self.turns:
            said.append({"role": "assistant", "content": turn.text})
            if turn.observation is not None:
                said.append({"role": "tool", "content": turn.observation})
        return said

    @property
    def steps(self) -> list[str]:
        """Join each process turn with its observation: the `completions` of a stepwise-supervision data set."""
        return [turn.text + turn.observation for turn in self.turns if turn.observation is not None]


def transcripts(
    tokenizer: PreTrainedTokenizerBase,
    boundaries: Boundaries,
    prompt_ids: Integer[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    completion_ids: Integer[Tensor, "B L"],
    completion_mask: Bool[Tensor, "B L"],
    model_mask: Bool[Tensor, "B L"],
    answers: Sequence[Sequence[str]],
) -> list[Transcript]:
    """Cut a batch into turns and decode them with the policy's `tokenizer`.

    Masks are as in `find_boundaries`, whose `boundaries` of the same tensors say which turns are process turns and
    where their observations end. Every kind of rollout that marks the policy's tokens works.
    """
    n_prompt = prompt_ids.shape[1]
    turns_of = turn_ids(model_mask.bool() & completion_mask.bool()).tolist()
    is_process, ends = boundaries.is_process.tolist(), (boundaries.columns[:, 1:] - n_prompt).tolist()
    found = []
    for i, ids in enumerate(completion_ids.tolist()):
        n_turns = max(turns_of[i]) + 1
        starts = [turns_of[i].index(t) for t in range(n_turns)]
        prompt = prompt_ids[i][prompt_mask[i].bool()].tolist() + ids[: starts[0] if starts else 0]
        turns = []
        for t, start in enumerate(starts):
            stop = start + turns_of[i].count(t)
            observed = ids[stop : ends[i][t]] if is_process[i][t] else None
            turns.append(_turn(tokenizer, ids[start:stop], observed))
        found.append(Transcript(tokenizer.decode(prompt), tuple(answers[i]), tuple(turns), tuple(prompt)))
    return found


def _turn(tokenizer: PreTrainedTokenizerBase, ids: list[int], observed: list[int] | None) -> Turn:
    if observed is None:
        return Turn(tokenizer.decode(ids), ids=tuple(ids))
    return Turn(tokenizer.decode(ids), tokenizer.decode(observed), tuple(ids), tuple(observed))
