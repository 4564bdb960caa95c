"""The keys `+a2tgpo.*`, and the options of verl's that are refused before anything is loaded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.refusals import check_config
from a2tgpo.methods import METHODS

CONFIG: dict[str, Any] = {
    "algorithm": {
        "adv_estimator": "a2tgpo",
        "gamma": 1.0,
        "lam": 1.0,
        "norm_adv_by_std_in_grpo": True,
        "use_kl_in_reward": False,
        "filter_groups": {"enable": False},
        "rollout_correction": {"bypass_mode": False, "loss_type": "ppo_clip", "rollout_is": None, "rollout_rs": None},
    },
    "critic": {"enable": None},
    "distillation": {"enabled": False},
    "actor_rollout_ref": {
        "actor": {
            "strategy": "fsdp2",
            "clip_ratio": 0.2,
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.2,
            "clip_ratio_c": 3.0,
            "policy_loss": {"loss_mode": "vanilla"},
            "loss_agg_mode": "token-mean",
            "ulysses_sequence_parallel_size": 1,
            "fsdp_config": {"ulysses_sequence_parallel_size": 1},
            "use_kl_loss": False,
            "kl_loss_type": "low_var_kl",
        },
        "rollout": {"n": 8, "name": "vllm", "temperature": 1.0, "agent": {"default_agent_loop": "tool_agent"}},
        "model": {"use_fused_kernels": False},
    },
    "trainer": {"v1": {"trainer_mode": "a2tgpo"}},
}
"""verl's defaults where they matter, and what its user has to set."""


def with_value(key: str, value: Any) -> dict[str, Any]:
    """CONFIG with one dotted key changed."""
    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    section = config
    for name in path:
        section = section[name]
    section[last] = value
    return config


def test_defaults_are_the_papers() -> None:
    """Nothing given: A²TGPO as its row has it."""
    assert TurnCreditSettings.of({}).resolve_method() == METHODS["a2tgpo"]
    assert check_config(CONFIG, TurnCreditSettings.of(None)) == METHODS["a2tgpo"]


def test_keys_change_the_row() -> None:
    """Keys have the meaning that they have in a recipe; a single ε is both bounds."""
    method = TurnCreditSettings.of({"epsilon": 0.1, "gain_alpha": 0.3, "clip_beta": 0.0}).resolve_method()
    assert (method.eps_low, method.eps_high, method.credit.alpha, method.credit.beta) == (0.1, 0.1, 0.3, 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metod": "igpo"}, r"\+a2tgpo.metod.*did you mean \+a2tgpo.method"),
        ({"method": "ppo"}, "choose one of"),
        ({"method": "grpo", "cut_last_result": True}, "reads no gain"),
        ({"method": "grpo", "gain_alpha": 0.3}, "no such parameter"),
        ({"answer_alias": "all"}, "choose one of 'first', 'best'"),
        ({"gain_method": "fast"}, "choose one of"),
        ({"gain_tokens": 0}, "at least 1"),
        ({"max_turn_tokens": 0}, "max_turn_tokens"),
        ({"epsilon": 2.0}, "eps_low in"),
        ({"method": "grpo", "turn_signal": "m:f"}, r"\+a2tgpo.turn_signal='m:f': method 'grpo' reads no"),
        ({"turn_signal": "judge"}, "they go together"),
        ({"judge": {"url": "http://x", "model": "m"}}, "they go together"),
    ],
)
def test_a_wrong_key_is_refused_with_the_remedy(given: dict[str, Any], message: str) -> None:
    """Unknown names, values out of range, and parameters that the method does not have."""
    with pytest.raises(ValueError, match=message):
        TurnCreditSettings.of(given)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.shares_turns])
def test_methods_whose_rollouts_share_turns_are_refused_by_name(name: str) -> None:
    """verl samples each rollout by itself."""
    with pytest.raises(ValueError, match=rf"method='{name}'.*share turns.*TRL"):
        check_config(CONFIG, TurnCreditSettings(method=name))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.shares_turns])
