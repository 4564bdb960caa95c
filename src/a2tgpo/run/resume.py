"""Go on with a run that stopped: the same recipe, the last whole checkpoint, and no record of what is done again."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from a2tgpo import processes
from a2tgpo.errors import RecipeError
from a2tgpo.files import UNFINISHED, new_file
from a2tgpo.redact import redact_settings
from a2tgpo.run.checkpoints import checkpoints_in, fault_of, last_whole, remove_checkpoint, step_of
from a2tgpo.run.recipe_file import load_recipe

if TYPE_CHECKING:
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe import RunConfig

MAY_CHANGE = (
    *("output_dir", "resume_from_checkpoint", "max_steps", "save_steps", "save_total_limit", "logging_steps"),
    *("report_to", "run_name", "retriever", "search_timeout_s", "search_cache", "disable_tqdm"),
    *("push_to_hub", "hub_model_id", "hub_token", "env"),
)
"""Keys that may differ when a run goes on: where it stands, how long it lasts, what it tells whom, and addresses."""

_LOG = re.compile(r"(step|updates)_(\d+)\b.*\.jsonl")


def check_same_recipe(directory: RunDirectory, config: RunConfig) -> None:
    """Refuse to go on with a run under another recipe.

    Raises:
        RecipeError: there is no run, or its recipe differs in keys other than `MAY_CHANGE`; each is named with both
            values.
    """
    directory.check_begun()
    began = yaml.safe_load(directory.config.read_text(encoding="utf-8"))
    now = redact_settings(config.given)
    keys = sorted({*began, *now} - {*MAY_CHANGE})
    if all(began.get(key) == now.get(key) for key in keys):
        return
    environment = dict(os.environ)
    try:
        # An absent key and its default, 1e-4 and '1e-4' are one value.
        then = load_recipe(str(directory.config), to_run=False)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    told = []
    for key in keys:
        old, new = (redact_settings({key: run.value(key)})[key] for run in (then, config))
        if old != new:
            told.append(f"{key} was {old!r} and is {new!r}")
    if told:
        raise RecipeError(
            f"output_dir={str(directory.root)!r} holds a run of another recipe: {'; '.join(told)}. Give what it began "
            f"with, or another --output_dir; only {', '.join(MAY_CHANGE)} may change"
        )


def check_same_processes(directory: RunDirectory) -> None:
    """Refuse to go on with a run in another number of processes, whose batches would be others.

    Raises:
        RecipeError: there is no run, or others made it.
    """
    directory.check_begun()
    began = yaml.safe_load(directory.config.read_text(encoding="utf-8")).get("processes") or 1
    if began != processes.size():
        raise RecipeError(
            f"output_dir={str(directory.root)!r} holds a run of {began} processes, and {processes.size()} started: its "
            f"batches would be others; launch {began}, or give another --output_dir"
        )


@dataclass(frozen=True)
class ResumePoint:
    """Say where a run goes on: after `step` updates, from `checkpoint`, or from the start where that is None.

    Attributes:
        faults: why newer checkpoints were passed over, a sentence each.
        extends: the run has ended, and more updates are wanted now.
    """

    checkpoint: Path | None = None
    step: int = 0
    faults: tuple[str, ...] = ()
    extends: bool = False

    def is_last(self, max_steps: int) -> bool:
        """Tell whether no update is left to make; `max_steps` below 1 means as many as the checkpoint says."""
        if self.checkpoint is None:
            return False
        state = json.loads((self.checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return self.step >= (max_steps if max_steps > 0 else state["max_steps"])


def find_resume_point(directory: RunDirectory, config: RunConfig) -> ResumePoint:
    """Return the last whole checkpoint of the run, or the one that the recipe names.

    Raises:
        RecipeError: the named checkpoint is missing or torn; or the run has ended, more updates are wanted, and no
            checkpoint is left to make them from.
    """
    if not config.resumes:
        return ResumePoint()
    extends = directory.model.exists() and config.training.max_steps > _max_steps(directory) > 0
    wanted = str(config.training.resume_from_checkpoint)
    if wanted.lower() == "true":
        checkpoint, faults = last_whole(directory.checkpoints)
        if checkpoint is None and extends:
            raise RecipeError(
                f"max_steps={config.training.max_steps}: the run ended after {_max_steps(directory)} updates and no "
                "checkpoint of it is left to go on from; begin a new run with its model as model_name_or_path"
            )
        return ResumePoint(checkpoint, step_of(checkpoint) if checkpoint else 0, tuple(faults), extends)
    named = Path(wanted)
    fault = fault_of(named) if named.is_dir() and named.name.rpartition("-")[2].isdigit() else "no such checkpoint"
    if fault is not None:
        raise RecipeError(f"resume_from_checkpoint={wanted!r}: {fault}; true takes the last whole one of the run")
    return ResumePoint(named, step_of(named), (), extends)


def _max_steps(directory: RunDirectory) -> int:
    return int(yaml.safe_load(directory.config.read_text(encoding="utf-8")).get("max_steps", -1))


def cut_back(directory: RunDirectory, step: int) -> None:
    """Drop every record of updates after `step`, which the run makes again: metrics, rollouts, updates, checkpoints.

    A batch generated before `step` keeps its rollouts and the updates made of it up to there; its rest was given up.
    """
    _keep_lines(directory.metrics, step)
    for path in sorted(directory.rollouts.glob("*.jsonl")):
        if match := _LOG.fullmatch(path.name):
            if int(match[2]) >= step:
                path.unlink()
            elif match[1] == "updates":
                _keep_lines(path, step)
    for checkpoint in checkpoints_in(directory.checkpoints):
        if step_of(checkpoint) > step:
            remove_checkpoint(checkpoint)
    for path in directory.evaluation("checkpoint").parent.glob("checkpoint-*_greedy.jsonl"):
        if step_of(Path(path.name.removesuffix("_greedy.jsonl"))) > step:
            path.unlink()
    for remains in directory.checkpoints.glob(f"{UNFINISHED}*"):
        shutil.rmtree(remains, ignore_errors=True)


def withdraw_result(directory: RunDirectory) -> None:
    """Take back what a finished run says of its end, because it goes on: the table first, for it says `finished`."""
    for path in (directory.summary, directory.summary.with_suffix(".md"), directory.best_checkpoint):
        path.unlink(missing_ok=True)
    for path in directory.evaluation("after").parent.glob("after_*.jsonl"):
        path.unlink()
    if directory.model.exists():
        remove_checkpoint(directory.model)


def _keep_lines(path: Path, step: int) -> None:
    """Rewrite a JSONL file without lines of later steps, and without a last line that was cut off."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _step(line) <= step]
    if kept != lines:
        with new_file(path) as unfinished:
            unfinished.write_bytes(b"".join(kept))


def _step(line: bytes) -> Any:
    """Return the step of a record; one that cannot be read counts as later than all."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
