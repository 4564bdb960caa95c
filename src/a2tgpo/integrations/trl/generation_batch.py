"""One generation batch while TRL makes it: each of the trainer's hooks adds what it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from a2tgpo.gold import read_aliases
from a2tgpo.pipeline import RolloutBatch, TaskRow
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.types import Rollout
from a2tgpo.signals.answer_likelihood import AnswerScorer, Scores

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Generated(NamedTuple):
    """Name what TRL's `_generate` returns: lists over the rollouts, a dict of such lists, or None."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: list[list[int]] | None
    completions: list[Any]
    logprobs: list[list[float]] | None
    extra_fields: dict[str, list[Any]]
    images: list[Any] | None
    tool_images: list[Any]


@dataclass
class GeneratedRollout:
    """Hold one rollout's part of `Generated`, whether a tool failed it, and its rewards by function once it has any."""

    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int] | None
    completions: Any
    logprobs: list[float] | None
    extra_fields: dict[str, Any]
    images: Any
    tool_images: Any
    failed: bool = False
    rewards: Tensor | None = None


def split_rollouts(generated: Generated, failed: Sequence[bool]) -> list[GeneratedRollout]:
    """Split what was generated into its rollouts."""
    extra = generated.extra_fields

    def of(values: list[Any] | None, row: int) -> Any:
        return values[row] if values else None

    return [
        GeneratedRollout(
            **{name: of(getattr(generated, name), row) for name in _LISTS},
            extra_fields={name: v[row] if isinstance(v, list) else v for name, v in extra.items()},
            failed=failed[row],
        )
        for row in range(len(generated.completion_ids))
    ]


def join_rollouts(rollouts: Sequence[GeneratedRollout]) -> Generated:
    """Join rollouts into what TRL expects of `_generate`."""
    first = rollouts[0]
    lists: dict[str, Any] = {
        name: None if getattr(first, name) is None else [getattr(rollout, name) for rollout in rollouts]
        for name in _LISTS
    }
    lists["tool_images"] = lists["tool_images"] or []
    return Generated(
        **lists, extra_fields={name: [r.extra_fields[name] for r in rollouts] for name in first.extra_fields}
    )


_LISTS = tuple(name for name in Generated._fields if name != "extra_fields")


def records_of(generated: Generated) -> list[Rollout | None]:
    """Return our agent loop's record of each rollout; TRL gives them to the rows only when it rewards them."""
    n_rows = len(generated.completion_ids)
    records = generated.extra_fields.get("rollout") or [None] * n_rows
    return [record if isinstance(record, Rollout) else None for record in records]


@dataclass(eq=False)
class GenerationBatch:
    """Hold what is known so far of the batch that TRL is making.

    Attributes:
        rows: the data set's rows, which TRL also gives the fields of each rollout.
        answers: gold answers of each row; empty where the method scores none.
        group_size: rollouts per prompt.
        prompts: what the policy read, an environment's first observation included.
        generated: what was generated for `rows`, once it was.
        failed: rollouts that a tool failed.
        rewards: of each rollout by function, where dynamic sampling has asked for them already.
        reader: reads answers from the KV cache while rollouts are written; None where a pass of its own scores them.
        rollouts: the batch as tensors.
        scores: answer likelihoods, and old log-probabilities where TRL needs them.
        rewards_per_func: of all processes.
        environments: TRL's, one for each rollout; empty where it has none.
    """

    rows: list[dict[str, Any]]
    answers: list[list[str]]
    group_size: int
    prompts: list[Any] = field(default_factory=list)
    generated: Generated | None = None
    failed: Sequence[bool] = ()
    rewards: Sequence[Tensor | None] = ()
    reader: AnswerReader | None = None
    rollouts: RolloutBatch | None = None
    scores: Scores | None = None
    rewards_per_func: Float[Tensor, "global_B F"] | None = None
    environments: Sequence[Any] = ()

    def as_rollouts(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Int[Tensor, "B P"],
        completion_ids: Int[Tensor, "B L"],
        completion_mask: Int[Tensor, "B L"],
        *,
        end_ids: Sequence[int],
        cut_last_result: bool,
    ) -> RolloutBatch:
        """Return the batch of these tensors of TRL's, made once."""
        if self.rollouts is None:
            self.rollouts = RolloutBatch.of(
                prompt_ids,
                prompt_mask,
                completion_ids,
                completion_mask,
                self._model_mask(completion_mask),
                group_size=self.group_size,
                tasks=[
                    TaskRow(row.get("id"), prompt, answers, row.get("hops"), row, self._environment(number))
                    for number, (row, prompt, answers) in enumerate(
                        zip(self.rows, self.prompts, self.answers, strict=True)
                    )
                ],
                records=records_of(self.generated) if self.generated is not None else None,
                failed=self.failed,
                end_ids=end_ids,
                cut_last_result=cut_last_result,
            )
        return self.rollouts

    def end_episodes(self, environments: Sequence[Any] | None) -> None:
        """Keep TRL's environments, and take the gold answers of rows that have none from what the episodes revealed.

        Args:
            environments: TRL's, one for each rollout; one may have an attribute `answer`.
        """
        assert self.generated is not None, "episodes are over"
        self.environments = environments or ()
        for number, record in enumerate(records_of(self.generated)):
            if self.answers[number]:
                continue
            revealed = record.revealed_answer if record is not None else None
            if revealed is None and environments:
                revealed = getattr(environments[number], "answer", None)
            self.answers[number] = read_aliases(revealed, f"row {number}, the answer that its environment revealed")

    def _environment(self, number: int) -> Any:
        """Return what answered a rollout: TRL's environment, or that of our loop."""
        if self.environments:
            return self.environments[number]
        record = records_of(self.generated)[number] if self.generated is not None else None
        return None if record is None else record.environment

    def _model_mask(self, completion_mask: Int[Tensor, "B L"]) -> Tensor:
        assert self.generated is not None, "TRL pads what was generated"
        if self.generated.tool_mask is None:
            return completion_mask.bool()
        mask = torch.zeros_like(completion_mask, dtype=torch.bool)
        for i, row in enumerate(self.generated.tool_mask):
            mask[i, : len(row)] = torch.tensor(row, dtype=torch.bool)
        return mask

    def read_scores(self, scorer: AnswerScorer) -> Scores | None:
        """Return what `reader` found, at the boundaries that TRL's masks leave.

        None where it has not read at every one of them: an observation that ends an episode enters no cache.
        """
        if self.reader is None:
            return None
        assert self.rollouts is not None, "made into tensors before"
        boundaries = self.rollouts.boundaries
        answer_logps = torch.zeros(boundaries.exists.shape)
        for row, n_boundaries in enumerate(boundaries.exists.sum(dim=1).tolist()):
            found = self.reader.answer_logps.get(row, [])[:n_boundaries]
            if len(found) < n_boundaries:
                return None
            answer_logps[row, :n_boundaries] = torch.tensor(found)
        likelihood = scorer.likelihood_of(answer_logps.to(boundaries.exists.device), boundaries)
        return Scores(likelihood, None, boundaries, seconds_logps=0.0, seconds_gain=self.reader.seconds)
