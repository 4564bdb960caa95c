"""The other credit rules once more, like slow.py: plain loops written from the published equations alone."""

import math

from .slow import EPS, Rollout, discounted, mean_and_std, normalized_outcomes, scores


def z(value: float, group: list[float], divide: bool = True, lost: int = 0) -> float:
    if len(group) <= 1:
        return 0.0
    mean, std = mean_and_std(group, lost)
    return (value - mean) / (std + EPS) if divide else value - mean


def peers(rollouts: list[Rollout], rollout: Rollout) -> list[int]:
    return [i for i, r in enumerate(rollouts) if r.prompt == rollout.prompt and r.valid]


def per_turn(rollouts, value) -> list[list[float]]:
    """`value(i, t)` on the turns of rollouts to learn from, 0 on the others."""
    return [[value(i, t) if r.valid else 0.0 for t in range(len(r.gains))] for i, r in enumerate(rollouts)]


def outcome(rollouts, lost=0):
    reward = normalized_outcomes(rollouts, lost)
    return per_turn(rollouts, lambda i, t: reward[i])


def igpo(rollouts, norm, gamma):
    def value(i, t):
        me, total = rollouts[i], 0.0
        group = peers(rollouts, me)
        gains = [rollouts[j].gains[k] for j in group for k in range(len(rollouts[j].gains)) if rollouts[j].has_gain(k)]
        rewards = [rollouts[j].outcome for j in group]
        if norm == "joint":
            gains = rewards = gains + rewards
        for k in range(t, len(me.gains)):
            if me.has_gain(k):
                total += gamma ** (k - t) * z(me.gains[k], gains)
            if k == len(me.gains) - 1:
                total += gamma ** (k - t) * z(me.outcome, rewards)
        return total

    return per_turn(rollouts, value)


def returns(rollouts, alpha, gamma):
    reward = normalized_outcomes(rollouts)

    def value(i, t):
        me = rollouts[i]
        later = [gamma ** (k - t) * me.gains[k] for k in range(t, len(me.gains)) if me.has_gain(k)]
        return reward[i] + (alpha * sum(later) if me.has_gain(t) else 0.0)

    return per_turn(rollouts, value)


def gigpo(rollouts, states, weight, gamma, norm, lost=0):
    divide = norm == "std"

    def return_from(i, t):
        return gamma ** (len(rollouts[i].gains) - 1 - t) * rollouts[i].outcome

    def value(i, t):
        group = peers(rollouts, rollouts[i])
        episode = z(rollouts[i].outcome, [rollouts[j].outcome for j in group], divide, lost)
        if states[i][t] < 0:
            return episode
        same = [(j, k) for j in group for k in range(len(rollouts[j].gains)) if states[j][k] == states[i][t]]
        return episode + weight * z(return_from(i, t), [return_from(*step) for step in same], divide, lost)

    return per_turn(rollouts, value)


def mica(rollouts, weight, gamma):
    immediate, reward = scores(rollouts, pool="prompt"), normalized_outcomes(rollouts)
    kept = [[g if r.has_gain(t) else None for t, g in enumerate(r.gains)] for r in rollouts]
    returns = [
        r.but(gains=tuple(None if g is None else discounted(row, t, gamma) for t, g in enumerate(row)))
        for r, row in zip(rollouts, kept, strict=True)
    ]
    delayed = scores(returns, pool="turn")

    def value(i, t):
        if not rollouts[i].has_gain(t):
            return reward[i]
        return weight * delayed[i][t] + (1 - weight) * immediate[i][t]

    return per_turn(rollouts, value)


def tree(rollouts, trees, lost=0):
    def value(i, t):
        group = peers(rollouts, rollouts[i])
        leaves = [rollouts[j].outcome for j in group if trees[j] == trees[i]]
        return z(rollouts[i].outcome, leaves, True, lost) + z(
            rollouts[i].outcome, [rollouts[j].outcome for j in group], True, lost
        )

    return per_turn(rollouts, value)


def aepo(rollouts, entropies, weight, lost=0):
    reward = normalized_outcomes(rollouts, lost)
    every = [h for r, row in zip(rollouts, entropies, strict=True) if r.valid for h in row[: len(r.gains)]]
    return per_turn(rollouts, lambda i, t: reward[i] * (1 + weight * z(entropies[i][t], every)))


def release(rollouts, alpha, gamma, beta, first_gain):
    """Advantages and clip scales by the released code: gains of 0 do not exist, and the k-th gain is the k-th found."""
    found = [
        [(t, g) for t, g in enumerate(r.gains) if r.has_gain(t) and g != 0 and (t > 0 or first_gain)] for r in rollouts
    ]

    def score(value, group):
        mean, std = mean_and_std(group)
        return (value - mean) / (math.sqrt(std**2 + 1e-8) + EPS)

    advantages, scales = [], []
    for rollout, mine in zip(rollouts, found, strict=True):
        group = peers(rollouts, rollout)
        scored = [score(gain, [found[j][k][1] for j in group if k < len(found[j])]) for k, (_, gain) in enumerate(mine)]
        reward = score(rollout.outcome, [rollouts[j].outcome for j in group]) if rollout.valid else 0.0
        advantages.append([])
        scales.append([])
        for turn in range(len(rollout.gains)):
            later = [k for k, (t, _) in enumerate(mine) if t >= turn]
            rest = [gamma ** (k - later[0]) * scored[k] for k in later]
            process = alpha * math.fsum(rest) / math.sqrt(len(rest)) if rest else 0.0
            advantages[-1].append(process + reward if rollout.valid else 0.0)
            scales[-1].append(1 + beta * math.tanh(scored[later[0]] / 2) if later else 1.0)
    return advantages, scales


def count_once(rollouts, advantage, nodes):
    """Mean advantage of each shared turn on the rollouts through it, and which of these owns it."""
    means, owned = [], []
    for i, rollout in enumerate(rollouts):
        means.append([])
        owned.append([])
        for t, node in enumerate(nodes[i]):
            sharers = [j for j in peers(rollouts, rollout) if t < len(nodes[j]) and nodes[j][t] == node]
            mine = advantage[i][t]
            shared = math.fsum(advantage[j][t] for j in sharers) / len(sharers) if rollout.valid else mine
            means[-1].append(shared)
            owned[-1].append(rollout.valid and i == min(sharers))
    return means, owned
