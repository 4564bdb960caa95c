"""Collect every figure of the page, in order; exports and page draw the same numbers."""

from __future__ import annotations

from a2tgpo.report.series import Arm, Figure
from a2tgpo.report.step_figures import LOGGED, by_hops, envelope, lengths, logged, per_batch, rewards, step_time
from a2tgpo.report.turn_figures import BY_TURN, by_turn, similarity, tool_calls

SECTIONS = {
    "Outcome": ("reward", "exact_match", "solved", "likelihood", "searches", "format", "length"),
    "Depth": ("right_by_hops", "searches_by_hops"),
    "Credit": ("gain_raw", "gain_normalized", "gain_accumulated", "advantage", "similarity"),
    "Update": ("entropy", "clipped", "kl", "grad_norm", "step_time"),
}
"""Figures by id, in the order of the page."""


def figures_of(arms: list[Arm]) -> list[Figure]:
    """Return every figure that has data, in the order of `SECTIONS`."""
    figures = [
        rewards(arms),
        *(logged(arms, *row) for row in LOGGED if row[0] != "format" or _answers(arms)),
        per_batch(
            arms,
            "exact_match",
            "Exact match in training",
            "Share of the batch's rollouts whose answer matches a gold alias after SQuAD normalisation; questions "
            "without a gold answer are left out.",
            "share of rollouts",
            lambda rollout: float(rollout.correct) if rollout.measure == "exact_match" else None,
        ),
        per_batch(
            arms,
            "solved",
            "Episodes solved in training",
            "Share of the batch's episodes that the environment calls solved.",
            "share of rollouts",
            lambda rollout: None if rollout.success is None else float(rollout.success),
        ),
        lengths(arms),
        by_hops(
            arms,
            "right_by_hops",
            "Right answers by hops",
            "Exact match, or episodes solved, in training by how many facts the answer rests on.",
            "share of rollouts",
            lambda rollout: None if rollout.measure == "reward" else float(rollout.correct),
        ),
        by_hops(
            arms,
            "searches_by_hops",
            "Tool calls by hops",
            "Mean number of tool calls by how many facts the answer rests on: a policy that becomes shallow makes "
            "fewer where more are needed.",
            "tool calls",
            lambda rollout: float(len(rollout.calls)),
        ),
        tool_calls(arms),
        envelope(arms),
        *(by_turn(arms, *row) for row in BY_TURN),
        step_time(arms),
        similarity(arms),
    ]
    drawn = {figure.id: figure for figure in figures if figure.series}
    return [drawn[id] for ids in SECTIONS.values() for id in ids if id in drawn]


def _answers(arms: list[Arm]) -> bool:
    """Tell whether a form is to be kept: not where environments end all episodes and nobody answers."""
    endings = {rollout.termination for arm in arms for run in arm.runs for b in run.batches for rollout in b.rollouts}
    return "answered" in endings or "environment_done" not in endings
