"""Recipes: what is in the file and on the command line reaches the run, and what cannot be meant is refused by name."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import ModelConfig

from a2tgpo import A2TGPOConfig
from a2tgpo.errors import RecipeError
from a2tgpo.run.interrupt import updates_per_batch
from a2tgpo.run.recipe import Recipe, RunConfig
from a2tgpo.run.recipe_file import describe_keys, describe_recipes, load_recipe, packaged_recipes
from a2tgpo.run.recipe_keys import known_keys
from a2tgpo.run.verl_command import read_overrides
from a2tgpo.run.verl_overrides import verl_overrides

RECIPES = packaged_recipes()
FILES = {"questions": "a.jsonl", "eval_questions": ["b.jsonl"], "corpus": "c.jsonl"}


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Load a recipe of the given keys, on top of what every CPU recipe needs, with the given flags."""

    def load(*flags: str, **keys: Any) -> RunConfig:
        path = tmp_path / "recipe.yaml"
        base = {"model_name_or_path": "m", "output_dir": "out", "use_cpu": True, "bf16": False, "report_to": "none"}
        path.write_text(yaml.safe_dump(base | keys), encoding="utf-8")
        return load_recipe(str(path), flags)

    return load


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_project_loads(name: str) -> None:
    """Each file in recipes/ parses by its name alone on a machine without a GPU, and every key in it arrives where it
    belongs."""
    config = load_recipe(name, ["--use_cpu", "true", "--bf16", "false"])
    path = RECIPES[name]
    parts = (config.recipe, config.training, config.model)
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        (part,) = [part for part in parts if key in {field.name for field in fields(part)}]
        if key not in ("use_cpu", "bf16") and isinstance(value, int | list):
            assert getattr(part, key) == value, key


def test_recipes_are_listed_in_whole_sentences() -> None:
    """Each stands with its name, set apart from what its comment says up to the last sentence before the command."""
    lines = [*describe_recipes()]
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1
    assert all(line.endswith(".") and "  " in line for line in lines)


def test_there_are_recipes() -> None:
    """The parametrisation above found the project's recipes."""
    assert "multihop_smollm2" in RECIPES
    assert RECIPES["hops_cpu"].samefile(Path(__file__).parents[1] / "recipes" / "hops_cpu.yaml")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("paper/")])
def test_the_paper_s_settings(name: str) -> None:
    """The trainer's configuration of each of the paper's recipes has the paper's numbers: 64 prompts × 16 rollouts a
    batch, 8 × 16 an update, eight updates a batch, and the rest as published. No GPU is needed to see that."""
    config = load_recipe(name, ["--use_cpu", "true", "--bf16", "false"])
    training, recipe = config.training, config.recipe
    assert training.generation_batch_size == 64 * training.num_generations and training.num_generations == 16
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 8 * 16
    assert updates_per_batch(training) == 8 and training.save_steps % 8 == 0
    assert (recipe.max_prompt_tokens, training.max_completion_length) == (2000, 6192)
    assert (recipe.max_searches, recipe.passages_per_search, recipe.warm_start_steps) == (6, 3, 0)
    assert (training.learning_rate, training.beta, training.optim.value) == (1e-6, 0.0, "adamw_torch")
    assert training.use_vllm and training.vllm_mode == "colocate" and recipe.retriever is not None
    method = training.resolve_method()
    assert (method.name, method.eps_low, method.eps_high) == ("a2tgpo", 3e-3, 4e-3)
    assert (method.credit.alpha, method.credit.beta) == (1.0, 0.3)  # type: ignore[attr-defined]
    assert config.model.model_name_or_path in ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B-Instruct")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("paper/")])
def test_every_key_of_the_paper_s_recipes_arrives(name: str) -> None:
    """The value in the file is the value in the run, for text and numbers as for lists."""
    config = load_recipe(name, ["--use_cpu", "true", "--bf16", "false"])
    for key, value in yaml.safe_load(RECIPES[name].read_text(encoding="utf-8")).items():
        found = config.value(key)
        if key not in ("bf16", "report_to"):  # the first is overridden here; transformers makes a list of the second
            assert getattr(found, "value", found) in (value, [value]), key


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("paper/")])
def test_the_paper_s_settings_on_eight_gpus(name: str) -> None:
    """With the two numbers of its header a recipe of the paper is verl's command for 64 prompts a batch and 8 an
    update on eight devices, saved every five batches."""
    flags = re.search(rf"a2tgpo verl {name} --devices 8 (.*)", RECIPES[name].read_text(encoding="utf-8"))
    assert flags is not None
    given, _ = read_overrides(name, flags[1].split())
    made = verl_overrides(given, Path("data"), n_devices=8)
    assert {"data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=8"} <= set(made)
    assert {"actor_rollout_ref.rollout.n=16", "trainer.save_freq=5", "trainer.n_gpus_per_node=8"} <= set(made)


