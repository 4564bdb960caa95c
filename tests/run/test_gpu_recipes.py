"""Recipes for GPUs: nobody has run them here, but every key is read, and batches are what their headers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from transformers import BitsAndBytesConfig
from trl import get_peft_config, get_quantization_config

from a2tgpo.cli import main
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_file import find_launcher, load_recipe, packaged_recipes
from tests.run.parts import save_policy, write_recipe

HERE = ["--use_cpu", "true", "--bf16", "false"]


def batches(config: RunConfig) -> tuple[int, int]:
    """Prompts of an update and of a batch, over all the processes that the recipe is for."""
    training, processes = config.training, config.recipe.processes
    assert processes is not None
    rows = training.per_device_train_batch_size * processes
    counts = [rows * n for n in (training.gradient_accumulation_steps, training.steps_per_generation)]
    assert all(count % training.num_generations == 0 for count in counts)
    return counts[0] // training.num_generations, counts[1] // training.num_generations


@pytest.mark.parametrize(
    ("name", "launcher", "prompts", "rollouts"),
    [
        ("gpu/qwen3_4b_8gpus", "fsdp2", (8, 64), 16),
        ("gpu/qwen3_4b_two_nodes", "fsdp2_two_nodes", (8, 64), 16),
        ("gpu/qwen3_4b_lora_24gb", None, (8, 8), 8),
        ("gpu/qwen3_4b_qlora_16gb", None, (8, 8), 8),
    ],
)
def test_batches_of_all_processes(name: str, launcher: str | None, prompts: tuple[int, int], rollouts: int) -> None:
    """The paper's 8 prompts an update and 64 a batch, on as many processes as the launch configuration starts."""
    config = load_recipe(name, HERE)
    assert batches(config) == prompts and config.training.num_generations == rollouts
    started = load_config_from_file(str(find_launcher(launcher))).num_processes if launcher else 1
    assert config.recipe.processes == started
    if launcher:
        assert config.training.use_vllm and config.training.vllm_mode == "colocate"


def test_settings_of_several_gpus_are_the_paper_s() -> None:
    """Apart from how the batch is shared out, the recipes for eight GPUs and for one process ask for the same."""
    one, eight = (load_recipe(name, HERE).given for name in ("paper/qwen3_4b", "gpu/qwen3_4b_8gpus"))
    differ = {key for key in one | eight if one.get(key) != eight.get(key)}
    assert differ == {"processes", "output_dir", "gradient_accumulation_steps", "steps_per_generation"}


def test_adapters_and_4_bits() -> None:
    """LoRA on all linear layers; QLoRA adds NF4 with nested constants, multiplied in bfloat16."""
    lora, qlora = (load_recipe(f"gpu/qwen3_4b_{kind}", HERE) for kind in ("lora_24gb", "qlora_16gb"))
    for config in (lora, qlora):
        peft = get_peft_config(config.model)
        assert peft.r == 32 and peft.target_modules == "all-linear"
    assert not lora.quantizes and qlora.quantizes
    bits = get_quantization_config(qlora.model)
    assert isinstance(bits, BitsAndBytesConfig) and bits.bnb_4bit_compute_dtype == torch.bfloat16
    assert (bits.bnb_4bit_quant_type, bits.bnb_4bit_use_double_quant) == ("nf4", True)


def test_they_say_that_nobody_has_run_them() -> None:
    """The first line of each, which `a2tgpo recipes` shows."""
    names = {name: path for name, path in packaged_recipes().items() if name.startswith("gpu/")}
    assert len(names) == 4
    assert all("Not run by us." in path.read_text(encoding="utf-8").splitlines()[0] for path in names.values())


@pytest.mark.parametrize("changes", [{"use_peft": True}, {"warm_start_steps": 0}])
def test_whole_training_of_4_bits_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    """Neither the updates without adapters nor the warm start could change such weights."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), load_in_4bit=True, **changes)
    assert main(["train", str(recipe)]) == 2
    assert "only adapters on them; set use_peft: true and warm_start_steps: 0" in capsys.readouterr().err
