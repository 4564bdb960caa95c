"""Turn the rows of a TransferQueue batch into a `RolloutBatch`, and credit back into the queue's columns.

verl shuffles rows over its workers, and fills the batch up with padding rows. Credit wants a prompt's rollouts side by
side and as many of each prompt: rows are sorted by prompt, padding is left out, and a prompt that has fewer rollouts
than the others gets blank ones, which are excluded from every statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.pipeline import BatchCredit, LossInputs, RolloutBatch, TaskRow
from a2tgpo.rollout.types import Rollout, Termination, ToolCall

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from transformers import PreTrainedTokenizerBase

UPDATE_COLUMNS = {"turn_ids": -1, "advantages": 0.0, "turn_clip_scale": 1.0}
"""Columns of `LossInputs` that a row carries where rollouts share no turn, and their value on padding."""


LIKELIHOOD = "answer_likelihood"
"""Column, or key of `extra_fields`: the likelihood after the prompt and after each observation of a rollout."""

LOG_LINE = "rollout_log_line"
"""Column: a row's line in the rollout log, from 0; −1 on padding."""


@dataclass(frozen=True)
class RowOrder:
    """Say where each rollout of a `RolloutBatch` lies in the queue's batch.

    Three rows of prompt `a`, one of `b` and a padding row `pad1`, in the queue's order a1 b0 a0 pad1 a2:

        slots       [2, 0, 4, 1, None, None]    a0 a1 a2 b0 and two blank rollouts
        group_size  3
        n_rows      5

    Attributes:
        slots: row in the queue's batch of each rollout; None for a blank one.
        group_size: most rollouts of a prompt.
        n_rows: rows of the queue's batch.
    """

    slots: list[int | None]
    group_size: int
    n_rows: int

    @classmethod
    def of(cls, keys: Sequence[str], is_padding: Sequence[bool]) -> RowOrder:
        """Sort rows by prompt, in the order in which prompts come first, and by session.

        Args:
            keys: `{prompt}_{session}_{output}`.
            is_padding: marks rows that verl added.

        Raises:
            ValueError: an agent loop gave several outputs for a rollout, or there is none but padding.
        """
        groups: dict[str, list[tuple[int, int]]] = {}
        for row, (key, padding) in enumerate(zip(keys, is_padding, strict=True)):
            if padding:
                continue
            prompt, session, output = key.rsplit("_", 2)
            if int(output) > 0:
                raise ValueError(
                    f"row {key!r} is output {output} of its rollout: turns are counted along one sequence of tokens; "
                    "use an agent loop that returns one output per rollout"
                )
            groups.setdefault(prompt, []).append((int(session), row))
        if not groups:
            raise ValueError("the batch has no rollouts; see why the agent loop failed further up in the log")
        size = max(map(len, groups.values()))
        slots: list[int | None] = []
        for rows in groups.values():
            slots += [row for _, row in sorted(rows)] + [None] * (size - len(rows))
        return cls(slots, size, len(keys))

    @property
    def real_share(self) -> float:
        """Return the share of the queue's rows that are rollouts, in (0, 1]."""
        return sum(slot is not None for slot in self.slots) / self.n_rows

    def pick(self, column: Sequence[Any], blank: Callable[[], Any]) -> list[Any]:
        """Return a column's values in the order of the rollouts."""
        return [blank() if slot is None else column[slot] for slot in self.slots]

    def lines(self, written: Sequence[int]) -> list[Int[Tensor, " 1"]]:
        """Return the column `LOG_LINE`, in the queue's order.

        Args:
            written: line of each rollout.
        """
        found = [torch.tensor([-1]) for _ in range(self.n_rows)]
        for line, slot in zip(written, self.slots, strict=True):
            if slot is not None:
                found[slot] = torch.tensor([line])
        return found

    def spread(
        self, values: Shaped[Tensor, "B L"], lengths: Sequence[int], elsewhere: float
    ) -> list[Shaped[Tensor, " l"]]:
        """Return values per token in the queue's order, each row of its own length; padding rows have `elsewhere`."""
        rows = [values.new_full((length,), elsewhere) for length in lengths]
        for rollout, slot in enumerate(self.slots):
            if slot is not None:
                rows[slot] = values[rollout, : lengths[slot]].clone()
        return rows