def test_keys_read_from_source_are_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names read without an import are exactly the fields of the imported classes, and where the source is not as
    we know it, the import gives the same."""
    fields_of_all = {f.name for part in (Recipe, A2TGPOConfig, ModelConfig) for f in fields(part)} | {"env"}
    known_keys.cache_clear()
    assert known_keys() == fields_of_all
    known_keys.cache_clear()
    monkeypatch.setattr("a2tgpo.run.recipe_keys._CLASSES", (("trl", "moved/grpo_config.py", "GRPOConfig"),))
    assert known_keys() == fields_of_all
    known_keys.cache_clear()


def test_no_key_means_two_things() -> None:
    """No field of ours has the name of a field of TRL's: a key has one owner."""
    ours = {f.name for f in fields(Recipe)}
    assert not ours & {f.name for part in (A2TGPOConfig, ModelConfig) for f in fields(part)}


def test_flags_win_over_the_file(load) -> None:  # type: ignore[no-untyped-def]
    """A flag replaces the file's value, in each of the three parts, with a space or an equals sign, in either
    spelling; what no flag names stays the file's."""
    config = load(
        *("--max_searches", "4", "--learning_rate=5e-4", "--model-name-or-path", "other", "--gain_alpha", "0.3"),
        max_searches=2,
        learning_rate="1e-6",
        title_weight=3,
    )
    assert (config.recipe.max_searches, config.recipe.title_weight) == (4, 3)
    assert (config.training.learning_rate, config.training.gain_alpha) == (5e-4, 0.3)
    assert config.model.model_name_or_path == "other"


def test_numbers_written_as_yaml_text_are_numbers(load) -> None:  # type: ignore[no-untyped-def]
    """YAML reads 1e-3 as text; the field's type makes it a number."""
    assert load(learning_rate="1e-3").training.learning_rate == 1e-3


def test_list_fields(load) -> None:  # type: ignore[no-untyped-def]
    """A list key takes a list or one value in the file, and several values after its flag."""
    config = load(**FILES, hops=2)
    assert config.recipe.questions == ["a.jsonl"] and config.recipe.eval_questions == ["b.jsonl"]
    assert config.recipe.hops == [2]
    config = load("--questions", "x", "y", "--hops", "1", "3", **FILES)
    assert config.recipe.questions == ["x", "y"] and config.recipe.hops == [1, 3]


def test_files_or_the_generated_world(load) -> None:  # type: ignore[no-untyped-def]
    """Questions, evaluation questions and corpus come together; none of them means the generated world."""
    assert load().generated_world
    assert not load(**FILES).generated_world
    for missing in FILES:
        with pytest.raises(RecipeError, match="questions, eval_questions and corpus together"):
            load(**{key: value for key, value in FILES.items() if key != missing})


