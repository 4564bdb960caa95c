"""A whole A²TGPO step on tensors, with torch alone: from likelihoods and rewards to the gradient (arXiv 2605.06200)."""

import torch

from a2tgpo.core import TurnBatch, TurnGroupCredit, information_gain, policy_loss, turn_ids

# Two rollouts of one prompt, six tokens each: a turn of two tokens, an observation of one, a turn of one, an
# observation, and the answer; the second answers after its first observation.
model_mask = torch.tensor([[1, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0]]).bool()
turns = turn_ids(model_mask)
print("turn of each token   ", turns.tolist())

# What the policy gives the gold answer after the prompt and after each observation (Eq. 5), and what a turn adds (6).
likelihood = torch.tensor([[0.1, 0.3, 0.8], [0.1, 0.2, 0.0]])
is_process = torch.tensor([[True, True, False], [True, False, False]])
gain = torch.nn.functional.pad(information_gain(likelihood, is_process[:, :2]), (0, 1))
print("information gain     ", gain.tolist())

# Gains compared at equal depth, summed over the turns to come, beside the normalised reward (7 to 9, 11).
batch = TurnBatch(
    gain=gain,
    is_process=is_process,
    outcome=torch.tensor([1.0, 0.0]),
    group=torch.tensor([0, 0]),
    n_turns=torch.tensor([3, 2]),
)
credit = TurnGroupCredit(alpha=1.0, gamma=1.0, beta=0.3)(batch)
print("advantage            ", credit.advantage.tolist())
print("clip scale           ", credit.clip_scale.tolist())

# The loss of one update (10, 12), whose gradient flows into the log-probabilities of the policy's own tokens alone.
old_logps = torch.full((2, 6), -1.0)
logps = (old_logps + 0.001 * torch.randn(2, 6, generator=torch.manual_seed(0))).requires_grad_()
found = policy_loss(
    logps, old_logps, turns, credit.advantage, credit.clip_scale, eps_low=3e-3, eps_high=4e-3, ratio="turn"
)
found.loss.backward()
print("loss                 ", found.loss.item())
print("gradient             ", logps.grad.tolist())
