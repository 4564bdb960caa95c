"""Choose the final policy among a run's checkpoints, by its average score over the held-out data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from a2tgpo import processes
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.files import new_file
from a2tgpo.run.checkpoints import checkpoints_in, fault_of, step_of


@dataclass(frozen=True)
class BestCheckpoint:
    """Hold which checkpoint became the final policy, and what all of them scored.

    Attributes:
        step: updates after which it was saved.
        scores: updates -> average over the data sets of the greedy scores: exact match, success or reward.
    """

    step: int
    scores: Mapping[int, float]

    def __str__(self) -> str:
        last = max(self.scores)
        return (
            f"the policy after {self.step} of {last} updates, chosen for its average over these data sets, "
            f"{self.scores[self.step]:.3f} (after the last update {self.scores[last]:.3f}): chosen and measured on the "
            "same questions, which flatters it"
        )

    def write(self, path: Path) -> None:
        """Write a JSON file."""
        with new_file(path) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> BestCheckpoint:
        """Read the file that `write` made."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(record["step"], {int(step): score for step, score in record["scores"].items()})


def average_score(outcomes: Sequence[Outcome]) -> float:
    """Return the mean over data sets of `Outcome.score`, such as the share of right answers: a large set counts no more
    than a small one."""
    sets: dict[str, list[float]] = {}
    for outcome in outcomes:
        sets.setdefault(outcome.dataset, []).append(outcome.score)
    return fmean(fmean(scores) for scores in sets.values())


def choose_checkpoint(folder: Path, evaluate: Callable[[Path, str], Sequence[Outcome]]) -> tuple[Path, BestCheckpoint]:
    """Return the whole checkpoint in `folder` with the best average, of equal ones the earliest, with all scores; a
    collective.

    Args:
        folder: of checkpoints, the last update's among them.
        evaluate: answers the held-out questions with a checkpoint; it also gets the checkpoint's name.
    """
    whole = processes.on_main(lambda: [each for each in checkpoints_in(folder) if fault_of(each) is None])
    assert whole, "a run saves a checkpoint after its last update"
    scores = {step_of(checkpoint): average_score(evaluate(checkpoint, checkpoint.name)) for checkpoint in whole}
    # Averages that rounding alone tells apart are equal.
    best = max(whole, key=lambda checkpoint: (round(scores[step_of(checkpoint)], 9), -step_of(checkpoint)))
    return best, BestCheckpoint(step_of(best), scores)
