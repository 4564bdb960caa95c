"""Say what a turn was worth: one number per process turn, to stand where information gain stands in the credit rules.

Transcript ──┬── TurnFunction     what a user's function says of each turn
             ├── StepReward       a token classifier's score of each step
             ├── PrefixReward     the change in a sequence classifier's score
             ├── Judge            a model's score by a rubric, over a server
             └── any ProcessSignal
                       └── read_signal: numbers [B, T], notes, rollouts without scores

FrozenReference ── AnswerScorer ── information_gain: [B, T]
"""

from a2tgpo.signals.classifier import Classifier
from a2tgpo.signals.judge import Judge
from a2tgpo.signals.process_signal import (
    ProcessSignal,
    Scored,
    SignalReading,
    TurnFunction,
    TurnScores,
    Unscored,
    read_signal,
    turn_numbers,
)
from a2tgpo.signals.reference import FrozenReference
from a2tgpo.signals.reward_model import PrefixReward, StepReward, process_reward_model
from a2tgpo.signals.transcript import Transcript, Turn, transcripts

__all__ = [
    "Classifier",
    "FrozenReference",
    "Judge",
    "PrefixReward",
    "ProcessSignal",
    "Scored",
    "SignalReading",
    "StepReward",
    "Transcript",
    "Turn",
    "TurnFunction",
    "TurnScores",
    "Unscored",
    "process_reward_model",
    "read_signal",
    "transcripts",
    "turn_numbers",
]
