"""Choose the rollout that a reader should see first, and say why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from a2tgpo.report.logged_rollout import ENDED_WELL, Batch, Rollout
from a2tgpo.report.turn_groups import TurnGroup, turn_groups

_FEW = 3
"""Rollouts of a turn group whose mean and spread are worth telling."""


_RIGHT = {"exact_match": "right", "success": "solved", "reward": "rewarded"}


@dataclass(frozen=True)
class Opening:
    """Hold the place of a rollout, its batch's step and its row there, and the sentences that say why it is shown."""

    step: int
    row: int
    why: list[str]


def choose_opening(batches: list[Batch]) -> Opening | None:
    """Return the most instructive rollout of `batches`, or None where there is none.

    That is one whose turns differ in what they gained, in turn groups whose spread is more than noise, of a question
    that some rollouts answered and others did not. Where most rollouts failed, it is one that shows how.
    """
    rollouts = [(batch.step, row, rollout) for batch in batches for row, rollout in enumerate(batch.rollouts)]
    if not rollouts:
        return None
    if failure := _failure(rollouts):
        return failure
    best: tuple[float, Opening] | None = None
    for batch in batches:
        groups, members = turn_groups(batch), dict(batch.groups())
        for row, rollout in enumerate(batch.rollouts):
            score = _score(rollout, groups[rollout.group], members[rollout.group])
            if best is None or score > best[0]:
                best = score, Opening(batch.step, row, _why(rollout, groups[rollout.group], members[rollout.group]))
    assert best is not None
    return best[1]


def _failure(rollouts: list[tuple[int, int, Rollout]]) -> Opening | None:
    endings = Counter(rollout.termination for *_, rollout in rollouts if rollout.termination is not None)
    ending, count = endings.most_common(1)[0] if endings else ("answered", 0)
    if ending in ENDED_WELL or count <= len(rollouts) / 2:
        return None
    step, row, shown = next(place for place in rollouts if place[2].termination == ending)
    why = [f"{count:,} of {len(rollouts):,} rollouts ended {ending.replace('_', ' ')}: this is one of them."]
    return Opening(step, row, [*why, *([f"The reason given: {shown.reason}"] if shown.reason else [])])


def _score(rollout: Rollout, groups: list[TurnGroup], members: list[Rollout]) -> float:
    if not (rollout.valid and rollout.finite):
        return -1.0
    right = sum(member.correct for member in members)
    score = 3.0 * (0 < right < len(members)) + 0.5 * rollout.correct + 0.2 * min(4, rollout.n_process)
    if gains := rollout.gain:
        told = groups[: len(gains)]
        rise = sum(gains)
        score += 3.0 * all(at.n >= _FEW and not at.noise for at in told)
        score += min(2.0, 2 * (max(gains) - min(gains))) * (len(gains) > 1)
        score += 1.0 * (min(rollout.advantage, default=0.0) < -0.1 < 0.1 < max(rollout.advantage, default=0.0))
        score -= 2.0 * ((rise > 0.1) != rollout.correct)
    return score - 1.0 * (rollout.termination not in (None, *ENDED_WELL))


def _why(rollout: Rollout, groups: list[TurnGroup], members: list[Rollout]) -> list[str]:
    right = sum(member.correct for member in members)
    kind = _RIGHT[rollout.measure]
    outcome = (
        f"{right} of the question's {len(members)} rollouts are {kind}; this one is{'' if rollout.correct else ' not'}."
    )
    if right in (0, len(members)):
        outcome += " Where all end alike there is no outcome term."
    gains = rollout.gain
    if not gains or not rollout.finite:
        return [outcome]
    top = max(range(len(gains)), key=lambda turn: gains[turn])
    sentences = [_turn(rollout, groups, top)]
    low = min(
        range(len(gains)),
        key=lambda turn: rollout.normalized_gain[turn] if turn < len(rollout.normalized_gain) else 0.0,
    )
    if low != top:
        sentences.append(_turn(rollout, groups, low))
    return [*sentences, outcome]


def _turn(rollout: Rollout, groups: list[TurnGroup], turn: int) -> str:
    gain, at = rollout.gain[turn], groups[turn]
    if rollout.likelihood and turn + 1 < len(rollout.likelihood):
        before, after = rollout.likelihood[turn], rollout.likelihood[turn + 1]
        measure = "log p(gold answer)" if min(rollout.likelihood) < 0 else "p(gold answer)"
        did = f"took {measure} from {before:.2f} to {after:.2f}"
    else:
        did = f"was judged {gain:+.2f}"
    told = f"Turn {turn + 1} {did}"
    if at.noise:
        told += f", like the {at.n} rollouts at this depth (σ {at.std:.4f}: what normalisation leaves is noise)"
    elif at.n > 1:
        told += f"; the {at.n} rollouts at this depth gained {round(at.mean, 2) + 0.0:+.2f} ± {at.std:.2f}"
    return f"{told}. Its advantage is {rollout.advantage[turn]:+.2f}.".replace("-", "−")
