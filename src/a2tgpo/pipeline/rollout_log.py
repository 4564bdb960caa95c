"""One JSON line per rollout: what was said, and what each turn earned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from a2tgpo.core import turn_ids
from a2tgpo.methods import Method
from a2tgpo.pipeline.credit import BatchCredit
from a2tgpo.pipeline.segments import segments
from a2tgpo.pipeline.update_log import updates_of
from a2tgpo.rollout.types import Rollout

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


class RolloutLog:
    """Writes `step_NNNNNN.jsonl` in `folder`, or `step_NNNNNN.rankR.jsonl` where several processes write.

    Batches generated within one step share its file; a file that an earlier, interrupted run left is replaced.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path: Path | None = None
        """The file of the latest batch."""
        self._groups = self._rows = 0

    def write(
        self,
        trainer: A2TGPOTrainer,
        inputs: list[dict[str, Any]],
        output: dict[str, Any],
        model_mask: Tensor,
        credit: BatchCredit,
    ) -> range:
        """Write this process's rollouts of one generation batch; returns their lines in the file, from 0."""
        process = trainer.accelerator.process_index
        local = credit.local(process)
        suffix = f".rank{process}" if trainer.accelerator.num_processes > 1 else ""
        path = self.folder / f"step_{trainer.state.global_step:06d}{suffix}.jsonl"
        tokenizer = trainer._tokenizer
        turns = turn_ids(model_mask).tolist()
        again = path == self.path
        if not again:
            updates_of(path).unlink(missing_ok=True)
        first_group = self._groups if again else 0
        lines = range(self._rows if again else 0, (self._rows if again else 0) + len(inputs))
        first_row = process * len(inputs)
        self.path, self._rows = path, lines.stop
        self._groups = first_group + len(credit.outcome) // trainer.num_generations
        with path.open("a" if again else "w", encoding="utf-8") as file:
            for i, row in enumerate(inputs):
                length = int(output["completion_mask"][i].sum())
                ids = output["completion_ids"][i, :length].tolist()
                record = {
                    "step": trainer.state.global_step,
                    "group": first_group + (first_row + i) // trainer.num_generations,
                    "id": row.get("id"),
                    "prompt": row["prompt"],
                    "answer": row.get("answer"),
                    "segments": _segments(tokenizer, ids, turns[i][:length]),
                    **_ending(row.get("rollout")),
                    **_credit(local, i, trainer.method),
                }
                file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        return lines


def _segments(tokenizer: Any, ids: list[int], turns: list[int]) -> list[dict[str, Any]]:
    runs = segments(ids, turns)
    return [{"turn": run.turn, "text": tokenizer.decode(run.ids), "ids": run.ids} for run in runs]


def _ending(rollout: Rollout | None) -> dict[str, Any]:
    if rollout is None:
        return {}
    return {
        "termination": rollout.termination,
        "reason": rollout.reason,
        "prediction": rollout.answer,
        "calls": [{"query": call.query, "passage_ids": call.passage_ids} for call in rollout.calls],
    }


def _credit(local: BatchCredit, i: int, method: Method) -> dict[str, Any]:
    n_turns, n_process = int(local.n_turns[i]), int(local.is_process[i].sum())
    record = {
        "reward": None if local.outcome[i].isnan() else local.outcome[i].item(),
        "valid": bool(local.valid[i]),
        "advantage": local.advantage[i, :n_turns].tolist(),
        "clip_scale": (scale := local.clip_scale[i, :n_turns]).tolist(),
        "clip_low": (1 - scale * method.eps_low).tolist(),
        "clip_high": (1 + scale * method.eps_high).tolist(),
    }
    if local.likelihood is not None:
        record["likelihood"] = local.likelihood[i, : n_process + 1].tolist()
    if local.gain is not None:
        record["gain"] = local.gain[i, :n_process].tolist()
        record["normalized_gain"] = local.normalized_gain[i, :n_process].tolist()
    if local.owned is not None:
        record["owned"] = local.owned[i, :n_turns].tolist()
    return record