def test_a_retriever_stands_for_the_corpus(load) -> None:  # type: ignore[no-untyped-def]
    """An index or a server replaces the corpus, except for a warm start, whose demonstrations are made of passages."""
    searched = {"questions": "a.jsonl", "eval_questions": "b.jsonl", "retriever": "http://127.0.0.1:8000"}
    assert load(**searched).recipe.retriever == "http://127.0.0.1:8000"
    with pytest.raises(RecipeError, match="give corpus as well"):
        load(warm_start_steps=1, **searched)
    assert load(warm_start_steps=1, corpus="c.jsonl", **searched).recipe.warm_start_steps == 1
    with pytest.raises(RecipeError, match="retriever given alone"):
        load(retriever="index")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("max_serches", "max_searches"),
        ("learning_rat", "learning_rate"),
        ("model_name", "model_name_or_path"),
        ("gain_alfa", "gain_alpha"),
    ],
)
def test_an_unknown_key_names_the_nearest(load, key: str, nearest: str) -> None:  # type: ignore[no-untyped-def]
    """A misspelled key is refused, in the file and as a flag, with the key that was probably meant."""
    message = f"unknown recipe key '{key}': did you mean '{nearest}'"
    with pytest.raises(RecipeError, match=message):
        load(**{key: 3})
    with pytest.raises(RecipeError, match=message):
        load(f"--{key}", "3")
    with pytest.raises(RecipeError, match=message):
        load(f"--{key.replace('_', '-')}=3")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_searches", "two", "max_searches.*two"),
        ("max_searches", 2.5, "max_searches=2.5: expected a whole number"),
        ("max_searches", [2], r"max_searches=\[2\]: expected a whole number"),
        ("max_searches", True, "max_searches=True: expected a whole number"),
        ("max_searches", -1, "max_searches=-1: must be at least 0"),
        ("n_eval_questions", 0, "n_eval_questions=0: must be at least 1"),
        ("title_weight", 0, "title_weight=0: must be at least 1"),
        ("hops", [1, "two"], "expected a whole number"),
        ("stops_early", [0.5], "stops_early.*expected a number"),
        ("only_answerable", 3, "only_answerable=3: expected true or false"),
        ("output_dir", 2024, "expected str.*not int"),
        ("hops", ["one"], "hops=\\['one'\\]: expected a whole number"),
        ("turn_gamma", 1.5, r"turn_gamma=1.5: a discount lies in \[0, 1\]"),
        ("num_generations", 1, "num_generations=1|at least 2"),
        ("likelihood", "odds", "likelihood.*odds"),
        ("loss_type", "cispo", "loss_type=.cispo. with method=.a2tgpo."),
        ("learning_rate", "fast", "learning_rate.*fast"),
        ("lr_scheduler_type", "wavy", "wavy"),
        ("model_name_or_path", None, "model_name_or_path is missing"),
    ],
)
def test_a_bad_value_is_an_error_of_the_recipe(load, key, value, message) -> None:  # type: ignore[no-untyped-def]
    """A value of the wrong kind or outside its range names its key, in one error of our own type."""
    with pytest.raises(RecipeError, match=message):
        load(**{key: value})


def test_a_bad_flag_value_is_an_error_of_the_recipe(load) -> None:  # type: ignore[no-untyped-def]
    """The parser neither prints its two hundred flags nor ends the process, and a stray word is refused too."""
    with pytest.raises(RecipeError, match=r"max_searches.*two"):
        load("--max_searches", "two")
    with pytest.raises(RecipeError, match=r"likelihood.*odds"):
        load("--likelihood", "odds")
    with pytest.raises(RecipeError, match="stray"):
        load("stray")


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    """A missing file, a list, an empty file, broken YAML and binary data each say so, with the path."""
    path = tmp_path / "r.yaml"
    with pytest.raises(RecipeError, match=r"r\.yaml'.*no such file"):
        load_recipe(str(path))
    for content, message in (
        (b"- a\n- b\n", "got list"),
        (b"", "got NoneType"),
        (b"a: [1\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"on: 1\n", "unknown recipe key 'True'"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(path))


def test_an_unknown_recipe_is_told_the_names_there_are() -> None:
    """A name that is neither a file nor a recipe of the package lists those."""
    with pytest.raises(RecipeError, match=r"'hops_gpu'.*none of the package's: .*hops_cpu"):
        load_recipe("hops_gpu")


def test_what_ran_is_itself_a_recipe(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """File and flags together, written down, load to the same configuration without the flags."""
    first = load("--max_searches=4", "--hops", "1", "3", "--learning-rate", "5e-4", "--no_shuffle_dataset")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(first.given), encoding="utf-8")
    second = load_recipe(str(path))
    assert second.recipe == first.recipe and second.model == first.model
    assert second.training.learning_rate == first.training.learning_rate == 5e-4
    assert second.training.shuffle_dataset is first.training.shuffle_dataset is False


@pytest.mark.parametrize(
    ("value", "resumes"), [(None, False), (False, False), ("false", False), (True, True), ("true", True), ("p", True)]
)
def test_resuming_is_true_false_or_a_path(load, value: Any, resumes: bool) -> None:  # type: ignore[no-untyped-def]
    """`resume_from_checkpoint: false` is no path named False."""
    assert load(resume_from_checkpoint=value).resumes is resumes


def test_every_key_is_described() -> None:
    """The list of keys has one line for each, with its default and its meaning."""
    lines = describe_keys().splitlines()
    keys = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
    init = [f.name for part in (Recipe, A2TGPOConfig, ModelConfig) for f in fields(part) if f.init]
    assert sorted(keys) == sorted(init)
    assert any(line.startswith("max_searches: 6 ") and line.endswith("Tool calls per rollout.") for line in lines)
