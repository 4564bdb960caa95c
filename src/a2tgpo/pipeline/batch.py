"""Hold the rollouts of one batch, as every step from scoring to the loss reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.core import turn_ids
from a2tgpo.rollout.types import NOT_THE_POLICYS, Rollout
from a2tgpo.signals.answer_likelihood import Boundaries, find_boundaries

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class TaskRow:
    """Name what a rollout was asked to do.

    Attributes:
        id: the data set's name for the row, if it has one.
        prompt: text or chat messages, as the policy read them.
        answers: gold answers, canonical first; empty where the task has none.
        hops: facts that the answer rests on; None where the data set does not say.
        row: the data set's row, by column.
        environment: what answered the rollout, as the episode left it; None where one serves all, or the row had none.
    """

    id: Any
    prompt: Any
    answers: Sequence[str] = ()
    hops: int | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    environment: Any = field(default=None, repr=False)


_OF_ROWS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"),
    *("model_mask", "turn_ids", "tasks", "records", "failed"),
)


@dataclass(frozen=True)
class Segment:
    """Hold consecutive tokens of the policy's turn `turn` (from 0), or of the environment (`turn` −1)."""

    turn: int
    ids: list[int]


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """Hold B rollouts of one process as padded tensors, with turns and turn boundaries computed once.

    Two rollouts of one prompt, `q` its token, `s` and `a` tokens of a search and an answer turn, `o` an observation:

        prompt_ids       [[q], [q]]
        completion_ids   [[s, s, o, a], [a, ., ., .]]
        completion_mask  [[1, 1, 1, 1], [1, 0, 0, 0]]
        model_mask       [[1, 1, 0, 1], [1, 0, 0, 0]]      True on tokens that the policy wrote
        turn_ids         [[0, 0, −1, 1], [0, −1, −1, −1]]
        boundaries       columns [[1, 4], [1, 1]]: after the prompt, and after the observation of turn 0
                         is_process [[1, 0], [0, 0]], n_turns [2, 1]
        group_size       2: rollouts 0 and 1 answer the same prompt

    Attributes:
        prompt_ids, prompt_mask: padded on the left.
        completion_ids, completion_mask: padded on the right; everything after the prompt, observations included.
        group_size: rollouts per prompt, consecutive in the joined batch of all processes.
        tasks: the task of each rollout.
        records: the agent loop's record of each rollout; None for rollouts that another loop made.
        failed: rollouts that a tool or server failed: they say nothing of the policy.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Int[Tensor, "B P"]
    completion_ids: Int[Tensor, "B L"]
    completion_mask: Int[Tensor, "B L"]
    model_mask: Bool[Tensor, "B L"]
    turn_ids: Int[Tensor, "B L"]
    boundaries: Boundaries
    group_size: int
    tasks: Sequence[TaskRow]
    records: Sequence[Rollout | None]
    failed: Bool[Tensor, " B"]

    @classmethod
    def of(
        cls,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Int[Tensor, "B P"],
        completion_ids: Int[Tensor, "B L"],
        completion_mask: Int[Tensor, "B L"],
        model_mask: Bool[Tensor, "B L"],
        *,
        group_size: int,
        tasks: Sequence[TaskRow],
        records: Sequence[Rollout | None] | None = None,
        failed: Sequence[bool] | None = None,
        end_ids: Sequence[int] = (),
        cut_last_result: bool = False,
    ) -> RolloutBatch:
        """Find the turns and turn boundaries of padded rollouts.

        Args:
            model_mask: what it says of padding is ignored.
            failed: rollouts that a tool or server failed, beside those whose record says so.
            end_ids, cut_last_result: see `find_boundaries`.

        Raises:
            ValueError: shapes that disagree, or a prompt that ends in padding.
        """
        written = model_mask.bool() & completion_mask.bool()
        boundaries = find_boundaries(
            prompt_mask, completion_ids, completion_mask, written, end_ids=end_ids, cut_last_result=cut_last_result
        )
        records = records if records is not None else [None] * len(prompt_ids)
        known = [record is not None and record.termination in NOT_THE_POLICYS for record in records]
        either = torch.tensor([a or b for a, b in zip(known, failed or [False] * len(known), strict=True)])
        return cls(
            prompt_ids,
            prompt_mask,
            completion_ids,
            completion_mask,
            written,
            turn_ids(written),
            boundaries,
            group_size,
            tasks,
            records,
            either.to(written.device),
        )

    def rows(self, rows: Sequence[int]) -> RolloutBatch:
        """Return these rollouts, with the batch's columns."""
        index, cut = list(rows), dict[str, Any]()
        for name in _OF_ROWS:
            of_all = getattr(self, name)
            cut[name] = of_all[index] if isinstance(of_all, Tensor) else [of_all[row] for row in index]
        return replace(self, **cut, boundaries=self.boundaries.take(index))

    @property
    def ids(self) -> Int[Tensor, "B S"]:
        """Join prompt and completion."""
        return concat_prompt_completion(self.prompt_ids, self.completion_ids)

    @property
    def mask(self) -> Int[Tensor, "B S"]:
        """Join the masks of prompt and completion."""
        return concat_prompt_completion(self.prompt_mask, self.completion_mask)

    def segments(self) -> Iterator[list[Segment]]:
        """Cut each completion wherever its author changes."""
        lengths = self.completion_mask.sum(dim=1).tolist()
        for ids, turns, length in zip(self.completion_ids.tolist(), self.turn_ids.tolist(), lengths, strict=True):
            runs = groupby(zip(turns[:length], ids[:length], strict=True), key=lambda token: token[0])
            yield [Segment(turn, [token for _, token in run]) for turn, run in runs]


def concat_prompt_completion(prompt: Int[Tensor, "B P"], completion: Int[Tensor, "B L"]) -> Int[Tensor, "B S"]:
    """Join a prompt's columns and its completion's, S = P + L."""
    return torch.cat([prompt, completion], dim=1)
