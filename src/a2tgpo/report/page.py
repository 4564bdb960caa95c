"""Render runs as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import a2tgpo
from a2tgpo.report.figures import SECTIONS, figures_of
from a2tgpo.report.health import Finding, endings, findings
from a2tgpo.report.logged_rollout import ENDED_WELL, Batch
from a2tgpo.report.opening import choose_opening
from a2tgpo.report.pack import DISAGREE, Blocks, flips, pack_evaluation, pack_rollouts, plain
from a2tgpo.report.run_data import RunData
from a2tgpo.report.series import arms_of
from a2tgpo.report.step_figures import every_metric
from a2tgpo.report.turn_groups import NOISE, normalises_in_turn_groups

TEXT_BYTES = 7_000_000
"""Most that the packed texts of a page may take, so that it opens at once and travels by mail."""

_STYLES = ("uplot/uPlot.min", "base", "run", "explorer", "trace", "evaluation", "narrow")
_SCRIPTS = (
    *("dom", "characters", "data", "charts", "boxes", "bars", "metrics", "start", "run", "filters", "explorer", "list"),
    *("trace", "turns", "record", "rollout", "tokens", "group", "pair", "evaluation"),
)
_LAST = "main"  # the others define, this one runs


def render_page(runs: list[RunData], max_rollouts: int, *, stamp: str | None = None) -> str:
    """Render the page of `runs`, with `max_rollouts` rollouts at most to read; figures use all of them.

    A page with a `stamp` asks the server it came from whether there is a newer one.
    """
    arms = arms_of(runs)
    blocks = Blocks()
    evaluations = _evaluations(runs, blocks)
    shown = _rollouts(runs, max_rollouts, TEXT_BYTES - blocks.size, blocks)
    blocks.add("metrics", {name: [asdict(line) for line in lines] for name, lines in every_metric(arms).items()})
    report = {
        "disagree": DISAGREE,
        "noise": NOISE,
        "ended_well": ENDED_WELL,
        "arms": [{"name": arm.name, "runs": [run.name for run in arm.runs]} for arm in arms],
        "runs": [_run(*parts) for parts in zip(runs, evaluations, shown, strict=True)],
        "flips": _flips(runs),
        "sections": list(SECTIONS.items()),
        "figures": [asdict(figure) for figure in figures_of(arms)],
    }
    blocks.add("report", report)
    environment = Environment(
        loader=PackageLoader("a2tgpo.report", "assets"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title=plain(", ".join(run.name for run in runs)),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=a2tgpo.__version__,
        stamp=stamp,
        style="\n".join(_asset(f"{name}.css") for name in _STYLES),
        library=_asset("uplot/uPlot.iife.min.js"),
        script="\n".join(_asset(f"{name}.js") for name in (*_SCRIPTS, *(["watch"] if stamp else []), _LAST)),
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


def _flips(runs: list[RunData]) -> dict[str, Any]:
    """Compare every two evaluations of the page, by their keys there."""
    every = {
        f"{number}.{name}": outcomes for number, run in enumerate(runs) for name, outcomes in run.evaluations.items()
    }
    return {f"{a}/{b}": flips(every[a], every[b]) for i, a in enumerate(every) for j, b in enumerate(every) if i != j}


def _rollouts(runs: list[RunData], max_rollouts: int, budget: int, blocks: Blocks) -> list[list[Batch]]:
    """Pack as many rollouts as `max_rollouts` and `budget` bytes admit; return the batches chosen of each run."""
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
    return chosen


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


def _run(run: RunData, evaluations: dict[str, Any], shown: list[Batch]) -> dict[str, Any]:
    n_shown = sum(len(batch.rollouts) for batch in shown)
    found = [*findings(run)]
    if n_shown < run.n_rollouts:
        text = (
            f"this page holds {n_shown:,} of the {run.n_rollouts:,} rollouts made ({len(shown)} of {len(run.batches)} "
            "batches, evenly over the run; --max_rollouts asks for more); figures use all of them"
        )
        found.append(Finding("note", text))
    opening = choose_opening(shown)
    rollouts = [rollout for batch in run.batches for rollout in batch.rollouts]
    return {
        "name": run.name,
        "finished": run.finished,
        "step": run.step,
        "max_steps": run.config.get("max_steps"),
        "model": str(run.config.get("model_name_or_path") or ""),
        "method": str(run.config.get("method") or "a2tgpo") if run.config else "",
        "seed": run.config.get("seed"),
        "n_rollouts": run.n_rollouts,
        "n_shown": n_shown,
        "n_batches": len(run.batches),
        "steps": [batch.step for batch in shown],
        "has_tokens": run.token_texts is not None,
        "signal": run.signal,
        "in_logarithms": run.in_logarithms,
        "turn_groups": normalises_in_turn_groups(run),
        "gold": any(rollout.answer for rollout in rollouts),
        "findings": [asdict(finding) for finding in found],
        "endings": endings(run),
        "opening": asdict(opening) if opening else None,
        "config": run.config,
        "evaluations": evaluations,
    }
