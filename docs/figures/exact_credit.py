"""Print the table of docs/baselines.md: what each credit rule gives a turn beside what the turn is worth.

    python docs/figures/exact_credit.py

Three processes of two searches and an answer. At each search the policy takes action 0 or 1, each with probability 1/2;
`likelihood` is how likely the right answer is by then, and its last value is the reward. Every group of four rollouts
that can happen is credited, so that expectations are exact; nothing is sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from a2tgpo import core
from a2tgpo.methods import METHODS

Path = tuple[int, ...]
"""The actions so far."""

PATHS: list[Path] = list(itertools.product((0, 1), repeat=2))
GROUPS = list(itertools.product(PATHS, repeat=4))
ROWS = ("grpo", "gigpo", "igpo", "mica", "igpo+tg", "a2tgpo", "a2tgpo-release")


@dataclass(frozen=True)
class Process:
    """One decision process.

    Attributes:
        likelihood: of the right answer after the given actions.
        shown: the decisions of the table, named: the actions before, and the action itself last.
    """

    name: str
    likelihood: Callable[[Path], float]
    shown: dict[str, Path]

    def value(self, path: Path) -> float:
        """Return V after `path`: the expected reward."""
        return fmean(self.likelihood(end) for end in PATHS if end[: len(path)] == path)

    def advantage(self, path: Path) -> float:
        """Return Q − V of the last action of `path`, where it was taken."""
        return self.value(path) - self.value(path[:-1])


PROCESSES = (
    Process(
        "good path",
        lambda path: sum(path) / 2,
        {"first half found": (1,), "second half found": (1, 1)},
    ),
    Process(
        "wasted turn",
        lambda path: float(path[1]) if len(path) == 2 else 0.0,
        {"wasted": (1,), "then found": (1, 1), "then not found": (1, 0)},
    ),
    Process(
        "bad turn, then recovery",
        lambda path: 1.0 if path[1:] == (1,) else path[0] / 2 if path else 0.5,
        {
            "bad": (0,),
            "bad, then recovered": (0, 1),
            "bad, then not recovered": (0, 0),
            "good, then found": (1, 1),
            "good, then not found": (1, 0),
        },
    ),
)


def batch_of(process: Process) -> core.TurnBatch:
    """Return every group of four rollouts as a prompt of its own; outcome and gains are differences of likelihood."""
    rollouts = [path for group in GROUPS for path in group]
    values = torch.tensor([[process.likelihood(path[:n]) for n in range(3)] for path in rollouts], dtype=torch.float64)
    searches = torch.tensor([[True, True, False]]).repeat(len(rollouts), 1)
    gain = torch.nn.functional.pad(values.diff(dim=1), (0, 1))
    return core.TurnBatch(
        gain=gain,
        is_process=searches,
        outcome=values[:, -1],
        group=torch.arange(len(GROUPS)).repeat_interleave(4),
        n_turns=torch.full((len(rollouts),), 3),
        # What was done is the state.
        state=torch.tensor([[0, 1 + path[0], 3 + 2 * path[0] + path[1]] for path in rollouts]),
    )


def expected(advantage: Tensor, path: Path) -> tuple[float, float]:
    """Return mean and standard deviation of what the last action of `path` was given, over all groups."""
    taken = [i for i, rollout in enumerate(path for group in GROUPS for path in group) if rollout[: len(path)] == path]
    given = advantage[taken, len(path) - 1]
    return given.mean().item(), given.std(correction=0).item()


def agreement(process: Process, advantage: Tensor) -> float:
    """Return the correlation of what single searches were given with what they were worth."""
    worth = [[process.advantage(path[:1]), process.advantage(path)] for group in GROUPS for path in group]
    both = torch.stack([advantage[:, :2].flatten(), torch.tensor(worth, dtype=torch.float64).flatten()])
    return torch.corrcoef(both)[0, 1].item()


def table() -> list[str]:
    """Return the lines of the Markdown table."""
    head = ["process", "turn", "exact", *(f"`{name}`" for name in ROWS)]
    lines = [head, ["---"] * len(head)]
    for process in PROCESSES:
        batch = batch_of(process)
        given = [METHODS[name].credit(batch).advantage for name in ROWS]
        for name, path in process.shown.items():
            cells = ["{:+.2f} ± {:.2f}".format(*expected(advantage, path)) for advantage in given]
            lines.append([process.name, name, f"{process.advantage(path):+.3f}", *map(_signed, cells)])
        lines.append([process.name, "*correlation*", "1", *(f"{agreement(process, a):.2f}" for a in given)])
    return ["| " + " | ".join(map(_signed, line)).replace("−−−", "---") + " |" for line in lines]


def _signed(cell: str) -> str:
    zero = cell.replace("+0.000", "0").replace("+0.00 ", "0 ").replace("-0.00 ", "0 ")
    return zero if "`" in cell else zero.replace("-", "−")


if __name__ == "__main__":
    print("\n".join(table()))
