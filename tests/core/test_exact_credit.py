"""What each credit rule gives a turn beside what the turn is worth, by exact enumeration (docs/baselines.md)."""

import importlib.util
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

from a2tgpo import core

DOCS = Path(__file__).parents[2] / "docs"
specification = importlib.util.spec_from_file_location("exact_credit", DOCS / "figures" / "exact_credit.py")
exact = importlib.util.module_from_spec(specification)
sys.modules[specification.name] = exact  # dataclasses look their module up
specification.loader.exec_module(exact)

each_process = pytest.mark.parametrize("process", exact.PROCESSES, ids=lambda process: process.name)
DECISIONS = [(a,) for a in (0, 1)] + exact.PATHS
CENTRED = 2.0**30
"""Added to a standard deviation, and multiplied with again: what is left of a score is the deviation from the mean."""


def test_worth_by_hand():
    """The exact advantages of the three processes: Q − V, worked out by hand."""
    good, wasted, recovery = exact.PROCESSES
    assert [good.advantage(path) for path in DECISIONS] == [-0.25, 0.25, -0.25, 0.25, -0.25, 0.25]
    assert [wasted.advantage(path) for path in DECISIONS] == [0, 0, -0.5, 0.5, -0.5, 0.5]
    assert [recovery.advantage(path) for path in DECISIONS] == [-0.125, 0.125, -0.5, 0.5, -0.25, 0.25]


@each_process
def test_the_outcome_alone_repeats_earlier_turns(process):
    """Centred, the outcome's expected credit times 4/3 is Q − V(start): right for the first turn, and for every later
    one off by what the turns before it were worth."""
    batch = exact.batch_of(process)
    reward = CENTRED * core.normalize_outcome(batch.outcome, batch.group, eps=CENTRED)
    for path in DECISIONS:
        given, _ = exact.expected(reward[:, None].expand(-1, 3), path)
        assert given * 4 / 3 == pytest.approx(process.value(path) - process.value(()), abs=1e-7)


@each_process
def test_turn_groups_compare_with_the_mean_of_the_depth(process):
    """Centred, the turn group's expected credit times 4/3 is the expected rise from the turn on, minus that of all
    rollouts at this depth. It is exact for the first turn; for the second it is off where a state leaves more to gain
    than another, and so a recovery is paid for the hole that it came out of."""
    batch = exact.batch_of(process)
    credit = core.turn_credit(
        batch.gain,
        batch.is_process,
        torch.zeros_like(batch.outcome),
        batch.group,
        n_turns=batch.n_turns,
        std_floor=CENTRED,
        alpha=CENTRED,
        rescale=False,
    ).advantage
    for path in DECISIONS:
        before = path[:-1]
        rise = process.value(path) - process.likelihood(before)
        typical = fmean(process.value(p[: len(before)]) - process.likelihood(p[: len(before)]) for p in exact.PATHS)
        given, _ = exact.expected(credit, path)
        assert given * 4 / 3 == pytest.approx(rise - typical, abs=1e-7)
        off = process.value(before) - process.likelihood(before) - typical
        assert given * 4 / 3 == pytest.approx(process.advantage(path) + off, abs=1e-7)
        assert off == pytest.approx(0) or (process.name == "bad turn, then recovery" and len(path) == 2)


@each_process
def test_equal_states_give_the_worth(process):
    """GiGPO's step term, centred and undiscounted, is the exact advantage times 1 − E[1/m], m rollouts being in the
    state: it compares with what the state itself promised."""
    batch = exact.batch_of(process)
    both = core.GigpoCredit(weight=1.0, gamma=1.0)(batch).advantage
    episode = core.GigpoCredit(weight=0.0, gamma=1.0)(batch).advantage
    for path in DECISIONS:
        # One of m is in the state, each of the three others with probability 1 or 1/2.
        share = 1 / 4 if len(path) == 1 else (1 - 0.5**4) / (4 * 0.5)
        given, _ = exact.expected(both - episode, path)
        assert given == pytest.approx(process.advantage(path) * (1 - share), abs=1e-9)


def test_the_table_of_the_docs():
    """docs/baselines.md has the table as it is computed."""
    assert "\n".join(exact.table()) in (DOCS / "baselines.md").read_text(encoding="utf-8")
