"""Make verl's command of a recipe, and run it: `a2tgpo verl RECIPE [--key value ...] [verl.key=value ...]`.

A recipe says what one process does under TRL; with N devices the batches are those of N such processes. TRL counts
updates, verl batches of rollouts, each of which feeds several updates.
"""

from __future__ import annotations

import difflib
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from datasets import Dataset

from a2tgpo.data.formats import load_questions
from a2tgpo.data.world import World
from a2tgpo.errors import RecipeError, needs_extra
from a2tgpo.integrations.verl.refusals import AGENT_LOOP, ESTIMATOR
from a2tgpo.integrations.verl.settings import TurnCreditSettings
from a2tgpo.pretrained import resolve
from a2tgpo.run.recipe import Recipe
from a2tgpo.run.recipe_file import find_recipe

if TYPE_CHECKING:
    from rich.console import Console

ACTOR, ROLLOUT, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))

_DEFAULTS: dict[str, Any] = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 256,
    "learning_rate": 1e-6,
    "max_steps": -1,
    "output_dir": "runs/verl",
    "temperature": 1.0,
    "seed": 42,
    "save_steps": 500,
    "bf16": True,
}
"""TRL's defaults of the keys that are translated, where a recipe may leave them out."""


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
    "attn_implementation": _same(f"+{MODEL}.override_config.attn_implementation"),
    "lora_alpha": _same(f"{MODEL}.lora_alpha"),
    "report_to": lambda value: [f"trainer.logger=[{','.join(['console', *_loggers(value)])}]"],
    "lr_scheduler_type": lambda value: [f"{ACTOR}.optim.lr_scheduler_type={_scheduler(value)}"],
    "warmup_steps": _same(f"{ACTOR}.optim.lr_warmup_steps"),
}
"""Recipe key -> overrides of verl's configuration."""

