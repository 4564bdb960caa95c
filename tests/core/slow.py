"""The equations once more: one rollout, one turn, one token at a time, in plain Python lists and loops.

Written from the equations alone and sharing nothing with `a2tgpo.core`, so that an error has to be made twice
to go unseen.
"""

import math
from dataclasses import dataclass, replace

EPS = 1e-6


@dataclass(frozen=True)
class Rollout:
    """One rollout: a gain for every turn, None where the turn is not a process turn."""

    prompt: int
    gains: tuple[float | None, ...]
    outcome: float
    lengths: tuple[int, ...] = ()
    gaps: tuple[int, ...] = ()
    valid: bool = True
    counted: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.counted:
            object.__setattr__(self, "counted", (True,) * len(self.gains))

    def has_gain(self, turn: int) -> bool:
        return turn < len(self.gains) and self.gains[turn] is not None and self.counted[turn] and self.valid

    def last_gain(self) -> int:
        return max((turn for turn in range(len(self.gains)) if self.has_gain(turn)), default=-1)

    def but(self, **changes) -> "Rollout":
        return replace(self, **changes)


def mean_and_std(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def turn_group(rollouts: list[Rollout], prompt: int, turn: int, baseline: str) -> list[float]:
    """The gains that the gain of `turn` is compared with."""
    peers = [r for r in rollouts if r.prompt == prompt and r.valid]
    if not any(r.has_gain(turn) for r in peers):
        return []
    group = [r.gains[turn] for r in peers if r.has_gain(turn)]
    if baseline == "absorbing":
        group += [0.0 for r in peers if turn > r.last_gain()]
    return group


def normalized_gains(rollouts, pool="turn", baseline="survivors") -> list[list[float]]:
    deepest = max(len(r.gains) for r in rollouts)
    result = []
    for rollout in rollouts:
        row = []
        for turn in range(len(rollout.gains)):
            depths = [turn] if pool == "turn" else range(deepest)
            group = [g for depth in depths for g in turn_group(rollouts, rollout.prompt, depth, baseline)]
            if not rollout.has_gain(turn) or len(group) <= 1:
                row.append(0.0)
            else:
                mean, std = mean_and_std(group)
                row.append((rollout.gains[turn] - mean) / (std + EPS))
        result.append(row)
    return result


def normalized_outcomes(rollouts) -> list[float]:
    result = []
    for rollout in rollouts:
        group = [r.outcome for r in rollouts if r.prompt == rollout.prompt and r.valid]
        if not rollout.valid or len(group) <= 1:
            result.append(0.0)
        else:
            mean, std = mean_and_std(group)
            result.append((rollout.outcome - mean) / (std + EPS))
    return result


def process_credit(rollout, normalized, turn, gamma=1.0, rescale=True) -> float:
    terms = [gamma ** (k - turn) * normalized[k] for k in range(turn, len(normalized)) if rollout.has_gain(k)]
    if not terms:
        return 0.0
    return math.fsum(terms) / (math.sqrt(len(terms)) if rescale else 1.0)


def advantages(rollouts, gamma=1.0, alpha=1.0, rescale=True, pool="turn", baseline="survivors") -> list[list[float]]:
    gains = normalized_gains(rollouts, pool, baseline)
    outcomes = normalized_outcomes(rollouts)
    result = []
    for rollout, normalized, outcome in zip(rollouts, gains, outcomes, strict=True):
        row = []
        for turn, gain in enumerate(rollout.gains):
            if not rollout.valid:
                row.append(0.0)
            elif gain is None:
                row.append(outcome)
            else:
                row.append(alpha * process_credit(rollout, normalized, turn, gamma, rescale) + outcome)
        result.append(row)
    return result


def clip_scales(rollouts, beta=0.3, pool="turn", baseline="survivors") -> list[list[float]]:
    def scale(rollout, turn, normalized):
        if not rollout.has_gain(turn):
            return 1.0
        return 1 + beta * (2 / (1 + math.exp(-normalized)) - 1)

    gains = normalized_gains(rollouts, pool, baseline)
    return [
        [scale(rollout, turn, value) for turn, value in enumerate(row)]
        for rollout, row in zip(rollouts, gains, strict=True)
    ]


def ratio(logp, old_logp, turns, token, level) -> float:
    """The importance ratio at one model token of one rollout."""
    same = {
        "token": [token],
        "turn": [j for j, turn in enumerate(turns) if turn == turns[token]],
        "sequence": [j for j, turn in enumerate(turns) if turn >= 0],
    }[level]
    return math.exp(math.fsum(logp[j] - old_logp[j] for j in same) / len(same))


def loss(
    logp,
    old_logp,
    turn_ids,
    advantage,
    clip_scale,
    level="turn",
    eps_low=3e-3,
    eps_high=4e-3,
    aggregate="rollout",
) -> float:
    rollout_sums, token_counts = [], []
    for new, old, turns, values, scales in zip(logp, old_logp, turn_ids, advantage, clip_scale, strict=True):
        total, count = 0.0, 0
        for token, turn in enumerate(turns):
            if turn < 0:
                continue
            s = ratio(new, old, turns, token, level)
            clipped = min(max(s, 1 - scales[turn] * eps_low), 1 + scales[turn] * eps_high)
            total += min(s * values[turn], clipped * values[turn])
            count += 1
        rollout_sums.append(total)
        token_counts.append(count)
    if aggregate == "token":
        return -sum(rollout_sums) / max(sum(token_counts), 1)
    means = [total / max(count, 1) for total, count in zip(rollout_sums, token_counts, strict=True)]
    return -sum(means) / len(means)
