"""Ragged batches for property tests, and their padded tensors."""

import torch
from hypothesis import strategies as st

from a2tgpo import core

from .slow import Rollout

# Dyadic numbers: adding an integer to one is exact, so that shifting a group is an exact operation.
gains = st.integers(-64, 64).map(lambda numerator: numerator / 64)
outcomes = st.sampled_from([-1.0, 0.0, 1.0, 0.25])


@st.composite
def rollouts(draw, prompts=3, turns=5) -> Rollout:
    """Process turns, then usually an answer turn; now and then a turn without an observation in between."""
    process = draw(st.lists(st.one_of(gains, gains, gains, st.none()), max_size=turns - 1))
    row = (*process, None) if not process or draw(st.integers(0, 4)) else tuple(process)
    return Rollout(
        prompt=draw(st.integers(0, prompts - 1)),
        gains=row,
        outcome=draw(outcomes),
        lengths=tuple(draw(st.integers(1, 4)) for _ in row),
        gaps=tuple(draw(st.integers(1, 3)) for _ in row),
        counted=tuple(draw(st.integers(0, 5)) > 0 for _ in row),
    )


def batches(size=9):
    """Batches of rollouts of up to as many prompts as there are rollouts, in any order."""
    return st.integers(1, size).flatmap(lambda n: st.lists(rollouts(prompts=min(n, 3)), min_size=n, max_size=n))


def padded(rows, width, fill=0.0, dtype=torch.float64) -> torch.Tensor:
    """Rows of different lengths as one matrix; None becomes `fill` too."""
    full = [[fill if x is None else x for x in row] + [fill] * (width - len(row)) for row in rows]
    return torch.tensor(full, dtype=dtype)


def pack(batch, extra_turns=0, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """The arguments of `turn_credit` for a batch of rollouts."""
    width = max(len(r.gains) for r in batch) + extra_turns
    return {
        "gain": padded([r.gains for r in batch], width, dtype=dtype),
        "is_process": padded([[g is not None for g in r.gains] for r in batch], width, dtype=torch.bool),
        "outcome": torch.tensor([r.outcome for r in batch], dtype=dtype),
        "group": torch.tensor([r.prompt for r in batch]),
        "n_turns": torch.tensor([len(r.gains) for r in batch]),
        "counted": padded([r.counted for r in batch], width, dtype=torch.bool),
        "valid": torch.tensor([r.valid for r in batch]),
    }


def model_masks(batch, extra_tokens=0) -> torch.Tensor:
    """The token layout of each rollout: a turn, an observation, a turn, and so on."""
    rows = [[x for n, gap in zip(r.lengths, r.gaps, strict=True) for x in [True] * n + [False] * gap] for r in batch]
    return padded(rows, max(map(len, rows)) + extra_tokens, dtype=torch.bool)


def log_probabilities(mask, seed, spread=0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities under a policy and under the old policy it is a small step away from."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return old + step, old


def surrogate_inputs(batch, seed=0, extra_tokens=0, extra_turns=0) -> dict[str, torch.Tensor]:
    """The arguments of `policy_loss` for a batch of rollouts."""
    mask = model_masks(batch, extra_tokens)
    logp, old_logp = log_probabilities(mask, seed)
    credit = core.turn_credit(**pack(batch, extra_turns))
    return {
        "logp": logp,
        "old_logp": old_logp,
        "turn_ids": core.turn_ids(mask),
        "advantage": credit.advantage,
        "clip_scale": credit.clip_scale,
    }
