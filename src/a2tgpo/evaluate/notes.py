"""What to know before comparing scores."""

from __future__ import annotations

from collections.abc import Mapping

from a2tgpo.evaluate.aggregate import Scores, in_order
from a2tgpo.evaluate.bootstrap import RESAMPLES
from a2tgpo.rollout.types import NOT_THE_POLICYS

LEGEND = f"""\
Shares are in percent. Intervals are 95 % percentile bootstrap intervals over questions ({RESAMPLES} resamples); where
all questions score the same there is none. Exact match, F1 and containment compare normal forms as SQuAD does, with
every alias. The average over questions weighs a benchmark by its number of questions, as the paper's does; the average
over benchmarks weighs all alike. A rollout without an answer scores 0, whatever ended it.
"""


def notes(scores: Mapping[str, Scores]) -> list[str]:
    """Sentences on what makes policies differ other than themselves: benchmarks, questions, samples, failed tools."""
    benchmarks = in_order({name for of in scores.values() for name in of.questions})
    return [
        *(note for name, of in scores.items() for note in _of_policy(name, of, benchmarks)),
        *(
            f"{name}: not every policy answered the same questions; compare two on the shared ones with `--compare`."
            for name in benchmarks
            if len({of.questions[name] for of in scores.values() if name in of.questions}) > 1
        ),
    ]


def _of_policy(name: str, scores: Scores, benchmarks: list[str]) -> list[str]:
    found = []
    if absent := [benchmark for benchmark in benchmarks if benchmark not in scores.questions]:
        found.append(f"{name} has no {', '.join(absent)}, so it has no average that needs one.")
    fewest, most = scores.samples
    if most > 1:
        count = str(most) if fewest == most else f"{fewest} to {most}"
        found.append(f"{name} has {count} samples a question; each measure is their mean (mean@k).")
    failed = {kind: sum(of[kind] for of in scores.endings.values()) for kind in NOT_THE_POLICYS}
    if any(failed.values()):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in failed.items() if count)
        found.append(f"{name} has rollouts that score 0 though the policy is not to blame: {kinds}.")
    return found
