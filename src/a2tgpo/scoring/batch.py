"""Tensors of one scoring batch: trajectories and the probes that are read at their boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.scoring.scaffold import Probe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer

IGNORED = -100
"""The label of a column whose log-probability is not read, as in Hugging Face models."""


@dataclass(frozen=True)
class Trajectories:
    """Left-padded prompts joined to right-padded completions, S = P + L columns."""

    input_ids: Integer[Tensor, "B S"]
    attention_mask: Bool[Tensor, "B S"]
    labels: Integer[Tensor, "B S"]
    prompt_length: int
    count_padding: bool = False

    @classmethod
    def join(
        cls,
        prompt_ids: Integer[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        completion_ids: Integer[Tensor, "B L"],
        completion_mask: Bool[Tensor, "B L"],
        model_mask: Bool[Tensor, "B L"],
        count_padding: bool = False,
    ) -> Trajectories:
        written = model_mask.bool() & completion_mask.bool()
        labels = torch.cat([torch.full_like(prompt_ids, IGNORED), completion_ids.masked_fill(~written, IGNORED)], dim=1)
        return cls(
            input_ids=torch.cat([prompt_ids, completion_ids], dim=1),
            attention_mask=torch.cat([prompt_mask.bool(), completion_mask.bool()], dim=1),
            labels=labels,
            prompt_length=prompt_ids.shape[1],
            count_padding=count_padding,
        )

    @property
    def position_ids(self) -> Integer[Tensor, "B S"]:
        """The number of attended tokens before each column, so that left padding moves nothing; the column's own
        index where padding counts."""
        if self.count_padding:
            columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
            return columns.expand_as(self.input_ids)
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)

    def __getitem__(self, rows: slice) -> Trajectories:
        return Trajectories(
            self.input_ids[rows],
            self.attention_mask[rows],
            self.labels[rows],
            self.prompt_length,
            self.count_padding,
        )


@dataclass(frozen=True)
class ProbeBatch:
    """The probes of B rollouts, A aliases each, right-padded to M tokens. A missing alias has no token."""

    ids: Integer[Tensor, "B A M"]
    is_token: Bool[Tensor, "B A M"]
    is_answer: Bool[Tensor, "B A M"]

    @classmethod
    def stack(cls, probes: Sequence[Sequence[Probe]], device: torch.device) -> ProbeBatch:
        n_aliases = max(len(aliases) for aliases in probes)
        length = max(len(probe.ids) for aliases in probes for probe in aliases)
        ids = torch.zeros(len(probes), n_aliases, length, dtype=torch.long)
        is_token = torch.zeros_like(ids, dtype=torch.bool)
        is_answer = torch.zeros_like(is_token)
        for row, aliases in enumerate(probes):
            for alias, probe in enumerate(aliases):
                n_tokens = len(probe.ids)
                ids[row, alias, :n_tokens] = torch.tensor(probe.ids)
                is_token[row, alias, :n_tokens] = True
                is_answer[row, alias, :n_tokens] = torch.tensor(probe.is_answer)
        return cls(ids.to(device), is_token.to(device), is_answer.to(device))

    @property
    def labels(self) -> Integer[Tensor, "B A M"]:
        return self.ids.masked_fill(~self.is_answer, IGNORED)

    def mean(self, total: Float[Tensor, "B K A"]) -> Float[Tensor, "B K A"]:
        """Divide summed log-probabilities by the number of answer tokens; a missing alias becomes −inf."""
        n_answer = self.is_answer.sum(-1)[:, None]
        return (total / n_answer.clamp(min=1)).masked_fill(n_answer == 0, -torch.inf)

    def __getitem__(self, rows: slice) -> ProbeBatch:
        return ProbeBatch(self.ids[rows], self.is_token[rows], self.is_answer[rows])
