"""Training arguments: TRL's `GRPOConfig` plus what per-turn credit needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from trl import GRPOConfig

from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.scoring.scorer import Alias, Likelihood, Method


@dataclass
class A2TGPOConfig(GRPOConfig):
    """`GRPOConfig` with the paper's clip bounds and the parameters of turn-group credit.

    Everything else is TRL's and means what it means there. An option of TRL's that this loss cannot honour raises at
    construction (`UNSUPPORTED` lists them).
    """

    epsilon: float = field(default=3e-3, metadata={"help": "Lower clip bound ε_low of the turn ratio."})
    epsilon_high: float | None = field(default=4e-3, metadata={"help": "Upper clip bound ε_high of the turn ratio."})
    loss_type: str = field(default="grpo", metadata={"help": "Rollout mean: the paper's aggregation."})

    turn_gamma: float = field(default=1.0, metadata={"help": "Discount γ of later turns' normalised gains, in [0, 1]."})
    gain_alpha: float = field(
        default=1.0, metadata={"help": "Weight α of the accumulated gain; the authors' code uses 0.3."}
    )
    clip_beta: float = field(
        default=0.3, metadata={"help": "Width β of the adaptive clip scale 1 + β(2σ(ĝ) − 1), in [0, 1)."}
    )
    answer_scaffold: str = field(
        default=SCAFFOLD,
        metadata={
            "help": "How the policy itself would state its answer, with one {answer}. The gold answer is scored "
            "inside it; only the answer's own tokens count."
        },
    )
    answer_alias: Alias = field(
        default="first", metadata={"help": "Alias scored where there are several: 'first' or 'best'."}
    )
    likelihood: Likelihood = field(
        default="probability",
        metadata={
            "help": "'probability': exp of the answer's mean token log-probability (the paper). "
            "'log_probability': the mean itself (the authors' code)."
        },
    )
    gain_method: Method = field(
        default="auto",
        metadata={
            "help": "'cached': one small forward over the trajectory's own keys. 'rows': one full forward per "
            "boundary. 'auto': cached wherever the model's cache can be cut at a position."
        },
    )
    skip_first_gain: bool = field(default=False, metadata={"help": "Give turn 1 no gain, as the authors' code does."})
    drop_zero_gains: bool = field(
        default=False, metadata={"help": "Leave gains of exactly 0 out of the credit: a fault of the authors' code."}
    )
    cut_last_result: bool = field(
        default=False,
        metadata={"help": "Score the last search without its result: a fault of the authors' code."},
    )
    rollouts_dir: str | None = field(
        default=None, metadata={"help": "Write every rollout with its credit to step_NNNNNN.jsonl in this folder."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(map(repr, allowed))}")
        if not 0.0 <= self.turn_gamma <= 1.0:
            raise ValueError(f"turn_gamma={self.turn_gamma}: a discount lies in [0, 1]; 1 is the paper's")
        if not 0.0 <= self.clip_beta < 1.0:
            raise ValueError(
                f"clip_beta={self.clip_beta}: must lie in [0, 1), so that no clip range closes; 0.3 is the paper's"
            )
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations}: a group of 1 has no baseline and every advantage is 0; "
                "use 2 or more rollouts per prompt"
            )
        if self.use_vllm and self.vllm_importance_sampling_correction:
            raise ValueError(
                "vllm_importance_sampling_correction=True: its token weights would change the turn ratio; "
                "set vllm_importance_sampling_correction=False"
            )
        for option in UNSUPPORTED:
            if option.refused(getattr(self, option.name)):
                raise ValueError(f"{option.name}={getattr(self, option.name)!r}: {option.remedy}")


@dataclass(frozen=True)
class Unsupported:
    """An option of `GRPOConfig` whose given value this loss cannot honour, and what to do instead."""

    name: str
    refused: Callable[[Any], bool]
    remedy: str


_CHOICES = {"answer_alias": get_args(Alias), "likelihood": get_args(Likelihood), "gain_method": get_args(Method)}

UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported("loss_type", lambda v: v != "grpo", "the loss is a mean over each rollout; keep loss_type='grpo'"),
    Unsupported(
        "importance_sampling_level",
        lambda v: v != "token",
        "the ratio is taken per turn; leave importance_sampling_level at its default",
    ),
    Unsupported(
        "scale_rewards",
        lambda v: v not in ("group", True),
        "the outcome is normalised in its prompt's group; keep scale_rewards='group'",
    ),
    Unsupported(
        "multi_objective_aggregation",
        lambda v: v != "sum_then_normalize",
        "rewards are summed by weight, then normalised; keep multi_objective_aggregation='sum_then_normalize'",
    ),
    Unsupported("delta", lambda v: v is not None, "two-sided clipping has no turn-level form; leave delta unset"),
    Unsupported(
        "off_policy_mask_threshold",
        lambda v: v is not None,
        "sequence masking is not part of this loss; leave off_policy_mask_threshold unset",
    ),
    Unsupported(
        "top_entropy_quantile",
        lambda v: v < 1.0,
        "dropping tokens would change the turn ratio; keep top_entropy_quantile=1.0",
    ),
    Unsupported("entropy_coef", lambda v: v != 0.0, "there is no entropy bonus in this loss; keep entropy_coef=0"),
    Unsupported(
        "use_adaptive_entropy",
        bool,
        "there is no entropy bonus in this loss; keep use_adaptive_entropy=False",
    ),
)
