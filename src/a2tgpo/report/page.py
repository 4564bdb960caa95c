"""Render runs as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import a2tgpo
from a2tgpo.report.figures import SECTIONS, figures_of
from a2tgpo.report.logged_rollout import Batch
from a2tgpo.report.pack import DISAGREE, Blocks, pack_evaluation, pack_rollouts
from a2tgpo.report.run_data import RunData
from a2tgpo.report.series import arms_of

TEXT_BYTES = 7_000_000
"""Most that the packed texts of a page may take, so that it opens at once and travels by mail."""

_STYLES = ("uplot/uPlot.min", "base", "run", "explorer", "evaluation", "narrow")
_SCRIPTS = (
    *("dom", "data", "charts", "bars", "run", "explorer", "list", "rollout", "tokens", "group", "evaluation"),
    "main",  # the others define, this one runs
)


def render_page(runs: list[RunData], max_rollouts: int) -> str:
    """Render the page of `runs`, with `max_rollouts` rollouts at most to read; figures use all of them."""
    arms = arms_of(runs)
    blocks = Blocks()
    evaluations = _evaluations(runs, blocks)
    steps = _rollouts(runs, max_rollouts, TEXT_BYTES - blocks.size, blocks)
    report = {
        "disagree": DISAGREE,
        "arms": [{"name": arm.name, "runs": [run.name for run in arm.runs]} for arm in arms],
        "runs": [_run(*parts) for parts in zip(runs, evaluations, steps, strict=True)],
        "sections": list(SECTIONS.items()),
        "figures": [asdict(figure) for figure in figures_of(arms)],
    }
    blocks.add("report", report)
    environment = Environment(
        loader=PackageLoader("a2tgpo.report", "assets"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title=", ".join(run.name for run in runs),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=a2tgpo.__version__,
        style="\n".join(_asset(f"{name}.css") for name in _STYLES),
        library=_asset("uplot/uPlot.iife.min.js"),
        script="\n".join(_asset(f"{name}.js") for name in _SCRIPTS),
        blocks=blocks.packed,
    )


def _asset(name: str) -> str:
    return files("a2tgpo.report").joinpath("assets", name).read_text(encoding="utf-8")


def _evaluations(runs: list[RunData], blocks: Blocks) -> list[dict[str, Any]]:
    """Pack every evaluation; without the texts of the rollouts where these would take half the page."""
    for texts in (True, False):
        packed = Blocks()
        summaries = [
            {
                name: pack_evaluation(outcomes, f"evaluation-{number}-{name}", packed, texts=texts)
                for name, outcomes in run.evaluations.items()
            }
            for number, run in enumerate(runs)
        ]
        if packed.size <= TEXT_BYTES // 2:
            break
    blocks.packed |= packed.packed
    return summaries


def _rollouts(runs: list[RunData], max_rollouts: int, budget: int, blocks: Blocks) -> list[list[int]]:
    """Pack as many rollouts as `max_rollouts` and `budget` bytes admit; return the steps chosen of each run."""
    limit = max_rollouts
    while True:
        packed = Blocks()
        chosen = [choose(run.batches, limit // len(runs)) for run in runs]
        for number, (run, batches) in enumerate(zip(runs, chosen, strict=True)):
            pack_rollouts(run, number, batches, packed)
        if packed.size <= budget or limit <= len(runs):
            break
        limit = min(limit, sum(run.n_rollouts for run in runs)) * budget * 9 // (packed.size * 10)
    blocks.packed |= packed.packed
    return [[batch.step for batch in batches] for batches in chosen]


def choose(batches: list[Batch], limit: int) -> list[Batch]:
    """Choose whole batches, evenly over the run, of `limit` rollouts at most; of a larger batch, whole groups."""
    for count in range(len(batches), 1, -1):
        chosen = [batches[round(i * (len(batches) - 1) / (count - 1))] for i in range(count)]
        if sum(len(batch.rollouts) for batch in chosen) <= limit:
            return chosen
    return [_first_groups(batches[-1], limit)] if batches else []


def _first_groups(batch: Batch, limit: int) -> Batch:
    cut = len(batch.rollouts)
    while cut > limit:
        group = batch.rollouts[cut - 1].group
        cut = next(i for i, rollout in enumerate(batch.rollouts) if rollout.group == group)
    return Batch(batch.step, batch.rollouts[:cut])


def _run(run: RunData, evaluations: dict[str, Any], steps: list[int]) -> dict[str, Any]:
    return {
        "name": run.name,
        "finished": run.finished,
        "step": max([0, *(row["step"] for row in run.metrics)]),
        "max_steps": run.config.get("max_steps"),
        "model": str(run.config.get("model_name_or_path", "")),
        "seed": run.config.get("seed"),
        "n_rollouts": run.n_rollouts,
        "n_batches": len(run.batches),
        "steps": steps,
        "has_tokens": run.token_texts is not None,
        "notices": run.notices,
        "config": run.config,
        "evaluations": evaluations,
    }
