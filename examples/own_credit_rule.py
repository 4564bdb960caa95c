"""A credit rule of your own beside the published ones: `A2TGPOConfig(method="reward_plus_gain")` trains with it."""

from dataclasses import dataclass

from a2tgpo.core import TurnBatch, TurnCredit
from a2tgpo.core.turn_batch import plain_credit
from a2tgpo.methods import Method, register


@dataclass(frozen=True)
class RewardPlusGain:
    """Give every turn the rollout's normalised reward, and process turns `weight` times their raw gain beside it."""

    weight: float = 0.5
    reads = frozenset({"gain"})

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        gain = batch.gain.where(batch.has_gain, batch.gain.new_zeros(()))
        return plain_credit(batch.reward()[:, None] + self.weight * gain, batch.learned, gain)


register(Method("reward_plus_gain", RewardPlusGain(), source="mine"))
