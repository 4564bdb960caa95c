"""Training arguments: TRL's `GRPOConfig` plus what per-turn credit needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from trl import GRPOConfig

from a2tgpo.core.groups import Baseline
from a2tgpo.integrations.trl.objective import AGGREGATES, OTHER_OBJECTIVES, check_options
from a2tgpo.methods import METHODS, Method, resolve_method
from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.rollout.strategies import check_group_size
from a2tgpo.signals.answer_likelihood.scorer import Alias, Likelihood
from a2tgpo.signals.answer_likelihood.scorer import Method as GainMethod

Signal = Literal["policy", "reference", "reward_model", "environment"]


@dataclass
class A2TGPOConfig(GRPOConfig):
    """`GRPOConfig` with a method of the methods table, and the parameters of its credit.

    What is None takes the method's own value (`a2tgpo.methods.METHODS`); for A²TGPO, the default, that is the paper's.
    Everything else is TRL's and means what it means there. An option of TRL's that contradicts the method raises
    ValueError, here (`objective.CONTRADICTIONS`) or in the trainer, which knows the model.
    """

    method: str = field(default="a2tgpo", metadata={"help": f"Row of the methods table: {', '.join(METHODS)}."})
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Switch dropout off, adapters' included: scoring and update must see one network, or turn ratios, "
            "whose bounds are a few thousandths, are noise. TRL's default is false."
        },
    )
    epsilon: float | None = field(default=None, metadata={"help": "Lower clip bound ε_low; none = the method's."})
    epsilon_high: float | None = field(default=None, metadata={"help": "Upper clip bound ε_high; none = the method's."})
    beta: float | None = field(
        default=None,
        metadata={"help": "Coefficient of the KL penalty towards the starting policy; none = the method's, 0 = none."},
    )
    loss_type: str | None = field(
        default=None,
        metadata={
            "help": "What the objective is divided by, as TRL names it: 'grpo' rollouts, 'dapo' the update's tokens, "
            "'bnpo' a micro-batch's, 'dr_grpo' a constant; none = the method's. 'cispo', 'sapo', 'vespo' and 'luspo' "
            "are TRL's own objectives, for methods with a token's or sequence's ratio."
        },
    )

    turn_gamma: float | None = field(
        default=None, metadata={"help": "Discount γ of later turns' credit, in [0, 1]; none = the method's."}
    )
    gain_alpha: float | None = field(
        default=None,
        metadata={"help": "Weight α of the accumulated gain; none = the method's, 1. The authors' code uses 0.3."},
    )
    clip_beta: float | None = field(
        default=None, metadata={"help": "Width β of the adaptive clip scale, in [0, 1]; none = the method's."}
    )
    turn_baseline: Baseline | None = field(
        default=None,
        metadata={
            "help": "Whom a turn is compared with: 'survivors' (the paper), 'absorbing', 'active'; none = the method's."
        },
    )
    std_floor: float | None = field(
        default=None, metadata={"help": "Added to a turn group's standard deviation; none = the method's, 1e-6."}
    )
    state_similarity: float | None = field(
        default=None,
        metadata={
            "help": "GiGPO: observations at least this similar, in (0, 1], are one anchor state; none = the method's, "
            "0.9; 1 = equal ones only."
        },
    )
    process_signal: Signal = field(
        default="policy",
        metadata={
            "help": "What a turn is judged by, where the method reads it: information gain scored by the 'policy' or "
            "by the frozen 'reference' it started from, a process 'reward_model', or the rewards of the 'environment'."
        },
    )
    process_reward_model: str | None = field(
        default=None, metadata={"help": "Path or Hub name of a token or sequence classifier, for 'reward_model'."}
    )
    step_separator: str = field(
        default="\n", metadata={"help": "Text after each step at which a token classifier is read, as it was trained."}
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
    likelihood: Likelihood | None = field(
        default=None,
        metadata={
            "help": "'probability': exp of the answer's mean token log-probability (the paper). "
            "'log_probability': the mean itself (the authors' code). None = the method's."
        },
    )
    gain_method: GainMethod = field(
        default="auto",
        metadata={
            "help": "'cached': one small forward over the trajectory's own keys. 'rows': one full forward per "
            "boundary. 'auto': cached wherever a first rollout comes out alike both ways (docs/models.md)."
        },
    )
    cut_last_result: bool = field(
        default=False,
        metadata={"help": "Score the last search without its result: a fault of the authors' code."},
    )
    tool_loop_kv_cache: bool = field(
        default=True,
        metadata={
            "help": "Reuse the KV cache from turn to turn inside TRL's own tool loop; false = let generate read every "
            "context anew."
        },
    )
    rollouts_dir: str | None = field(
        default=None,
        metadata={
            "help": "Write every rollout with its credit to step_NNNNNN.jsonl in this folder; none = `rollouts` in "
            "output_dir, with metrics.jsonl and config.yaml beside it; empty text = write nothing."
        },
    )

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(map(repr, allowed))}")
        row, as_written = resolve_method(self.method), {"scale_rewards": self.scale_rewards}
        if self.loss_type is None:
            self.loss_type = "dapo" if row.aggregate == "token" else "grpo"
        self.beta = row.kl_beta if self.beta is None else self.beta
        self.likelihood = row.likelihood if self.likelihood is None else self.likelihood
        self.state_similarity = row.state_similarity if self.state_similarity is None else self.state_similarity
        super().__post_init__()
        check_options(self, row, as_written)
        if self.turn_gamma is not None and not 0.0 <= self.turn_gamma <= 1.0:
            raise ValueError(f"turn_gamma={self.turn_gamma}: a discount lies in [0, 1]; 1 is the paper's")
        if self.clip_beta is not None and not 0.0 <= self.clip_beta < 1.0:
            raise ValueError(
                f"clip_beta={self.clip_beta}: must lie in [0, 1), so that no clip range closes; 0.3 is the paper's"
            )
        if not self.temperature > 0.0:
            raise ValueError(
                f"temperature={self.temperature}: logits are divided by it, in generation and in the loss; set more "
                "than 0"
            )
        if not 0.0 < self.state_similarity <= 1.0:
            raise ValueError(f"state_similarity={self.state_similarity}: must lie in (0, 1]; 1 asks for equality")
        self._take_from_method()
        if (self.process_reward_model is not None) != (self.process_signal == "reward_model"):
            raise ValueError(
                f"process_signal={self.process_signal!r} with process_reward_model={self.process_reward_model!r}: a "
                "path goes with process_signal='reward_model', and that needs one"
            )
        if self.process_signal != "policy" and not METHODS[self.method].signal:
            raise ValueError(
                f"process_signal={self.process_signal!r}: method {self.method!r} reads no process signal; leave it "
                "out, or say 'policy' over a recipe that has it"
            )
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations}: a group of 1 has no baseline and every advantage is 0; "
                "use 2 or more rollouts per prompt"
            )
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        if corrects and METHODS[self.method].shares_turns and self.vllm_importance_sampling_mode.startswith("sequence"):
            raise ValueError(
                f"vllm_importance_sampling_mode={self.vllm_importance_sampling_mode!r}: method {self.method!r} counts "
                "a turn that rollouts share once, and one weight per rollout would be that of one of them; set "
                "vllm_importance_sampling_mode='token_truncate' or 'token_mask'"
            )
        try:
            check_group_size(METHODS[self.method].sampling, self.num_generations)
        except ValueError as error:
            raise ValueError(f"method {self.method!r}: {error}") from None

    def resolve_method(self) -> Method:
        """Return the method's row with what this configuration changes of it."""
        row = METHODS[self.method]
        changes = {ours: getattr(self, name) for name, ours in _CREDIT_OPTIONS.items() if _has(row, ours)}
        changes |= {"eps_low": self.epsilon, "eps_high": self.epsilon_high, "kl_beta": self.beta}
        changes |= {"likelihood": self.likelihood, "state_similarity": self.state_similarity}
        if self.loss_type in AGGREGATES:
            changes["aggregate"] = AGGREGATES[self.loss_type]
        if self.importance_sampling_level == "sequence":
            changes["ratio"] = "sequence"
        if self.delta is not None:
            changes["dual_clip"] = self.delta
        return resolve_method(self.method, **changes)

    def _take_from_method(self) -> None:
        """Fill in what is None from the method's row, and refuse what its credit does not have."""
        row = METHODS[self.method]
        if self.epsilon_high is None:
            self.epsilon_high = row.eps_high if self.epsilon is None else self.epsilon
        if self.epsilon is None:
            self.epsilon = row.eps_low
        if self.delta is not None and self.delta <= 1 + self.epsilon_high:
            raise ValueError(
                f"delta={self.delta}: two-sided clipping begins above the clip range, which ends at "
                f"{1 + self.epsilon_high} (1 + epsilon_high); set more, or leave it out"
            )
        for name, ours in _CREDIT_OPTIONS.items():
            if _has(row, ours):
                if getattr(self, name) is None:
                    setattr(self, name, getattr(row.credit, ours))
            elif getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: method {self.method!r} has no such parameter; leave it out"
                )
        if self.cut_last_result and not row.signal:
            raise ValueError(f"cut_last_result=True: method {self.method!r} reads no gain; leave it out")
        self.resolve_method()  # raises for parts that contradict each other


_CHOICES: dict[str, Collection[Any]] = {
    "loss_type": (None, *AGGREGATES, *OTHER_OBJECTIVES),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "answer_alias": get_args(Alias),
    "likelihood": (None, *get_args(Likelihood)),
    "gain_method": get_args(GainMethod),
    "turn_baseline": (None, *get_args(Baseline)),
    "process_signal": get_args(Signal),
}

_CREDIT_OPTIONS = {
    "turn_gamma": "gamma",
    "gain_alpha": "alpha",
    "clip_beta": "beta",
    "turn_baseline": "baseline",
    "std_floor": "std_floor",
}
"""Our name of a parameter -> the credit rule's."""


def unread_options(method: str) -> set[str]:
    """Return the options of per-turn credit that `method` refuses, because its rule has no such thing."""
    row = METHODS[method]
    names = {name for name, ours in _CREDIT_OPTIONS.items() if not _has(row, ours)}
    return names if row.signal else names | {"process_signal", "process_reward_model", "cut_last_result"}


def _has(method: Method, parameter: str) -> bool:
    return parameter in {f.name for f in fields(method.credit)}  # type: ignore[arg-type]
