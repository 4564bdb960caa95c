"""Draw figures over turns: what each depth gained, how many tools were called, and how alike turns are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from statistics import fmean

import numpy as np

from a2tgpo.report.logged_rollout import Batch, Rollout, finite
from a2tgpo.report.series import Arm, Figure, Series

Values = Callable[[Rollout], Iterable[float]]

BY_TURN: tuple[tuple[str, str, str, str, Values], ...] = (
    ("gain_raw", "{signal}, raw", "{meaning}", "{unit}", lambda rollout: rollout.gain),
    (
        "gain_normalized",
        "{signal}, normalised in its turn group",
        "In turn groups the mean of each turn is 0 by construction; the spread is what the group leaves. Methods that "
        "normalise over other turns too have other means.",
        "standard deviations",
        lambda rollout: rollout.normalized_gain,
    ),
    (
        "gain_accumulated",
        "{signal}, accumulated",
        "Normalised values summed from the turn to the last, divided by √n.",
        "standard deviations",
        lambda rollout: rollout.terms.accumulated if rollout.terms else (),
    ),
)
"""Figure, title, caption, unit, value of each process turn (the paper's figure 4)."""

_BOXES = " Line: median; dot: mean; box: the middle half; whiskers: the middle 90 %."
_MEANING = {"gain": "Rise of the gold answer's likelihood over the turn."}


def by_turn(arms: list[Arm], id: str, title: str, caption: str, unit: str, values: Values) -> Figure:
    """Draw a number of each turn as boxes: all valid rollouts, by depth from 1."""
    signals = {run.signal for arm in arms for run in arm.runs if run.signal}
    signal = signals.pop() if len(signals) == 1 else "turn signal"
    rise = f"rise in {'log-' if any(run.in_logarithms for arm in arms for run in arm.runs) else ''}probability"
    series = []
    for index, arm in enumerate(arms):
        at: dict[int, list[float]] = {}
        for rollout in (r for run in arm.runs for batch in run.batches for r in batch.rollouts if r.valid):
            for turn, value in enumerate(values(rollout), start=1):
                at.setdefault(turn, []).extend(finite([value]))
        if turns := sorted(turn for turn, found in at.items() if found):
            series.append(_boxes(index, turns, [at[turn] for turn in turns]))
    meaning = _MEANING.get(signal, f"The {signal} of each turn, as the run's signal gave it.")
    return Figure(
        id,
        title.format(signal=signal.capitalize()),
        caption.format(meaning=meaning) + _BOXES,
        "boxes",
        "turn",
        unit.format(unit=rise if signal == "gain" else signal),
        series,
    )


def _boxes(arm: int, turns: list[int], at: list[list[float]]) -> Series:
    """Return the box of each turn's values."""
    quantiles = [np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist() for values in at]
    least, low, median, high, most = (list(column) for column in zip(*quantiles, strict=True))
    sizes, means = [len(values) for values in at], [fmean(values) for values in at]
    return Series(arm, "", turns, median, low, high, least, most, sizes, [*means])


def tool_calls(arms: list[Arm]) -> Figure:
    """Draw how many rollouts called a tool how often, in the first and the last batches (the paper's figure 10)."""
    series = []
    for index, arm in enumerate(arms):
        for label, rollouts in _stretches(arm).items():
            calls = Counter(_n_calls(rollout) for rollout in rollouts)
            if total := calls.total():
                numbers = list(range(max(calls) + 1))
                counts = [calls[number] for number in numbers]
                series.append(Series(index, label, numbers, [count / total for count in counts], n=counts))
    caption = "Share of rollouts by their number of tool calls, in the first and the last fifth of the batches."
    return Figure("searches", "Tool calls per rollout", caption, "histogram", "tool calls", "share of rollouts", series)


def _n_calls(rollout: Rollout) -> int:
    """Return the calls logged; where another loop logged none, the turns before the last."""
    return len(rollout.calls) if rollout.termination is not None else max(0, len(rollout.advantage) - 1)


def _stretches(arm: Arm) -> dict[str, list[Rollout]]:
    """Return the rollouts of the first and the last fifth of the batches; of fewer than four batches, all."""

    def rollouts(batches: Iterable[Batch]) -> list[Rollout]:
        return list(chain.from_iterable(batch.rollouts for batch in batches))

    if min(len(run.batches) for run in arm.runs) < 4:
        return {"all": rollouts(batch for run in arm.runs for batch in run.batches)}
    fifth = [(run.batches, max(1, len(run.batches) // 5)) for run in arm.runs]
    return {
        "first fifth": rollouts(batch for batches, n in fifth for batch in batches[:n]),
        "last fifth": rollouts(batch for batches, n in fifth for batch in batches[-n:]),
    }


def similarity(arms: list[Arm]) -> Figure:
    """Draw how alike turns are between the rollouts of a question, turn by turn (the paper's figure 1)."""
    series = []
    for index, arm in enumerate(arms):
        matrix = turn_similarity(batch for run in arm.runs for batch in run.batches)
        turns = list(range(1, len(matrix) + 1))
        series += [Series(index, f"turn {turn}", turns, row) for turn, row in zip(turns, matrix, strict=True)]
    caption = (
        "How alike the turns of two rollouts of one question are: mean Jaccard overlap of the distinct tokens of a "
        "turn's own content, what the policy wrote in it and what it read. The diagonal is a turn group."
    )
    return Figure("similarity", "Same turn against other turns", caption, "matrix", "turn", "overlap", series)


def turn_similarity(batches: Iterable[Batch]) -> list[list[float | None]]:
    """Return the mean Jaccard overlap |A ∩ B| / |A ∪ B| of the turns of two different rollouts of one prompt.

    A is the set of distinct tokens of process turn a of one rollout, its result included, B the same of turn b of the
    other.

    Returns:
        `[T][T]`, row a, column b, symmetric; None where no two rollouts have these turns.
    """
    groups = [group for batch in batches for _, group in batch.groups()]
    width = max((rollout.n_process for group in groups for rollout in group), default=0)
    total, count = np.zeros((width, width)), np.zeros((width, width))
    for group in groups:
        _add(group, total, count)
    return [[float(total[a, b] / count[a, b]) if count[a, b] else None for b in range(width)] for a in range(width)]


def _add(group: list[Rollout], total: np.ndarray, count: np.ndarray) -> None:
    turns = [(i, turn, seen) for i, rollout in enumerate(group) for turn, seen in enumerate(_turns(rollout)) if seen]
    if not turns:
        return
    column = {token: k for k, token in enumerate(sorted(set().union(*(seen for _, _, seen in turns))))}
    has = np.zeros((len(turns), len(column)), dtype=np.float32)
    for row, (_, _, seen) in enumerate(turns):
        has[row, [column[token] for token in seen]] = 1
    shared = has @ has.T
    size = has.sum(axis=1)
    overlap = shared / (size[:, None] + size - shared)
    owner, turn = np.array([i for i, _, _ in turns]), np.array([turn for _, turn, _ in turns])
    first, second = np.nonzero(owner[:, None] != owner)
    np.add.at(total, (turn[first], turn[second]), overlap[first, second])
    np.add.at(count, (turn[first], turn[second]), 1)


def _turns(rollout: Rollout) -> Iterator[set[int]]:
    """Yield the distinct tokens of each process turn: written by the policy, and read after it."""
    seen: set[int] = set()
    process = 0
    for segment in rollout.segments:
        seen.update(segment.ids)
        if segment.turn < 0 and process < rollout.n_process:
            process += 1
            yield seen
            seen = set()
