"""The other credit rules once more, like slow.py: plain loops written from the published equations alone."""

import math

from .slow import EPS, Rollout, discounted, mean_and_std, normalized_outcomes, scores


def z(value: float, group: list[float], divide: bool = True) -> float:
    if len(group) <= 1:
        return 0.0
    mean, std = mean_and_std(group)
    return (value - mean) / (std + EPS) if divide else value - mean


def peers(rollouts: list[Rollout], rollout: Rollout) -> list[int]:
    return [i for i, r in enumerate(rollouts) if r.prompt == rollout.prompt and r.valid]


def per_turn(rollouts, value) -> list[list[float]]:
    """`value(i, t)` on the turns of rollouts to learn from, 0 on the others."""
    return [[value(i, t) if r.valid else 0.0 for t in range(len(r.gains))] for i, r in enumerate(rollouts)]


def outcome(rollouts):
    reward = normalized_outcomes(rollouts)
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


def gigpo(rollouts, states, weight, gamma, norm):
    divide = norm == "std"

    def return_from(i, t):
        return gamma ** (len(rollouts[i].gains) - 1 - t) * rollouts[i].outcome

    def value(i, t):
        group = peers(rollouts, rollouts[i])
        episode = z(rollouts[i].outcome, [rollouts[j].outcome for j in group], divide)
        if states[i][t] < 0:
            return episode
        same = [(j, k) for j in group for k in range(len(rollouts[j].gains)) if states[j][k] == states[i][t]]
        return episode + weight * z(return_from(i, t), [return_from(*step) for step in same], divide)

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


def tree(rollouts, trees):
    def value(i, t):
        group = peers(rollouts, rollouts[i])
        leaves = [rollouts[j].outcome for j in group if trees[j] == trees[i]]
        return z(rollouts[i].outcome, leaves) + z(rollouts[i].outcome, [rollouts[j].outcome for j in group])

    return per_turn(rollouts, value)


def aepo(rollouts, entropies, weight):
    reward = normalized_outcomes(rollouts)
    every = [h for r, row in zip(rollouts, entropies, strict=True) if r.valid for h in row[: len(r.gains)]]
    return per_turn(rollouts, lambda i, t: reward[i] * (1 + weight * z(entropies[i][t], every)))


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
