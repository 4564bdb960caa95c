"""Refuse, before anything is loaded, what of verl's configuration per-turn credit cannot honour."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings, methods_for_verl
from a2tgpo.methods import Method
from a2tgpo.rollout.strategies import DynamicSampling

ESTIMATOR = "a2tgpo"
"""Value of `algorithm.adv_estimator`: advantages come from the trainer and not from verl's registry."""

MODE = "trainer.v1.trainer_mode"

AGENT_LOOP, TOOL_LOOP = "a2tgpo_search", "a2tgpo_tool_agent"
"""Our agent loops: the paper's tags over our retrieval, and verl's `tool_agent` with likelihoods from the server."""


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
    _check_bypass(config, method)
    if settings.gain_method == "cached" and (obstacle := why_not_cached_by(config)) is not None:
        raise ValueError(f"+a2tgpo.gain_method='cached': {obstacle}; leave it at 'auto', which then reads rows")
    if settings.gain_method == "server":
        _check_server(config)
    _check_agent_loop(config, settings)
    _check_separate(config)
    return method


def why_not_cached_by(config: Mapping[str, Any]) -> str | None:
    """Name the option under which the actor's module cannot be run with a KV cache; None where there is none."""
    actor = "actor_rollout_ref.actor"
    strategy = select(config, f"{actor}.strategy")
    if strategy not in ("fsdp", "fsdp2"):
        return f"{actor}.strategy={strategy} does not run a Hugging Face model with its cache"
    for key in (f"{actor}.ulysses_sequence_parallel_size", f"{actor}.fsdp_config.ulysses_sequence_parallel_size"):
        if (size := select(config, key) or 1) > 1:
            return f"{key}={size} leaves a process a part of each sequence only"
    if select(config, key := "actor_rollout_ref.model.use_fused_kernels"):
        return f"{key}=True replaces the model's forward by verl's fused kernels"
    return None


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
        "actor_rollout_ref.actor.loss_agg_mode",
        lambda v: v != "token-mean",
        "the method says what its loss is averaged over; leave it at 'token-mean'",
    ),
    Refusal(
        "algorithm.rollout_correction.loss_type",
        lambda v: v != "ppo_clip",
        "the loss is the method's; leave it at 'ppo_clip'",
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


def _check_bypass(config: Mapping[str, Any], method: Method) -> None:
    """Refuse what verl leaves out where it takes the rollout engine's log-probabilities for the old ones."""
    correction = "algorithm.rollout_correction"
    if not select(config, f"{correction}.bypass_mode"):
        return
    if "entropy" in method.credit.reads:
        raise ValueError(
            f"{correction}.bypass_mode=True: method {method.name!r} reads entropies of the policy, which verl then "
            "does not compute; leave it out"
        )
    for name in ("rollout_is", "rollout_rs"):
        if (value := select(config, f"{correction}.{name}")) is not None:
            raise ValueError(
                f"{correction}.{name}={value} with bypass_mode=True: verl then corrects inside its own loss, and the "
                "loss is the method's; set bypass_mode=False"
            )


def _check_separate(config: Mapping[str, Any]) -> None:
    """Refuse what ends verl 0.9.1's separate trainer in a log call of its own, which a higher level leaves out."""
    apart = select(config, key := "actor_rollout_ref.hybrid_engine") is False
    level = os.environ.get("VERL_LOGGING_LEVEL", "INFO")
    if apart and level in ("INFO", "DEBUG") and select(config, MODE) == "a2tgpo_separate_async":
        raise ValueError(f"{key}=False: verl 0.9.1 fails as it logs this; set VERL_LOGGING_LEVEL=WARN as well")


def _check_server(config: Mapping[str, Any]) -> None:
    """Check that the rollout server is one whose log-probabilities are those of the policy that is to be trained."""
    key, rollout = "+a2tgpo.gain_method='server'", "actor_rollout_ref.rollout"
    engine, loop = (select(config, f"{rollout}.{name}") for name in ("name", "agent.default_agent_loop"))
    if loop not in (AGENT_LOOP, TOOL_LOOP):
        raise ValueError(
            f"{key}: the agent loop asks for them, and {loop!r} does not; set {rollout}.agent.default_agent_loop to "
            f"{AGENT_LOOP} or {TOOL_LOOP}"
        )
    if engine in ("sglang", "trtllm"):
        raise ValueError(f"{key}: {rollout}.name={engine} gives no log-probabilities of a prompt to verl; take vllm")
    if (temperature := select(config, f"{rollout}.temperature")) not in (None, 1, 1.0):
        raise ValueError(
            f"{key}: the server's log-probabilities of a prompt are those of temperature 1, and {rollout}.temperature="
            f"{temperature}; leave gain_method at 'auto'"
        )
    if (mode := select(config, MODE)) in ("a2tgpo_colocate_async", "a2tgpo_separate_async"):
        raise ValueError(f"{key}: with {mode} a server's weights change under a rollout; leave gain_method at 'auto'")


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