def test_every_other_method_is_taken(name: str) -> None:
    """With what it needs of verl: its KL penalty, and for DAPO the filter of groups."""
    config = with_value("actor_rollout_ref.actor.use_kl_loss", METHODS[name].kl_beta > 0)
    config["algorithm"]["filter_groups"]["enable"] = name == "dapo"
    assert check_config(config, TurnCreditSettings(method=name)) == METHODS[name]


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("algorithm.adv_estimator", "gae", "set algorithm.adv_estimator=a2tgpo"),
        ("actor_rollout_ref.rollout.n", 1, "2 or more"),
        ("critic.enable", True, "leave critic.enable unset"),
        ("algorithm.use_kl_in_reward", True, "use_kl_loss=True"),
        ("algorithm.norm_adv_by_std_in_grpo", False, "leave it at True"),
        ("algorithm.gamma", 0.9, r"\+a2tgpo.turn_gamma"),
        ("distillation.enabled", True, "leave distillation off"),
        ("actor_rollout_ref.actor.clip_ratio_high", 0.28, r"\+a2tgpo.epsilon_high"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "gspo", "vanilla"),
        ("actor_rollout_ref.actor.kl_loss_type", "k1", "low_var_kl"),
        ("algorithm.filter_groups.enable", True, "learns through gains"),
        ("actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum", "leave it at 'token-mean'"),
        ("algorithm.rollout_correction.loss_type", "reinforce", "leave it at 'ppo_clip'"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(key: str, value: Any, remedy: str) -> None:
    """The message has the key with its value, and what to do."""
    with pytest.raises(ValueError, match=rf"{key}={value}.*{remedy}"):
        check_config(with_value(key, value), TurnCreditSettings())


def test_a_methods_own_parts_are_not_left_out_in_silence() -> None:
    """GRPO's KL penalty and DAPO's dynamic sampling are verl's to switch on."""
    with pytest.raises(ValueError, match=r"use_kl_loss=True .*kl_loss_coef=0.001, or \+a2tgpo.kl_beta=0"):
        check_config(CONFIG, TurnCreditSettings(method="grpo"))
    assert check_config(CONFIG, TurnCreditSettings(method="grpo", kl_beta=0.0)).kl_beta == 0
    with pytest.raises(ValueError, match=r"filter_groups\.enable=True"):
        check_config(CONFIG, TurnCreditSettings(method="dapo"))


def test_the_agent_loop_needs_something_to_search() -> None:
    """It is asked for by name, and an engine that cannot stop at a tag is refused."""
    config = with_value("actor_rollout_ref.rollout.agent.default_agent_loop", "a2tgpo_search")
    with pytest.raises(ValueError, match=r"\+a2tgpo.corpus"):
        check_config(config, TurnCreditSettings())
    check_config(config, TurnCreditSettings(corpus="passages.jsonl"))
    config["actor_rollout_ref"]["rollout"]["name"] = "sglang"
    with pytest.raises(ValueError, match=r"rollout\.name=sglang"):
        check_config(config, TurnCreditSettings(corpus="passages.jsonl"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_rollout_ref.actor.strategy", "megatron"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size", 2),
        ("actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size", 2),
        ("actor_rollout_ref.model.use_fused_kernels", True),
    ],
)
def test_cached_likelihoods_ask_for_an_engine_that_has_a_cache(key: str, value: Any) -> None:
    """Rows are scored there, and where the cache is insisted on the option in its way is named at the start."""
    config = with_value(key, value)
    check_config(config, TurnCreditSettings())
    with pytest.raises(ValueError, match=rf"gain_method='cached': {key}={value} .*leave it at 'auto'"):
        check_config(config, TurnCreditSettings(gain_method="cached"))


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        (
            "actor_rollout_ref.rollout.agent.default_agent_loop",
            "tool_agent",
            "set .*a2tgpo_search or a2tgpo_tool_agent",
        ),
        ("actor_rollout_ref.rollout.name", "sglang", "take vllm"),
        ("actor_rollout_ref.rollout.temperature", 0.6, "those of temperature 1.*leave gain_method at 'auto'"),
        ("trainer.v1.trainer_mode", "a2tgpo_separate_async", "weights change under a rollout"),
    ],
)
def test_the_rollout_server_scores_only_what_it_can(key: str, value: Any, remedy: str) -> None:
    """It gives log-probabilities at temperature 1 of weights that hold still, and an agent loop has to ask."""
    settings = TurnCreditSettings(gain_method="server")
    fitting = with_value("actor_rollout_ref.rollout.agent.default_agent_loop", "a2tgpo_tool_agent")
    check_config(fitting, settings)
    *path, last = key.split(".")
    section = fitting
    for name in path:
        section = section[name]
    section[last] = value
    with pytest.raises(ValueError, match=rf"gain_method='server'.*{remedy}"):
        check_config(fitting, settings)


def test_what_verl_would_do_inside_its_own_loss_is_refused() -> None:
    """With the rollout engine's log-probabilities for old ones, verl weighs and rejects inside the loss it has then."""
    config = with_value("algorithm.rollout_correction.bypass_mode", True)
    check_config(config, TurnCreditSettings())
    for name, value in (("rollout_is", "token"), ("rollout_rs", "seq_mean_k3")):
        config["algorithm"]["rollout_correction"] |= {"rollout_is": None, "rollout_rs": None, name: value}
        with pytest.raises(ValueError, match=rf"{name}={value} with bypass_mode=True.*set bypass_mode=False"):
            check_config(config, TurnCreditSettings())


def test_a_fault_of_verls_separate_trainer_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl 0.9.1 fails in a log call of its own where no rollouts share the trainers' devices; the level decides."""
    config = with_value("actor_rollout_ref.hybrid_engine", False)
    monkeypatch.delenv("VERL_LOGGING_LEVEL", raising=False)
    check_config(config, TurnCreditSettings())
    config["trainer"]["v1"]["trainer_mode"] = "a2tgpo_separate_async"
    with pytest.raises(ValueError, match=r"hybrid_engine=False.*VERL_LOGGING_LEVEL=WARN"):
        check_config(config, TurnCreditSettings())
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARN")
    check_config(config, TurnCreditSettings())
