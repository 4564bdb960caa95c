"""Likelihood of the gold answer at turn boundaries: the process signal of A²TGPO."""

from a2tgpo.scoring.boundaries import Boundaries, find_boundaries
from a2tgpo.scoring.forward import FusedReading, LabelLogps, fused_forward, fused_reading, plain_forward
from a2tgpo.scoring.passes import policy_logps
from a2tgpo.scoring.scaffold import AnswerScaffold, Probe
from a2tgpo.scoring.scorer import AnswerScorer
from a2tgpo.scoring.scores import Scores
from a2tgpo.scoring.support import why_not_cached

__all__ = [
    "AnswerScaffold",
    "AnswerScorer",
    "Boundaries",
    "FusedReading",
    "LabelLogps",
    "Probe",
    "Scores",
    "find_boundaries",
    "fused_forward",
    "fused_reading",
    "plain_forward",
    "policy_logps",
    "why_not_cached",
]