_TOGETHER = (
    *("model_name_or_path", "output_dir", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("steps_per_generation", "save_steps", "bf16", "fp16", "beta", "use_peft", "lora_r", "use_cpu", "dtype"),
)
"""Keys that are read together with others."""

_NOT_VERLS = (
    *("logging_steps", "rows_per_generation", "eval_batch_size", "use_vllm", "vllm_mode", "log_completions"),
    *("disable_dropout", "gain_method", "save_strategy", "disable_tqdm", "per_device_eval_batch_size"),
)
"""Keys that say how TRL goes about it and have no meaning to verl."""


def verl_command(given: Mapping[str, Any], folder: Path, *, n_nodes: int = 1, n_devices: int = 1) -> list[str]:
    """Return the arguments of `python -m verl.trainer.main_ppo` for a recipe whose data lies in `folder`.

    Raises:
        RecipeError: a key that verl has no counterpart of, with the nearest that it has or what to do.
    """
    recipe = {key: value for key, value in given.items() if value is not None}
    _check_keys(recipe)
    recipe = _DEFAULTS | recipe
    settings = _settings(recipe, folder)
    overrides = [
        "trainer.v1.trainer_mode=a2tgpo",
        f"algorithm.adv_estimator={ESTIMATOR}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
        f"data.max_prompt_length={recipe.get('max_prompt_tokens', Recipe().max_prompt_tokens)}",
        f"{MODEL}.path={resolve(recipe['model_name_or_path'])}",
        f"{ROLLOUT}.name=vllm",
        f"{ROLLOUT}.agent.default_agent_loop={AGENT_LOOP}",
        f"trainer.nnodes={n_nodes}",
        f"trainer.n_gpus_per_node={n_devices}",
        "trainer.val_before_train=False",
        f"trainer.default_local_dir={Path(recipe['output_dir']) / 'checkpoints'}",
        *_batches(recipe, n_nodes * n_devices),
        *_precision(recipe),
        *_kl(recipe, settings),
    ]
    overrides += [text for key, value in recipe.items() if key in _TRANSLATED for text in _TRANSLATED[key](value)]
    if recipe.get("use_peft"):
        overrides.append(f"{MODEL}.lora_rank={recipe.get('lora_r', 16)}")
    if settings.resolve_method().aggregate == "token" and settings.method == "dapo":
        overrides += ["algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=reward"]
    added = {"run_dir": recipe["output_dir"]} | settings.as_recipe()
    return overrides + [f"+a2tgpo.{key}={_quoted(value)}" for key, value in added.items()]


def _check_keys(recipe: Mapping[str, Any]) -> None:
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
            f"warm_start_steps={recipe['warm_start_steps']}: verl has no warm start; run it with TRL (a2tgpo train RECIPE "
            "--max_steps 0), then give --model_name_or_path OUTPUT_DIR/warm_start --warm_start_steps 0"
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
                f"an {name} has {n_rows} rollouts, which num_generations={rollouts} does not divide: verl counts prompts; "
                "change per_device_train_batch_size or gradient_accumulation_steps"
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
    if int(recipe["max_steps"]) > 0:
        found.append(f"trainer.total_training_steps={math.ceil(int(recipe['max_steps']) / updates)}")
    return found


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


def _loggers(value: Any) -> list[str]:
    return [name for name in ([value] if isinstance(value, str) else value) if name != "none"]


def _scheduler(value: Any) -> str:
    if value not in ("constant", "constant_with_warmup", "cosine"):
        raise RecipeError(f"lr_scheduler_type={value!r}: verl has 'constant' and 'cosine', both with warm-up")
    return "cosine" if value == "cosine" else "constant"


def _plain(value: Any) -> str:
    return str(value)


def _quoted(value: Any) -> str:
    """Write a value as Hydra reads it: text in quotes, since it may hold braces, commas and spaces."""
    if not isinstance(value, str):
        return _plain(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- data ------------------------------------------------------------------------------------------------------------


def write_data(given: Mapping[str, Any], folder: Path) -> None:
    """Write train.parquet and val.parquet as verl reads them, and the corpus of a generated world, into `folder`."""
    known = {f.name for f in fields(Recipe)}
    recipe = Recipe(**{key: value for key, value in given.items() if key in known})
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.questions is None:
        world = World.generate(recipe.world_seed, recipe.world_entities, recipe.world_entities // 2)
        world.write_corpus(folder / "corpus.jsonl")
        train = world.questions("train", recipe.hops, recipe.n_train_questions or 4000)
        held_out = world.questions("eval", recipe.hops, recipe.n_eval_questions or 300)
    else:
        train = _load(recipe, recipe.questions, "train", recipe.n_train_questions)
        held_out = _load(recipe, recipe.eval_questions or [], "dev", recipe.n_eval_questions)
    write_rows(train, folder / "train.parquet")
    write_rows(held_out, folder / "val.parquet")


def write_rows(questions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write questions (`id`, `question`, `answer`) as rows of verl's data sets."""
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "data_source": str(row.get("dataset") or "a2tgpo"),
            "reward_model": {"style": "rule", "ground_truth": _aliases(row["answer"])},
            "extra_info": {"index": index, "id": str(row.get("id", index))},
        }
        for index, row in enumerate(questions)
    ]
    Dataset.from_list(rows).to_parquet(str(path))


def _aliases(answer: str | Sequence[str]) -> list[str]:
    return [answer] if isinstance(answer, str) else list(answer)


def _load(recipe: Recipe, sources: Sequence[str], split: str, limit: int | None) -> list[dict[str, Any]]:
    where = {"answerable_here": True} if recipe.only_answerable else None
    found = [row for source in sources for row in load_questions(source, split=split, where=where)]
    return list(Dataset.from_list(found).shuffle(seed=0).select(range(min(limit or len(found), len(found)))))


# --- command ---------------------------------------------------------------------------------------------------------


def add_verl_command(commands: Any) -> None:
    """Add `verl` to the subcommands of `a2tgpo`."""
    text = "train a recipe on a Ray cluster with verl"
    command = commands.add_parser("verl", help=text, description=text, allow_abbrev=False)
    command.usage = "a2tgpo verl RECIPE [--key value ...] [verl.key=value ...]"
    command.epilog = "Recipe keys come first; verl's own options, such as trainer.test_freq=10, override what is made."
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name that `a2tgpo recipes` lists")
    command.add_argument("--nodes", type=int, default=1, help="nodes of the cluster")
    command.add_argument("--devices", type=int, default=None, help="devices per node; default: those of this machine")
    command.add_argument("--dry_run", action="store_true", help="write the data and print the command, no more")
    command.set_defaults(run=_run)


def _run(arguments: Any, overrides: Sequence[str], console: Console) -> int:
    given, verls = read_overrides(arguments.recipe, overrides)
    folder = Path(given.get("output_dir") or _DEFAULTS["output_dir"]).absolute() / "verl_data"
    n_devices = arguments.devices or _devices()
    command = verl_command(given, folder, n_nodes=arguments.nodes, n_devices=n_devices)
    write_data(given, folder)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *command, *verls]
    console.print(shlex.join(command).replace(" ", " \\\n  ", 2), soft_wrap=True, highlight=False, markup=False)
    if arguments.dry_run:
        return 0
    with needs_extra("verl", "a2tgpo verl"):
        import transfer_queue  # noqa: F401
        import verl  # noqa: F401
    return subprocess.run(command, check=False).returncode


def read_overrides(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a recipe with `--key value` of the command line, and what is meant for verl itself.

    Raises:
        RecipeError: the recipe cannot be read, or a flag has no value.
    """
    path = find_recipe(name)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {str(path)!r}: expected `key: value` lines, got {type(content).__name__}")
    given: dict[str, Any] = {str(key): value for key, value in content.items()}
    verls, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if "=" not in word:
                raise RecipeError(f"{word!r}: expected --key value of the recipe, or verl's own key=value")
            verls.append(word)
            continue
        key, separator, value = word[2:].partition("=")
        if not separator:
            if not rest:
                raise RecipeError(f"--{key} has no value")
            value = rest.pop(0)
        given[key] = yaml.safe_load(value)
    return given, verls


def _devices() -> int:
    import torch

    return max(1, torch.accelerator.device_count())
