"""Score the gold answer at turn boundaries: the process signal of A²TGPO.

AnswerScaffold ── AnswerSuffix (scaffold and answer, as tokens)
                       │
masks ── Boundaries ── AnswerScorer.score(forward, …) ── Scores
                       │
         plain_forward, fused_forward: a model as `LabelLogps`
"""

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries, find_boundaries
from a2tgpo.signals.answer_likelihood.forward import (
    FusedReading,
    LabelLogps,
    ModelForward,
    fused_forward,
    fused_reading,
    plain_forward,
)
from a2tgpo.signals.answer_likelihood.model_support import why_not_cached
from a2tgpo.signals.answer_likelihood.passes import policy_logps
from a2tgpo.signals.answer_likelihood.scaffold import AnswerScaffold, AnswerSuffix
from a2tgpo.signals.answer_likelihood.scorer import AnswerScorer, Scores

__all__ = [
    "AnswerScaffold",
    "AnswerScorer",
    "AnswerSuffix",
    "Boundaries",
    "FusedReading",
    "LabelLogps",
    "ModelForward",
    "Scores",
    "find_boundaries",
    "fused_forward",
    "fused_reading",
    "plain_forward",
    "policy_logps",
    "why_not_cached",
]
