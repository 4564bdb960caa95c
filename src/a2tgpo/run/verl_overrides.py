"""Translate a recipe into the options of verl.

A recipe says what one process does under TRL; with N devices the batches are those of N such processes. TRL counts
updates, verl batches of rollouts, each of which feeds several updates.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from a2tgpo.errors import RecipeError
from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.refusals import AGENT_LOOP, ESTIMATOR
from a2tgpo.pretrained import resolve
from a2tgpo.rollout.strategies import DynamicSampling
from a2tgpo.run.recipe import Recipe

ACTOR, ROLLOUT, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))

DEFAULTS: dict[str, Any] = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 512,
    "learning_rate": 1e-6,
    "max_steps": -1,
    "output_dir": "runs/verl",
    "temperature": 1.0,
    "seed": 42,
    "save_steps": 500,
    "bf16": True,
    "num_train_epochs": 3,
    "weight_decay": 0.0,
    "vllm_tensor_parallel_size": 1,
    "report_to": "none",
    "resume_from_checkpoint": False,
}
"""TRL's defaults of the keys that are translated, where a recipe may leave them out and verl's are others."""


def _plain(value: Any) -> str:
    return str(value)


def quoted(value: Any) -> str:
    """Write a value as Hydra reads it: text in quotes, since it may hold braces, commas and spaces."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if not isinstance(value, str):
        return _plain(value)
    # Hydra takes a backslash as itself, unless backslashes stand before a quote: then each is written twice.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
    return "'" + doubled.replace("'", "\\'") + "'"


def _loggers(value: Any) -> list[str]:
    return [name for name in ([value] if isinstance(value, str) else value) if name != "none"]


def _resume(value: Any) -> list[str]:
    if str(value).lower() in ("true", "false"):
        return [f"trainer.resume_mode={'auto' if str(value).lower() == 'true' else 'disable'}"]
    return ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={quoted(str(value))}"]


def _scheduler(value: Any) -> str:
    if value not in ("constant", "constant_with_warmup", "cosine"):
        raise RecipeError(f"lr_scheduler_type={value!r}: verl has 'constant' and 'cosine', both with warm-up")
    return "cosine" if value == "cosine" else "constant"


def _same(key: str) -> Callable[[Any], list[str]]:
    return lambda value: [f"{key}={_plain(value)}"]


_TRANSLATED: dict[str, Callable[[Any], list[str]]] = {
    "learning_rate": _same(f"{ACTOR}.optim.lr"),
    "weight_decay": _same(f"{ACTOR}.optim.weight_decay"),
    "max_grad_norm": _same(f"{ACTOR}.optim.clip_grad"),
    "num_iterations": _same(f"{ACTOR}.ppo_epochs"),
    "temperature": _same(f"{ROLLOUT}.temperature"),
    "top_p": _same(f"{ROLLOUT}.top_p"),
    "top_k": lambda value: [f"{ROLLOUT}.top_k={value or -1}"],
    "num_generations": _same(f"{ROLLOUT}.n"),
    "vllm_gpu_memory_utilization": _same(f"{ROLLOUT}.gpu_memory_utilization"),
    "vllm_tensor_parallel_size": _same(f"{ROLLOUT}.tensor_model_parallel_size"),
    "max_completion_length": _same("data.max_response_length"),
    "seed": lambda value: [f"data.seed={value}", f"{ACTOR}.data_loader_seed={value}"],
    "save_total_limit": _same("trainer.max_actor_ckpt_to_keep"),
    "gradient_checkpointing": _same(f"{MODEL}.enable_gradient_checkpointing"),
    "trust_remote_code": lambda value: [f"{MODEL}.trust_remote_code={value}", f"data.trust_remote_code={value}"],
    "attn_implementation": lambda value: [
        f"+{MODEL}.override_config.attn_implementation={value}",
        # Packed rows are for FlashAttention: another would look across them.
        f"{MODEL}.use_remove_padding={'flash' in str(value)}",
    ],
    "lora_alpha": _same(f"{MODEL}.lora_alpha"),
    "report_to": lambda value: [f"trainer.logger=[{','.join(['console', *_loggers(value)])}]"],
    "lr_scheduler_type": lambda value: [f"{ACTOR}.optim.lr_scheduler_type={_scheduler(value)}"],
    "optim": lambda value: _optimizer(value),
    "warmup_steps": _same(f"{ACTOR}.optim.lr_warmup_steps"),
    "resume_from_checkpoint": _resume,
}
"""Recipe key -> overrides of verl's configuration."""