def pad_rows(
    prompts: Sequence[Int[Tensor, " p"]],
    responses: Sequence[Int[Tensor, " l"]],
    response_masks: Sequence[Int[Tensor, " l"]],
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return prompt ids and mask, padded on the left, and completion ids, mask and model mask, padded on the right."""
    prompt_ids = pad_sequence(list(prompts), batch_first=True, padding_value=pad_id, padding_side="left")
    ones = [torch.ones_like(prompt) for prompt in prompts]
    prompt_mask = pad_sequence(ones, batch_first=True, padding_side="left")
    completion_ids = pad_sequence(list(responses), batch_first=True, padding_value=pad_id)
    completion_mask = pad_sequence([torch.ones_like(response) for response in responses], batch_first=True)
    model_mask = pad_sequence(list(response_masks), batch_first=True).bool()
    return prompt_ids, prompt_mask, completion_ids, completion_mask, model_mask


def as_rollouts(
    columns: Mapping[str, Sequence[Any]],
    order: RowOrder,
    *,
    answers: Sequence[Sequence[str]],
    pad_id: int,
    end_ids: Sequence[int],
    cut_last_result: bool,
) -> RolloutBatch:
    """Make the batch of a queue's columns `prompts`, `responses`, `response_mask`, `extra_fields` and, where the data
    set has them, `raw_prompt` and `extra_info`.

    Args:
        columns: one value per row, in the queue's order.
        answers: gold answers of each row; empty where the method scores none.
        end_ids, cut_last_result: see `find_boundaries`.
    """

    def of(name: str, blank: Callable[[], Any]) -> list[Any]:
        return order.pick(columns.get(name) or [None] * order.n_rows, blank)

    def empty() -> Tensor:
        return torch.zeros(0, dtype=torch.long)

    prompts = of("prompts", lambda: torch.tensor([pad_id]))
    responses = of("responses", empty)
    tensors = pad_rows(prompts, responses, of("response_mask", empty), pad_id)
    extra = [info if isinstance(info, Mapping) else {} for info in of("extra_info", dict)]
    return RolloutBatch.of(
        *tensors,
        group_size=order.group_size,
        tasks=[
            TaskRow(info.get("id", info.get("index")), prompt, gold, info.get("hops"))
            for info, prompt, gold in zip(extra, of("raw_prompt", list), order.pick(answers, list), strict=True)
        ],
        records=[
            record_from(fields, prompt.tolist(), response.tolist())
            for fields, prompt, response in zip(of("extra_fields", dict), prompts, responses, strict=True)
        ],
        end_ids=end_ids,
        cut_last_result=cut_last_result,
    )


def as_scored(
    columns: Mapping[str, Sequence[Any]],
    answers: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    cut_last_result: bool,
) -> RolloutBatch:
    """Make a batch whose answers are to be scored, row by row: how rows are grouped does not matter to that."""
    assert isinstance(tokenizer.pad_token_id, int), "verl gives every tokenizer a padding token"
    return as_rollouts(
        columns,
        RowOrder(list(range(len(answers))), 1, len(answers)),
        answers=answers,
        pad_id=tokenizer.pad_token_id,
        end_ids=end_ids(tokenizer),
        cut_last_result=cut_last_result,
    )


def end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the token that ends a text, which is no observation."""
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def pad_likelihoods(found: Sequence[Float[Tensor, " k"]], batch: RolloutBatch) -> Float[Tensor, "B T+1"]:
    """Pad likelihoods at each rollout's own turn boundaries to those of the batch, with 0; blank rollouts have none."""
    exists = batch.boundaries.exists
    likelihood = torch.zeros(exists.shape)
    for rollout, values in enumerate(found):
        assert len(values) in (0, int(exists[rollout].sum())), "worker and driver found other turn boundaries"
        likelihood[rollout, : len(values)] = values
    return likelihood


def credit_columns(
    credit: BatchCredit, batch: RolloutBatch, order: RowOrder, lengths: Sequence[int]
) -> dict[str, list[Tensor]]:
    """Return the columns that an update reads, one tensor per row in the queue's order.

    `UPDATE_COLUMNS` are those of `LossInputs`; `advantages` is read by verl's own metrics too. `loss_mask` marks the
    tokens that count; verl sums it over an update, and divides by that where a method averages over tokens.
    """
    of_inputs = LossInputs.of(credit, batch.model_mask).columns()
    columns = {name: order.spread(of_inputs[name], lengths, fill) for name, fill in UPDATE_COLUMNS.items()}
    columns["loss_mask"] = [(ids >= 0).long() for ids in columns["turn_ids"]]
    return columns


def token_weights(
    written: Sequence[Int[Tensor, " l"]],
    response_mask: Sequence[Int[Tensor, " l"]],
    rollout_is_weights: Sequence[Float[Tensor, " l"]] | None = None,
) -> list[Float[Tensor, " l"]] | None:
    """Return what verl's correction for the rollout engine makes of each token; None where it does nothing.

    A token that it rejects weighs nothing, rather than leaving its turn.

    Args:
        written: 1 on tokens of the policy.
        response_mask: 1 on those that were not rejected.
        rollout_is_weights: importance weights, where they are used.
    """
    rejects = any(not torch.equal(a.bool(), b.bool()) for a, b in zip(written, response_mask, strict=True))
    if rollout_is_weights is None and not rejects:
        return None
    weights = [torch.ones(len(row)) for row in written] if rollout_is_weights is None else rollout_is_weights
    return [weight.float() * kept for weight, kept in zip(weights, response_mask, strict=True)]


_RECORD = "a2tgpo_rollout"


def record_fields(rollout: Rollout) -> dict[str, Any]:
    """Return what a row carries of our agent loop's record, in plain types: all but the tokens, which it has itself."""
    kept = asdict(replace(rollout, prompt_ids=[], completion_ids=[], model_mask=[], logps=[]))
    return {_RECORD: kept | {"termination": rollout.termination and rollout.termination.value}}


def record_from(fields: Any, prompt_ids: list[int], completion_ids: list[int]) -> Rollout | None:
    """Return the record that `record_fields` put into a row; None for a rollout that another loop made."""
    found = fields.get(_RECORD) if isinstance(fields, Mapping) else None
    if found is None:
        return None
    rollout = Rollout(**found)
    rollout.prompt_ids, rollout.completion_ids = prompt_ids, completion_ids
    rollout.termination = None if found["termination"] is None else Termination(found["termination"])
    rollout.calls = [ToolCall(**{**call, "passage_ids": tuple(call["passage_ids"])}) for call in found["calls"]]
    return rollout
