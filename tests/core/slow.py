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


def mean_and_std(values: list[float], lost: int = 0) -> tuple[float, float]:
    """With `lost` = 1 the standard deviation of a sample, else the population's."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - lost))


def gain_at(rollouts: list[Rollout], rollout: Rollout, turn: int, baseline: str) -> float | None:
    """What a rollout brings to the comparison at one depth; None if it takes no part there."""
    if rollout.has_gain(turn):
        return rollout.gains[turn]
    reached = any(r.has_gain(turn) for r in rollouts if r.prompt == rollout.prompt)
    if baseline == "absorbing" and rollout.valid and turn > rollout.last_gain() and reached:
        return 0.0
    stops = turn == rollout.last_gain() + 1 and turn < len(rollout.gains)
    if baseline == "active" and rollout.valid and stops and reached:
        return 0.0
    return None


def scores(rollouts, pool="turn", baseline="survivors", eps=EPS) -> list[list[float | None]]:
    """The normalised gain of each rollout at each depth of the batch; None where it takes no part."""
    deepest = max(len(r.gains) for r in rollouts)
    result = []
    for rollout in rollouts:
        row = []
        for turn in range(deepest):
            value = gain_at(rollouts, rollout, turn, baseline)
            depths = [turn] if pool == "turn" else range(deepest)
            peers = [r for r in rollouts if r.prompt == rollout.prompt]
            group = [gain_at(rollouts, r, depth, baseline) for r in peers for depth in depths]
            group = [gain for gain in group if gain is not None]
            if value is None:
                row.append(None)
            elif len(group) <= 1:
                row.append(0.0)
            else:
                mean, std = mean_and_std(group)
                row.append((value - mean) / (std + eps))
        result.append(row)
    return result


def normalized_gains(rollouts, pool="turn", baseline="survivors", eps=EPS) -> list[list[float]]:
    return [
        [row[turn] if rollout.has_gain(turn) else 0.0 for turn in range(len(rollout.gains))]
        for rollout, row in zip(rollouts, scores(rollouts, pool, baseline, eps), strict=True)
    ]


def normalized_outcomes(rollouts, lost: int = 0) -> list[float]:
    result = []
    for rollout in rollouts:
        group = [r.outcome for r in rollouts if r.prompt == rollout.prompt and r.valid]
        if not rollout.valid or len(group) <= 1:
            result.append(0.0)
        else:
            mean, std = mean_and_std(group, lost)
            result.append((rollout.outcome - mean) / (std + EPS))
    return result


def discounted(row: list[float | None], turn: int, gamma=1.0, rescale=False) -> float:
    """The discounted sum of what a row holds from `turn` on, over the root of the number of terms if asked."""
    terms = [gamma ** (k - turn) * row[k] for k in range(turn, len(row)) if row[k] is not None]
    if not terms:
        return 0.0
    return math.fsum(terms) / (math.sqrt(len(terms)) if rescale else 1.0)


def advantages(
    rollouts, gamma=1.0, alpha=1.0, rescale=True, pool="turn", baseline="survivors", eps=EPS
) -> list[list[float]]:
    result = []
    rows = zip(rollouts, scores(rollouts, pool, baseline, eps), normalized_outcomes(rollouts), strict=True)
    for rollout, row, outcome in rows:
        advantage = []
        for turn, gain in enumerate(rollout.gains):
            credited = gain is not None or row[turn] is not None
            process = discounted(row, turn, gamma, rescale) if credited else 0.0
            advantage.append(alpha * process + outcome if rollout.valid else 0.0)
        result.append(advantage)
    return result


def clip_scales(rollouts, beta=0.3, pool="turn", baseline="survivors", eps=EPS) -> list[list[float]]:
    def scale(rollout, turn, normalized):
        if not rollout.has_gain(turn):
            return 1.0
        return 1 + beta * (2 / (1 + math.exp(-normalized)) - 1)

    gains = normalized_gains(rollouts, pool, baseline, eps)
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


def clip_gradient(s, value, low, high, upper="clip", dual_clip=None) -> float:
    """The derivative of the clipped objective by log s, over the advantage: AEPO's F, or PPO's with 0 at the top."""
    if s > high and value > 0:
        return high if upper == "keep_gradient" else 0.0
    if s < low and value < 0:
        return 0.0
    if dual_clip is not None and s > dual_clip and value < 0:
        return 0.0
    return s


def loss_and_gradient(
    logp,
    old_logp,
    turn_ids,
    advantage,
    clip_scale,
    level="turn",
    eps_low=3e-3,
    eps_high=4e-3,
    aggregate="rollout",
    upper="clip",
    owned=None,
    token_weight=None,
    dual_clip=None,
) -> tuple[float, list[list[float]]]:
    """The loss, and its gradient by each log-probability from the chain rule."""
    sums, counts, gradients = [], [], []
    owned = [[True] * len(row) for row in advantage] if owned is None else owned
    token_weight = [[1.0] * len(row) for row in logp] if token_weight is None else token_weight
    rows = zip(logp, old_logp, turn_ids, advantage, clip_scale, owned, token_weight, strict=True)
    for new, old, turns, values, scales, mine, weights in rows:
        total, kept, gradient = 0.0, [j for j, turn in enumerate(turns) if turn >= 0 and mine[turn]], [0.0] * len(new)
        for token in kept:
            turn = turns[token]
            s, low, high = ratio(new, old, turns, token, level), 1 - scales[turn] * eps_low, 1 + scales[turn] * eps_high
            objective = min(s * values[turn], min(max(s, low), high) * values[turn])
            if dual_clip is not None and values[turn] < 0:
                objective = max(objective, dual_clip * values[turn])
            total += weights[token] * objective
            same = {
                "token": [token],
                "turn": [j for j, other in enumerate(turns) if other == turn],
                "sequence": [j for j, other in enumerate(turns) if other >= 0],
            }[level]
            for j in same:
                slope = clip_gradient(s, values[turn], low, high, upper, dual_clip) * values[turn]
                gradient[j] += weights[token] * slope / len(same)
        sums.append(total)
        counts.append(len(kept))
        gradients.append(gradient)
    if aggregate == "token":
        divisors = [max(sum(counts), 1)] * len(sums)
    else:
        divisors = [max(count, 1) * len(sums) for count in counts]
    value = -math.fsum(total / divisor for total, divisor in zip(sums, divisors, strict=True))
    return value, [[-x / divisor for x in row] for row, divisor in zip(gradients, divisors, strict=True)]
