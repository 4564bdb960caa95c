"""`A2TGPOTrainer`: TRL's `GRPOTrainer` with per-turn credit, by A²TGPO or any other row of the methods table.

TRL generates, rewards, batches, updates, checkpoints and logs. Three classes translate between it and the pipeline, in
the order of a step: `RolloutTrainer` (rollouts and rewards), `TurnCreditTrainer` (TRL's tensors into a `RolloutBatch`,
the pipeline's `LossInputs` into columns of TRL's batch) and `A2TGPOTrainer` (updates). The mathematics is in
`a2tgpo.core`.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from a2tgpo.integrations.trl.callbacks import FiniteGuard, MetricsFile, ScriptFiles
from a2tgpo.integrations.trl.objective import OTHER_OBJECTIVES, update_loss
from a2tgpo.integrations.trl.turn_credit_trainer import LOGGED_ROW, TurnCreditTrainer
from a2tgpo.pipeline import LossInputs, TurnSignals
from a2tgpo.pipeline.likelihood import UpdateReading, join_readings, read_update, why_not_packed
from a2tgpo.pipeline.microbatches import (
    cheapest_forwards,
    cheapest_order,
    count_tokens_by_update,
    in_order,
    join_rows,
    take_rows,
    trim_padding,
)
from a2tgpo.pipeline.turn_loss import TOKENS_COLUMN
from a2tgpo.pipeline.update_gain import UpdateGain
from a2tgpo.rollout.rows import forward_price
from a2tgpo.signals.answer_likelihood.model_support import full_key_cache

__all__ = ["A2TGPOTrainer"]


class A2TGPOTrainer(TurnCreditTrainer):
    """Train by Agentic Turn-Group Policy Optimization (arXiv 2605.06200) in place of `trl.GRPOTrainer`.

    Takes `GRPOTrainer`'s arguments, with `args` an `A2TGPOConfig`, and, where the method reads information gain, one
    more column in the data set: `answer`, the gold answer or a list of its aliases. Turns come from TRL's tool mask, so
    `tools=`, `environment_factory=` and `rollout_func=` (see `TagRollout`) work unchanged.

    Args:
        turn_signal: one number per process turn in place of information gain (`a2tgpo.signals`: a `TurnFunction` around
            a function of yours, a process reward model, or any `ProcessSignal`). Keyword only.

    Raises:
        ValueError: an option that contradicts the method, a data set without answers, or an answer without tokens; the
            message names it and says what to do.
    """

    _tag_names = ("trl", "a2tgpo")
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name, self._paper = self.method.name, self.method.paper
        self._to_log: list[tuple[Any, ...]] = []
        self._first_line = 0
        self.add_callback(FiniteGuard())
        if self.args.rollouts_dir is None:  # a script's run: nobody else writes what `a2tgpo report` reads
            output_dir = Path(str(self.args.output_dir))
            self.add_callback(ScriptFiles(output_dir))
            self.add_callback(MetricsFile(output_dir / "metrics.jsonl"))

    @property
    def _packing(self) -> dict[str, bool]:
        """Return the options that keep rows which begin alike from being packed."""
        return {"aux_loss": self.aux_loss_enabled, "share": self.pad_to_multiple_of is None}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.loss_type in OTHER_OBJECTIVES:
            # TRL takes an advantage per token, and its mask from the tools'; a batch made by hand has its own.
            mask = {"tool_mask": (inputs["turn_ids"] >= 0).long()} if "turn_ids" in inputs else {}
            return super()._compute_loss(model, inputs | mask)
        columns = trim_padding(inputs, self.pad_to_multiple_of)
        if self._update_gain is None or not self.model.training:
            forwards = self._forwards(model, columns)
            reading = join_readings([self._read_rows(model, columns, rows) for rows in forwards], forwards)
        else:
            reading, credit = self._read_and_give(self._update_gain, model, columns)
            columns |= credit
        loss, turns, found, logged = update_loss(self, columns, reading, self.method, self._window)
        self._log_means(logged)
        if self._rollout_log is not None and LOGGED_ROW in inputs:
            step = self.state.global_step + 1
            self._to_log.append((inputs[LOGGED_ROW], step, found.log_ratio, turns.turn_ids, found.clipped_turns))
        return loss

    def _forwards(self, model: Any, columns: dict[str, Any]) -> list[list[int]]:
        """Return the rows of each forward over a micro-batch, of like length where that costs less.

        Several processes make as many forwards each, and a width that the user set holds for all rows: one.
        """
        if self.collective.size > 1 or self.aux_loss_enabled or self.pad_to_multiple_of is not None:
            return [list(range(len(columns["turn_ids"])))]
        old_logps = columns.get("old_per_token_logps") is not None
        packs = why_not_packed(model, self.accelerator.autocast, old_logps=old_logps) is None
        return cheapest_forwards(columns, self.model.config, price=forward_price(self.model), packs=packs)

    def _read_rows(self, model: Any, columns: dict[str, Any], rows: list[int], cache: Any = None) -> UpdateReading:
        if len(rows) < len(columns["turn_ids"]):
            columns = trim_padding(take_rows(columns, rows), self.pad_to_multiple_of)
        written = columns["turn_ids"] >= 0
        return read_update(model, columns, written, self.accelerator.autocast, cache=cache, **self._packing)

    # --- gains from the update's own forward ---------------------------------------------------------------------

    def _read_and_give(
        self, gain: UpdateGain, model: Any, columns: dict[str, Any]
    ) -> tuple[UpdateReading, dict[str, Tensor]]:
        """Read a micro-batch of whole groups, and its gains from the keys that this leaves; return also its credit."""
        first, n_rows = int(columns[LOGGED_ROW][0]), len(columns[LOGGED_ROW])
        part = gain.batch.rows(range(first, first + n_rows))
        forwards, readings, likelihoods = self._forwards(model, columns), [], []
        for rows in forwards:
            cache = full_key_cache(self.model.config)
            readings.append(self._read_rows(model, columns, rows, cache))
            with self._clock.measure(self._mode, "gain"):
                likelihoods.append(self._scoring.score_from(cache, part.rows(rows), self.model))
        reading, likelihood = join_readings(readings, forwards), join_rows(likelihoods, forwards)
        with self._clock.measure(self._mode, "gain"):
            return reading, self._give_credit(gain, columns, gain.give(first, part, self._signals(part, likelihood)))

    def _give_credit(self, gain: UpdateGain, columns: dict[str, Any], inputs: LossInputs) -> dict[str, Tensor]:
        """Return what was given to a micro-batch as its columns; behind the last one log the batch's credit."""
        if (credit := gain.credit) is not None:
            self._update_gain = None
            lines = self._log_credit(gain.batch, credit, TurnSignals(credit.likelihood))
            self._first_line = 0 if lines is None else lines.start
        given = inputs.over_tokens(columns[TOKENS_COLUMN]).columns()
        n_columns = columns["turn_ids"].size(1)
        return {name: value[:, :n_columns] if value.dim() > 1 else value for name, value in given.items()}

    def _log_means(self, values: dict[str, Tensor]) -> None:
        """Log means over processes, or the least and the largest, fetched from the device together."""
        gathered = self.accelerator.gather(torch.stack(list(values.values())).detach()[None])
        for name, of_processes in zip(values, gathered.T.tolist(), strict=True):
            reduce = min if name.endswith("_min") else max if name.endswith("_max") else fmean
            self._metrics[self._mode][name].append(reduce(of_processes))

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self._clock.measure(self._mode, None):
            buffered, self._feeds_update = self._buffered_inputs, self.model.training
            try:
                prepared = super()._prepare_inputs(generation_batch)
            finally:
                self._feeds_update = False
            if self.model.training and self._buffered_inputs is not buffered:
                if self._update_gain is not None:
                    fresh = in_order(self._buffered_inputs, LOGGED_ROW)
                else:
                    old_logps = self._buffered_inputs[0].get("old_per_token_logps") is not None
                    obstacle = why_not_packed(
                        self.model, self.accelerator.autocast, old_logps=old_logps, **self._packing
                    )
                    fresh = cheapest_order(
                        self._buffered_inputs, self._window, self.model.config, packs=obstacle is None
                    )
                self._buffered_inputs = count_tokens_by_update(fresh, self._window, self.collective)
                prepared = self._buffered_inputs[self._step % self.args.steps_per_generation]
            return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._clock.measure(self._mode, "update"):
            loss = super().training_step(*args, **kwargs)
        if self._rollout_log is not None and self._update_gain is None:
            # Behind the backward pass, so that it does not wait for the host, and behind the rollouts' own lines.
            for rows, *found in self._to_log:
                self._rollout_log.write_updates(rows + self._first_line, *found)
            self._to_log, self._first_line = [], 0
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the seconds of each part since the last time, summed over its calls."""
        mode = self._mode
        self._metrics[mode].update(self._clock.take(mode))
        super().log(logs, start_time)
