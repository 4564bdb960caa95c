"""Lead from rollouts to the loss, for any engine: torch, `core`, `methods`, `signals` and records of `rollout`, never
trl, accelerate or verl.

    RolloutBatch ── collect_signals ── TurnSignals ── assign_credit ── BatchCredit ── LossInputs.of ── turn_loss

    batch             ids, masks, turns and turn boundaries, computed once
    turn_signals      likelihood or process signal, entropies, shared turns, observations
    signal_health     what a judge cost, and when it counts as gone
    anchor_states, prefix_tree   turns that share a state, rollouts that share turns
    likelihood        passes over the batch's trajectories
    credit            one credit for the rollouts of all processes
    turn_loss         per-token inputs that survive an engine's shuffling and sharding, and the loss
    microbatches      which rollouts share a forward
    shared_prefix     tokens that rollouts of a forward share, computed once
    update_gain       credit forward by forward, from gains that the update reads on its way
    dynamic_sampling  zero-variance groups replaced
    metrics, rollout_log   what is logged
    collective        what an engine has to provide

The engines are in `a2tgpo.integrations`.
"""

from a2tgpo.pipeline.batch import RolloutBatch, TaskRow, concat_prompt_completion
from a2tgpo.pipeline.collective import Collective, SingleProcess
from a2tgpo.pipeline.credit import BatchCredit, add_overlong_penalty, assign_credit
from a2tgpo.pipeline.turn_loss import LossInputs, TurnLoss, turn_loss
from a2tgpo.pipeline.turn_signals import TurnSignals, collect_signals

__all__ = [
    "BatchCredit",
    "Collective",
    "LossInputs",
    "RolloutBatch",
    "SingleProcess",
    "TaskRow",
    "TurnLoss",
    "TurnSignals",
    "add_overlong_penalty",
    "assign_credit",
    "collect_signals",
    "concat_prompt_completion",
    "turn_loss",
]
