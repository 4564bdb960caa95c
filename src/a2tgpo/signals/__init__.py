"""Say what a turn was worth: one number per process turn, to stand where information gain stands in the credit rules.

Transcript ──┬── TurnFunction     what a user's function says of each turn
             ├── StepReward       a token classifier's score of each step
             ├── PrefixReward     the change in a sequence classifier's score
             └── any ProcessSignal
                       └── turn_numbers: [B, T]

FrozenReference ── AnswerScorer ── information_gain: [B, T]
"""

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.process_signal import ProcessSignal, TurnFunction, turn_numbers
from a2tgpo.signals.reference import FrozenReference
from a2tgpo.signals.reward_model import PrefixReward, StepReward, process_reward_model
from a2tgpo.signals.transcript import Transcript, Turn, transcripts

__all__ = [
    "Classifier",
    "FrozenReference",
    "PrefixReward",
    "ProcessSignal",
    "StepReward",
    "Transcript",
    "Turn",
    "TurnFunction",
    "process_reward_model",
    "transcripts",
    "turn_numbers",
]
