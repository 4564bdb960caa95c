"""`a2tgpo verl RECIPE`: the command that comes of a recipe, and the data beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from a2tgpo import methods
from a2tgpo.cli import main
from a2tgpo.errors import RecipeError
from a2tgpo.integrations.verl.gold_answers import gold_answers
from a2tgpo.run.verl_command import read_overrides
from a2tgpo.run.verl_data import write_data
from a2tgpo.run.verl_overrides import verl_overrides

RECIPE: dict[str, Any] = {
    "model_name_or_path": "a2tgpo:hops-tiny",
    "output_dir": "runs/x",
    "num_generations": 8,
    "per_device_train_batch_size": 16,
    "steps_per_generation": 4,
    "max_steps": 240,
    "save_steps": 60,
    "learning_rate": 2.0e-4,
    "lr_scheduler_type": "constant",
    "max_completion_length": 1024,
    "report_to": "none",
    "max_searches": 5,
}


def command(**changes: Any) -> dict[str, str]:
    """The overrides of a recipe, by key."""
    made = verl_overrides(RECIPE | changes, Path("data"))
    return dict(text.split("=", 1) for text in made)


def test_batches_are_counted_in_prompts() -> None:
    """60 batches of 8 prompts × 8 rollouts, four updates a batch: the default recipe under TRL."""
    made = command()
    assert made["data.train_batch_size"] == "8"
    assert made["actor_rollout_ref.actor.ppo_mini_batch_size"] == "2"
    assert made["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"] == "16"
    assert made["trainer.total_training_steps"] == "60" and made["trainer.save_freq"] == "15"
    assert made["actor_rollout_ref.rollout.n"] == "8" and made["actor_rollout_ref.actor.optim.lr"] == "0.0002"


def test_devices_are_processes_of_trl() -> None:
    """Each of them has the recipe's rows."""
    made = verl_overrides(RECIPE, Path("data"), n_nodes=2, n_devices=8)
    assert "data.train_batch_size=128" in made and "trainer.nnodes=2" in made


def test_what_a_recipe_leaves_out_is_as_trl_has_it() -> None:
    """Where verl's own default is another one."""
    made = command(max_steps=-1)
    assert made["actor_rollout_ref.actor.optim.weight_decay"] == "0.0" and made["trainer.total_epochs"] == "3"
    assert made["actor_rollout_ref.rollout.tensor_model_parallel_size"] == "1"
    assert made["trainer.resume_mode"] == "disable"
    assert command(resume_from_checkpoint=True)["trainer.resume_mode"] == "auto"
    assert command(resume_from_checkpoint="runs/x/checkpoints/global_step_2")["trainer.resume_mode"] == "resume_path"
    made = command(attn_implementation="sdpa")
    assert made["actor_rollout_ref.model.use_remove_padding"] == "False"


def test_credit_and_search_become_our_keys() -> None:
    """Text is quoted as Hydra wants it, and the generated world's corpus is the one beside the data."""
    made = command(method="igpo", gain_alpha=None, answer_scaffold="it's {answer}", seed=3)
    assert made["+a2tgpo.method"] == "'igpo'" and made["+a2tgpo.max_searches"] == "5"
    assert made["+a2tgpo.answer_scaffold"] == r"'it\'s {answer}'"
    assert made["+a2tgpo.corpus"] == "'data/corpus.jsonl'" and made["data.seed"] == "3"


def test_a_methods_penalty_and_filter_are_switched_on() -> None:
    """The method's KL as published, the recipe's where it says so; DAPO's dynamic sampling by verl."""
    assert command(method="grpo")["actor_rollout_ref.actor.kl_loss_coef"] == "0.001"
    assert command(beta=0.02)["actor_rollout_ref.actor.kl_loss_coef"] == "0.02"
    none = command(method="grpo", beta=0.0)
    assert none["+a2tgpo.kl_beta"] == "0" and "actor_rollout_ref.actor.use_kl_loss" not in none
    assert command(method="dapo")["algorithm.filter_groups.enable"] == "True"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_stepz": 3}, "did you mean 'max_steps'"),
        ({"optim": "adafactor"}, "optim='adafactor': verl's own is AdamW"),
        ({"lr_scheduler_kwargs": {}}, "'lr_scheduler_kwargs' has no counterpart in verl"),
        ({"best_checkpoint": True}, "best_checkpoint=True: verl keeps the last"),
        ({"warm_start_steps": 10}, "run it with TRL"),
        ({"use_cpu": True}, "--use_cpu false"),
        ({"fp16": True}, "fp16=True"),
        ({"lr_scheduler_type": "linear"}, "'constant' and 'cosine'"),
        ({"lr_scheduler_type": None}, "lr_scheduler_type is left out"),
        ({"per_device_train_batch_size": 12}, "num_generations=8 does not divide"),
        ({"gradient_accumulation_steps": 3}, "steps_per_generation=4"),
        ({"method": "tree"}, "choose one of"),
        ({"environment": "a.b:C", "protocol": "tools"}, r"environment='a.b:C': with verl a recipe searches; train it"),
        ({"tools": ["a.b:f"]}, r"tools=\['a.b:f'\]: with verl a recipe searches"),
        ({"reward": ["mine:score"]}, "custom_reward_function.path"),
        ({"process_signal": "environment"}, "process_signal='environment': with verl the policy scores"),
        ({"process_signal": "reward_model", "process_reward_model": "x"}, "process_reward_model='x'"),
        ({"processes": 8}, "processes=8: there are 1 × 1 devices"),
        ({"turn_signal": "judge"}, "they go together"),
    ],
)
def test_what_verl_has_not_is_refused_with_a_remedy(changes: dict[str, Any], message: str) -> None:
    """Keys without a counterpart, and numbers that do not divide."""
    with pytest.raises(RecipeError, match=message):
        command(**changes)