_TOGETHER = (
    *("model_name_or_path", "output_dir", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("steps_per_generation", "save_steps", "bf16", "fp16", "beta", "use_peft", "lora_r", "use_cpu", "dtype"),
    *("num_train_epochs", "process_signal", "step_separator", "processes"),
)
"""Keys that are read together with others."""

_REFUSED = {
    "environment": "with verl a recipe searches; train it with `a2tgpo train`, or make it a tool for verl's tool_agent",
    "tools": "with verl a recipe searches; train it with `a2tgpo train`, or make them tools for verl's tool_agent",
    "reward": "verl calls reward functions of another signature; leave it out with --reward null, and give "
    "reward.custom_reward_function.path=FILE reward.custom_reward_function.name=FUNCTION behind the recipe",
    "process_reward_model": "verl's driver has no device for it; give turn_signal, or train with `a2tgpo train`",
}
"""Keys of a recipe that a run with verl cannot honour, and what to do."""

_NOT_VERLS = (
    *("logging_steps", "rows_per_generation", "eval_batch_size", "use_vllm", "vllm_mode", "log_completions"),
    *("disable_dropout", "gain_method", "save_strategy", "disable_tqdm", "per_device_eval_batch_size"),
)
"""Keys that say how TRL goes about it and have no meaning to verl."""


def verl_overrides(given: Mapping[str, Any], folder: Path, *, n_nodes: int = 1, n_devices: int = 1) -> list[str]:
    """Return the arguments of `python -m verl.trainer.main_ppo` for a recipe whose data lies in `folder`.

    Raises:
        RecipeError: a key that verl has no counterpart of, with the nearest that it has or what to do.
    """
    recipe = {key: value for key, value in given.items() if value is not None}
    _check_keys(recipe)
    if (wanted := recipe.get("processes", n_nodes * n_devices)) != n_nodes * n_devices:
        raise RecipeError(
            f"processes={wanted}: there are {n_nodes} × {n_devices} devices; give other --nodes and --devices, or "
            "change per_device_train_batch_size, gradient_accumulation_steps and steps_per_generation and give "
            f"--processes {n_nodes * n_devices}"
        )
    recipe = DEFAULTS | recipe
    settings = _settings(recipe, folder)
    made = [
        "trainer.v1.trainer_mode=a2tgpo",
        f"algorithm.adv_estimator={ESTIMATOR}",
        f"data.train_files={quoted(str(folder / 'train.parquet'))}",
        f"data.val_files={quoted(str(folder / 'val.parquet'))}",
        f"data.max_prompt_length={recipe.get('max_prompt_tokens', Recipe().max_prompt_tokens)}",
        f"{MODEL}.path={quoted(resolve(recipe['model_name_or_path']))}",
        f"{ROLLOUT}.name=vllm",
        f"{ROLLOUT}.agent.default_agent_loop={AGENT_LOOP}",
        f"trainer.nnodes={n_nodes}",
        f"trainer.n_gpus_per_node={n_devices}",
        "trainer.val_before_train=False",
        f"trainer.default_local_dir={quoted(str(Path(recipe['output_dir']) / 'checkpoints'))}",
        *_batches(recipe, n_nodes * n_devices),
        *_precision(recipe),
        *_kl(recipe, settings),
    ]
    made += [text for key, value in recipe.items() if key in _TRANSLATED for text in _TRANSLATED[key](value)]
    if recipe.get("use_peft"):
        made.append(f"{MODEL}.lora_rank={recipe.get('lora_r', 16)}")
    if isinstance(settings.resolve_method().sampling, DynamicSampling):
        made += ["algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=reward"]
    added = {"run_dir": recipe["output_dir"]} | settings.as_recipe()
    return made + [f"+a2tgpo.{key}={quoted(value)}" for key, value in added.items()]


def _check_keys(recipe: Mapping[str, Any]) -> None:
    for key, remedy in _REFUSED.items():
        if key in recipe:
            raise RecipeError(f"{key}={recipe[key]!r}: {remedy}")
    if (signal := recipe.get("process_signal", "policy")) != "policy":
        raise RecipeError(
            f"process_signal={signal!r}: with verl the policy scores the answer, or turn_signal the turns; give one of "
            "these, or train with `a2tgpo train`"
        )
    ours = {f.name for f in fields(Recipe)} | {f.name for f in fields(TurnCreditSettings)} - {"run_dir"}
    known = ours | _TRANSLATED.keys() | set(_TOGETHER) | set(_NOT_VERLS)
    for key in recipe:
        if key not in known:
            nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
            meant = f"did you mean {nearest[0]!r}? If not, " if nearest else ""
            raise RecipeError(
                f"recipe key {key!r} has no counterpart in verl: {meant}leave it out with --{key} null and give verl's "
                "own option behind the recipe, such as trainer.test_freq=10"
            )
    if "model_name_or_path" not in recipe:
        raise RecipeError("model_name_or_path is missing: give a folder, a Hub model, or a2tgpo:hops-tiny")
    if recipe.get("warm_start_steps"):
        raise RecipeError(
            f"warm_start_steps={recipe['warm_start_steps']}: verl has no warm start; run it with TRL (a2tgpo train "
            "RECIPE --max_steps 0), then give --model_name_or_path OUTPUT_DIR/warm_start --warm_start_steps 0"
        )
    if recipe.get("best_checkpoint"):
        raise RecipeError(
            "best_checkpoint=True: verl keeps the last; give --best_checkpoint false, and compare checkpoints by "
            "`a2tgpo eval`"
        )
    if "lr_scheduler_type" not in recipe:
        raise RecipeError(
            "lr_scheduler_type is left out: TRL then lowers the learning rate linearly, which verl cannot; give "
            "'constant' or 'cosine'"
        )
    if recipe.get("use_cpu"):
        raise RecipeError("use_cpu=True: verl trains on accelerators; give --use_cpu false on a machine with one")
    if recipe.get("fp16"):
        raise RecipeError("fp16=True: verl trains in bfloat16 or float32; give --bf16 true or leave both out")


def _settings(recipe: Mapping[str, Any], folder: Path) -> TurnCreditSettings:
    """Return the keys `+a2tgpo.*`; of the generated world the corpus lies in `folder`."""
    names = {f.name for f in fields(TurnCreditSettings)} - {"run_dir", "gain_method"}
    given = {key: value for key, value in recipe.items() if key in names}
    if "questions" not in recipe:
        given["corpus"] = str(folder / "corpus.jsonl")
    try:
        return TurnCreditSettings.of(given)
    except ValueError as error:
        raise RecipeError(str(error).replace("+a2tgpo.", "")) from error


def _batches(recipe: Mapping[str, Any], n_processes: int) -> list[str]:
    """Say how many prompts a batch and an update have, and how many batches there are."""
    rollouts, rows = int(recipe["num_generations"]), int(recipe["per_device_train_batch_size"])
    per_update = int(recipe["gradient_accumulation_steps"])
    per_batch = int(recipe.get("steps_per_generation") or per_update)
    if per_batch % per_update:
        raise RecipeError(
            f"steps_per_generation={per_batch}: with verl a batch feeds whole updates; make it a multiple of "
            f"gradient_accumulation_steps={per_update}"
        )
    updates = per_batch // per_update * int(recipe.get("num_iterations", 1))
    prompts = {}
    for name, n_rows in (("batch", rows * per_batch * n_processes), ("update", rows * per_update * n_processes)):
        if n_rows % rollouts:
            raise RecipeError(
                f"one {name} has {n_rows} rollouts, which num_generations={rollouts} does not divide: verl counts "
                "prompts; change per_device_train_batch_size or gradient_accumulation_steps"
            )
        prompts[name] = n_rows // rollouts
    found = [
        f"data.train_batch_size={prompts['batch']}",
        f"{ACTOR}.ppo_mini_batch_size={prompts['update']}",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu={rows}",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu={rows}",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={rows}",
        f"trainer.save_freq={max(1, int(recipe['save_steps']) // updates)}",
    ]
    if int(recipe["max_steps"]) > 0:  # however often that goes through the questions
        n_batches = math.ceil(int(recipe["max_steps"]) / updates)
        return [*found, f"trainer.total_training_steps={n_batches}", f"trainer.total_epochs={n_batches}"]
    return [*found, f"trainer.total_epochs={math.ceil(float(recipe['num_train_epochs']))}"]


def _optimizer(name: str) -> list[str]:
    if not str(name).startswith("adamw_torch"):
        raise RecipeError(f"optim={name!r}: verl's own is AdamW; give --optim null and verl's option behind the recipe")
    return []


def _precision(recipe: Mapping[str, Any]) -> list[str]:
    name = "bf16" if recipe["bf16"] else "fp32"
    rollout = "bfloat16" if recipe["bf16"] else "float32"
    mixed = f"+{ACTOR}.fsdp_config.mixed_precision={{param_dtype:{name},reduce_dtype:fp32,buffer_dtype:fp32}}"
    return [f"{ACTOR}.strategy=fsdp2", mixed, f"{ROLLOUT}.dtype={rollout}"]


def _kl(recipe: Mapping[str, Any], settings: TurnCreditSettings) -> list[str]:
    strength = recipe.get("beta")
    strength = settings.resolve_method().kl_beta if strength is None else float(strength)
    if not strength:
        return ["+a2tgpo.kl_beta=0"] if settings.resolve_method().kl_beta else []
    return [f"{ACTOR}.use_kl_loss=True", f"{ACTOR}.kl_loss_coef={strength}", f"{ACTOR}.kl_loss_type=low_var_kl"]
