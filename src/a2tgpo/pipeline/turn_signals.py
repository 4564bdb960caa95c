"""What the credit rule reads of this process's rollouts, from TRL's tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.core import turn_mean
from a2tgpo.integrations.trl.checks import gold_aliases
from a2tgpo.pipeline.anchor_states import observation_states
from a2tgpo.pipeline.credit import LocalTurns
from a2tgpo.pipeline.outcome import tool_failed
from a2tgpo.pipeline.prefix_tree import family
from a2tgpo.pipeline.segments import segments
from a2tgpo.signals import transcripts, turn_numbers
from a2tgpo.signals.answer_likelihood import Boundaries, Scores, find_boundaries

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


def local_turns(
    trainer: A2TGPOTrainer,
    inputs: list[dict[str, Any]],
    output: dict[str, Any],
    model_mask: Bool[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    scores: Scores | None,
) -> LocalTurns:
    """Turn boundaries and whatever else `trainer.method` reads of each rollout or turn."""
    boundaries = scores.boundaries if scores is not None else trl_boundaries(trainer, output, model_mask)
    n_columns = boundaries.is_process.size(1)
    fields: dict[str, Tensor] = {} if scores is None else {"likelihood": scores.likelihood}
    if trainer.method.signal and scores is None:
        assert callable(trainer._signal)
        tensors = {name: output[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
        answers = [gold_aliases(row, i) if row.get("answer") else [] for i, row in enumerate(inputs)]
        made = transcripts(trainer._tokenizer, boundaries, **tensors, model_mask=model_mask, answers=answers)
        fields["signal"] = turn_numbers(trainer._signal, made).to(model_mask.device)
    if "entropy" in trainer.method.credit.reads:
        fields["entropy"] = turn_mean(_entropies(trainer, output), turn_ids, n_columns)
    if trainer.method.shares_turns:
        fields["tree"], fields["node"] = family(inputs, boundaries.n_turns, n_columns)
    teaches = model_mask.any(dim=1) & ~torch.tensor(tool_failed(inputs), device=model_mask.device)
    return LocalTurns(boundaries, teaches, **fields)


def global_states(
    trainer: A2TGPOTrainer, output: dict[str, Any], turn_ids: Int[Tensor, "B L"], group_size: int
) -> Int[Tensor, "global_B T"]:
    """The observation each turn of the global batch started from, numbered within its prompt."""
    lengths = output["completion_mask"].sum(dim=1).tolist()
    observations = []
    for ids, turns, length in zip(output["completion_ids"].tolist(), turn_ids.tolist(), lengths, strict=True):
        runs = segments(ids[:length], turns[:length])
        before = ["", *(trainer._tokenizer.decode(run.ids) for run in runs if run.turn < 0)]
        n_turns = max(turns[:length], default=-1) + 1
        observations.append(before[:n_turns])
    everywhere = gather_object(observations)
    n_columns = max(1, *map(len, everywhere))
    return observation_states(everywhere, group_size, n_columns, trainer.args.state_similarity).to(turn_ids.device)


def whole(output: dict[str, Any]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Ids and mask of prompt and completion side by side."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    return ids, torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)


def trl_boundaries(trainer: A2TGPOTrainer, output: dict[str, Any], model_mask: Bool[Tensor, "B L"]) -> Boundaries:
    """The turn boundaries of TRL's batch."""
    eos = trainer._tokenizer.eos_token_id
    return find_boundaries(
        output["prompt_mask"],
        output["completion_ids"],
        output["completion_mask"],
        model_mask,
        end_ids=() if eos is None else (eos,),
    )


@torch.no_grad()
def _entropies(trainer: A2TGPOTrainer, output: dict[str, Any]) -> Float[Tensor, "B L"]:
    """In nats, under the policy that wrote the tokens: one more pass."""
    with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        _, entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer,
            trainer.model,
            *whole(output),
            output["completion_ids"].size(1),
            batch_size=trainer.rows_per_forward,
            compute_entropy=True,
        )
    assert entropies is not None
    return entropies
