"""Ask `a2tgpo.core` again for the parts of each advantage, and check them against the advantage that was logged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2tgpo.core import accumulate, normalize_outcome, normalize_turn_groups
from a2tgpo.core.groups import Baseline, Pool, Std, compared_turns
from a2tgpo.core.turn_group import TurnGroupCredit
from a2tgpo.methods import METHODS
from a2tgpo.report.logged_rollout import Batch, Terms
from a2tgpo.report.run_data import RunData

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CreditSettings:
    """Hold what credit depends on: the recipe's keys, and the method's own values where a recipe says nothing."""

    gamma: float
    alpha: float
    rescale: bool
    std: Std
    baseline: Baseline = "survivors"
    pool: Pool = "turn"
    std_floor: float = 1e-6

    @classmethod
    def of(cls, config: dict[str, Any]) -> CreditSettings:
        method = METHODS.get(str(config.get("method") or "a2tgpo"))
        credit = method.credit if method else None
        rule = credit if isinstance(credit, TurnGroupCredit) else TurnGroupCredit()

        def number(key: str, name: str) -> float:
            value = config.get(key)
            return float(value if isinstance(value, int | float) else getattr(credit, name, 1.0))

        return cls(
            gamma=number("turn_gamma", "gamma"),
            alpha=number("gain_alpha", "alpha"),
            rescale=bool(getattr(credit, "rescale", True)),
            std=getattr(credit, "std", "population"),
            baseline=config.get("turn_baseline") or rule.baseline,
            pool=rule.pool,
            std_floor=number("std_floor", "std_floor") if credit is rule else rule.std_floor,
        )


def add_terms(run: RunData) -> None:
    """Set `terms` on the rollouts of `run` whose logged advantage they explain; say how many they do not.

    Another credit rule, or a batch that is not whole yet, is shown without terms and not with wrong ones.
    """
    settings = CreditSettings.of(run.config)
    if 0 <= settings.gamma <= 1:
        for batch in run.batches:
            _add_to(batch, settings)
    unexplained = sum(rollout.terms is None for batch in run.batches for rollout in batch.rollouts)
    if unexplained:
        run.notices.append(
            f"{unexplained} of {run.n_rollouts} rollouts have an advantage that their logged gains and rewards do not "
            "give (a batch cut off, or another credit rule): their accumulated and outcome terms are left out"
        )


def _add_to(batch: Batch, settings: CreditSettings) -> None:
    rollouts = batch.rollouts
    width = max(1, *(max(len(rollout.advantage), rollout.n_process) for rollout in rollouts))
    number = {group: i for i, group in enumerate(dict.fromkeys(rollout.group for rollout in rollouts))}
    group = torch.tensor([number[rollout.group] for rollout in rollouts])
    rewards = [float("nan") if rollout.reward is None else rollout.reward for rollout in rollouts]
    valid = torch.tensor([r.valid and math.isfinite(reward) for r, reward in zip(rollouts, rewards, strict=True)])
    is_process = torch.arange(width) < torch.tensor([[rollout.n_process] for rollout in rollouts])
    normalized, compared = _padded([rollout.normalized_gain for rollout in rollouts], width), is_process
    if settings.baseline != "survivors":  # the sums go on beside a rollout's own turns, where nothing is logged
        counted = is_process & valid[:, None]
        is_turn = torch.arange(width) < torch.tensor([[len(rollout.advantage)] for rollout in rollouts])
        normalized = normalize_turn_groups(
            _padded([rollout.gain for rollout in rollouts], width),
            counted,
            group,
            pool=settings.pool,
            baseline=settings.baseline,
            eps=settings.std_floor,
            valid=valid,
            is_turn=is_turn,
        )
        compared = compared_turns(counted, group, valid, settings.baseline, is_turn)
    credited = is_process | compared
    process = accumulate(normalized, credited, gamma=settings.gamma, rescale=settings.rescale, counted=compared)
    outcome = normalize_outcome(torch.tensor(rewards, dtype=torch.float64), group, valid=valid, std=settings.std)
    expected = settings.alpha * process + outcome[:, None]
    for i, rollout in enumerate(rollouts):
        n_turns = len(rollout.advantage)
        logged = torch.tensor(rollout.advantage, dtype=torch.float64)
        if not rollout.valid or torch.allclose(expected[i, :n_turns], logged, atol=_TOLERANCE):
            n_credited = int(credited[i, : max(n_turns, rollout.n_process)].sum())
            rollout.terms = Terms(process[i, :n_credited].tolist(), outcome[i].item())


def _padded(values: list[list[float]], width: int) -> Tensor:
    padded = torch.zeros(len(values), width, dtype=torch.float64)
    for i, of_turns in enumerate(values):
        padded[i, : len(of_turns)] = torch.tensor(of_turns, dtype=torch.float64)
    return padded
