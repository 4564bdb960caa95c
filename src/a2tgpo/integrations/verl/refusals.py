"""Refuse, before anything is loaded, what of verl's configuration per-turn credit cannot honour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings, methods_for_verl
from a2tgpo.methods import Method
from a2tgpo.rollout.strategies import DynamicSampling

ESTIMATOR = "a2tgpo"
"""Value of `algorithm.adv_estimator`: advantages come from the trainer and not from verl's registry."""

AGENT_LOOP = "a2tgpo_search"


def check_config(config: Mapping[str, Any], settings: TurnCreditSettings) -> Method:
    """Return the method of a run, or say why the run cannot start.

    Args:
        config: the whole of verl's configuration, plain or OmegaConf's.

    Raises:
        ValueError: an option that cannot be honoured; the message names it and says what to do.
    """
    method = settings.resolve_method()
    if method.shares_turns:
        raise ValueError(
            f"+a2tgpo.method={settings.method!r} samples {method.sampling}, whose rollouts share turns, and verl "
            f"samples each rollout by itself; train it with TRL, or choose one of {', '.join(methods_for_verl())}"
        )
    for refusal in _REFUSALS:
        value = select(config, refusal.key)
        if value is not None and refusal.refused(value):
            raise ValueError(f"{refusal.key}={value}: {refusal.remedy}")
    _check_kl(config, method)
    _check_filter(config, method)
    actor = "actor_rollout_ref.actor"
    if "entropy" in method.credit.reads and select(config, "algorithm.rollout_correction.bypass_mode"):
        raise ValueError(
            f"algorithm.rollout_correction.bypass_mode=True: method {settings.method!r} reads entropies of the policy, "
            "which this mode does not compute; leave it out"
        )
    if settings.gain_method == "cached" and select(config, f"{actor}.strategy") not in ("fsdp", "fsdp2"):
        raise ValueError(
            f"+a2tgpo.gain_method='cached': {actor}.strategy={select(config, f'{actor}.strategy')} does not run a "
            "Hugging Face model with its cache; leave it at 'auto', which then reads rows"
        )
    _check_agent_loop(config, settings)
    return method


@dataclass(frozen=True)
class Refusal:
    """Name a key of verl's whose given value cannot be honoured, and what to do instead."""

    key: str
    refused: Callable[[Any], bool]
    remedy: str


def _clip_bound(name: str, default: float) -> Refusal:
    remedy = "clip bounds are the method's; change them with +a2tgpo.epsilon and +a2tgpo.epsilon_high"
    return Refusal(f"actor_rollout_ref.actor.{name}", lambda value: float(value) != default, remedy)


_REFUSALS = (
    Refusal(
        "algorithm.adv_estimator",
        lambda v: v != ESTIMATOR,
        f"advantages are this trainer's; set algorithm.adv_estimator={ESTIMATOR}",
    ),
    Refusal("actor_rollout_ref.rollout.n", lambda v: v < 2, "a group of 1 has no baseline; use 2 or more rollouts"),
    Refusal("critic.enable", bool, "no method of the table reads a critic; leave critic.enable unset"),
    Refusal(
        "algorithm.use_kl_in_reward",
        bool,
        "a penalty inside the reward would be normalised with it; set actor_rollout_ref.actor.use_kl_loss=True instead",
    ),
    Refusal(
        "algorithm.norm_adv_by_std_in_grpo",
        lambda v: not v,
        "the method says how outcomes are normalised; leave it at True",
    ),
    Refusal("algorithm.gamma", lambda v: v != 1, "set the discount of later turns as +a2tgpo.turn_gamma"),
    Refusal("algorithm.lam", lambda v: v != 1, "no method of the table has a λ; leave it at 1"),
    Refusal("distillation.enabled", bool, "the loss is this trainer's; leave distillation off"),
    _clip_bound("clip_ratio", 0.2),
    _clip_bound("clip_ratio_low", 0.2),
    _clip_bound("clip_ratio_high", 0.2),
    _clip_bound("clip_ratio_c", 3.0),
    Refusal(
        "actor_rollout_ref.actor.policy_loss.loss_mode",
        lambda v: v != "vanilla",
        "the loss is the method's; leave policy_loss.loss_mode at 'vanilla'",
    ),
    Refusal(
        "actor_rollout_ref.actor.use_prefix_grouper",
        bool,
        "it lays rows out otherwise than this loss reads them; leave it off",
    ),
    Refusal(
        "actor_rollout_ref.actor.kl_loss_type",
        lambda v: v not in ("low_var_kl", "k3"),
        "the penalty is the k3 estimate; set kl_loss_type=low_var_kl",
    ),
)


def _check_kl(config: Mapping[str, Any], method: Method) -> None:
    """Refuse to leave out silently a penalty that the method has as published."""
    if method.kl_beta and not select(config, "actor_rollout_ref.actor.use_kl_loss"):
        raise ValueError(
            f"actor_rollout_ref.actor.use_kl_loss=False: method {method.name!r} has a KL penalty of {method.kl_beta}; "
            f"set actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_coef={method.kl_beta}, or "
            "+a2tgpo.kl_beta=0 to train without"
        )


def _check_filter(config: Mapping[str, Any], method: Method) -> None:
    """Check that zero-variance groups are dropped where the method does, by verl, and only there."""
    drops, filters = isinstance(method.sampling, DynamicSampling), select(config, "algorithm.filter_groups.enable")
    if drops and not filters:
        raise ValueError(
            f"algorithm.filter_groups.enable=False: method {method.name!r} replaces zero-variance groups, which verl "
            "does; set algorithm.filter_groups.enable=True algorithm.filter_groups.metric=reward"
        )
    if filters and method.signal:
        raise ValueError(
            f"algorithm.filter_groups.enable=True drops prompts of equal rewards, from which method {method.name!r} "
            "still learns through gains; leave it out"
        )


def _check_agent_loop(config: Mapping[str, Any], settings: TurnCreditSettings) -> None:
    rollout = "actor_rollout_ref.rollout"
    if select(config, f"{rollout}.agent.default_agent_loop") != AGENT_LOOP:
        return
    engine = select(config, f"{rollout}.name")
    if engine in ("sglang", "trtllm"):
        raise ValueError(
            f"{rollout}.name={engine}: agent loop {AGENT_LOOP!r} ends turns at a closing tag, and verl starts this "
            f"engine without a tokenizer; set {rollout}.name=vllm, or use verl's tool_agent"
        )
    if settings.corpus is None and settings.retriever is None:
        raise ValueError(
            f"agent loop {AGENT_LOOP!r} has nothing to search: give +a2tgpo.corpus (passages, JSONL), or "
            "+a2tgpo.retriever (an index folder or a server's address)"
        )


def select(config: Mapping[str, Any], key: str) -> Any:
    """Return the value under a dotted key; None where there is none."""
    found: Any = config
    for name in key.split("."):
        if found is None or not hasattr(found, "get"):
            return None
        found = found.get(name)
    return found
