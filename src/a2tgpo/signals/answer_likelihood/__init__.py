"""Likelihood of the gold answer at turn boundaries: the process signal of A²TGPO."""

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries, find_boundaries
from a2tgpo.signals.answer_likelihood.forward import (
    FusedReading,
    LabelLogps,
    fused_forward,
    fused_reading,
    plain_forward,
)
from a2tgpo.signals.answer_likelihood.passes import policy_logps
from a2tgpo.signals.answer_likelihood.scaffold import AnswerScaffold, Probe
from a2tgpo.signals.answer_likelihood.scorer import AnswerScorer
from a2tgpo.signals.answer_likelihood.scores import Scores
from a2tgpo.signals.answer_likelihood.support import why_not_cached

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