@pytest.mark.parametrize("name", ["guess_the_number", "frozen_lake", "table_questions"])
def test_recipes_with_an_environment_are_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The packaged ones, before anything is written."""
    assert main(["verl", name, "--devices", "1", "--dry_run", "--output_dir", str(tmp_path / "run")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "with verl a recipe searches; train it with `a2tgpo train`" in said
    assert not (tmp_path / "run").exists()


def test_a_signal_and_a_judge_become_our_keys() -> None:
    """With the judge's arguments as Hydra writes a mapping."""
    judge = {
        "url": "http://127.0.0.1:1/v1",
        "model": "it's",
        "options": {"seed": 0, "stop": ["a", "b"]},
        "rubric": None,
    }
    made = command(turn_signal="judge", judge=judge)
    assert made["+a2tgpo.turn_signal"] == "'judge'"
    shown = r"{url:'http://127.0.0.1:1/v1',model:'it\'s',options:{seed:0,stop:['a','b']},rubric:null}"
    assert made["+a2tgpo.judge"] == shown


def test_plug_ins_are_imported_by_every_process_of_verls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that a recipe's plug-in registers is known here, and the command names the module for the others."""
    (tmp_path / "verl_plugin.py").write_text(
        "from dataclasses import replace\nfrom a2tgpo.methods import register, resolve_method\n"
        "register(replace(resolve_method('a2tgpo'), name='mine'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "other")
    monkeypatch.setattr(methods, "_TABLE", dict(methods.METHODS))
    file = tmp_path / "r.yaml"
    size = {"world_entities": 40, "n_train_questions": 2, "n_eval_questions": 2, "output_dir": str(tmp_path / "run")}
    file.write_text(yaml.safe_dump(RECIPE | size | {"plugins": ["verl_plugin"], "method": "mine"}), encoding="utf-8")
    assert main(["verl", str(file), "--devices", "1", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("VERL_USE_EXTERNAL_MODULES=other,verl_plugin ") and "+a2tgpo.method='\"'\"'mine'" in shown


def test_flags_are_the_recipes_and_the_rest_is_verls(tmp_path: Path) -> None:
    """`--key value`, `--key=value`, null to leave a key out, and verl's own options as they are."""
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    given, verls = read_overrides(
        str(file), ["--max_steps", "8", "--method=gspo", "--report_to", "null", "trainer.test_freq=10"]
    )
    assert (given["max_steps"], given["method"], given["report_to"]) == (8, "gspo", None)
    assert verls == ["trainer.test_freq=10"]
    with pytest.raises(RecipeError, match="has no value"):
        read_overrides(str(file), ["--max_steps"])
    with pytest.raises(RecipeError, match="key=value"):
        read_overrides(str(file), ["fast"])


def test_data_of_the_generated_world(tmp_path: Path) -> None:
    """Rows as verl reads them, with answers that come back, and the passages."""
    write_data({"world_entities": 40, "n_train_questions": 6, "n_eval_questions": 4, "hops": [1]}, tmp_path)
    rows = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path))["train"]
    assert len(rows) == 6 and rows[0]["prompt"][0]["role"] == "user"
    assert all(gold_answers(row["reward_model"], "row") for row in rows)
    assert (tmp_path / "corpus.jsonl").stat().st_size and (tmp_path / "val.parquet").exists()


def test_a_recipe_s_words_reach_verl(tmp_path: Path) -> None:
    """The instruction stands around the question in the data, the format of a result among the keys of the loop."""
    words = {"instruction": "Search, then answer. {question}", "result_format": "{title}: {text}"}
    size = {"world_entities": 40, "n_train_questions": 2, "n_eval_questions": 2, "hops": [1]}
    write_data(size | words, tmp_path)
    rows = load_dataset("parquet", data_files=str(tmp_path / "val.parquet"), cache_dir=str(tmp_path))["train"]
    assert all(row["prompt"][0]["content"].startswith("Search, then answer. ") for row in rows)
    assert command(**words)["+a2tgpo.result_format"] == r"'{title}: {text}'"
    with pytest.raises(RecipeError, match=r"needs \{text\} once"):
        command(result_format="{title}")


def test_dry_run_prints_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The packaged recipe, its warm start left out: the data is written, the command shown, nothing run."""
    flags = ["--warm_start_steps", "0", "--use_cpu", "false", "--n_train_questions", "8", "--n_eval_questions", "4"]
    flags += ["--output_dir", str(tmp_path), "--world_entities", "40"]
    assert main(["verl", "hops_cpu", "--devices", "2", "--dry_run", *flags]) == 0
    shown = capsys.readouterr().out
    assert "verl.trainer.main_ppo" in shown and "trainer.v1.trainer_mode=a2tgpo" in shown
    assert (tmp_path / "verl_data" / "train.parquet").exists()
    assert main(["verl", "hops_cpu", "--devices", "2", "--dry_run"]) == 2
    assert "warm_start_steps=32" in capsys.readouterr().err
