"""The final policy may be the checkpoint with the best average over the held-out data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from a2tgpo.cli import main
from a2tgpo.evaluate.outcome import Outcome, write_outcomes
from a2tgpo.run.best_checkpoint import BestCheckpoint, average_score, choose_checkpoint
from a2tgpo.run.directory import RunDirectory
from tests.run.parts import save_policy, write_recipe


def answered(dataset: str, right: bool, number: int = 0) -> Outcome:
    """One answered question of a data set."""
    values: dict[str, Any] = dict(prediction="x", termination="answered", reason="", searches=1, queries=["q"])
    row = {"id": f"{dataset}-{number}", "question": "?", "answer": ["x" if right else "y"], "hops": 1}
    return Outcome.of(row | {"dataset": dataset}, **values, policy_tokens=3, total_tokens=9, text="")


def save_checkpoint(folder: Path, step: int) -> None:
    """As much of a checkpoint as makes it whole."""
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "shards").mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def test_the_average_is_over_data_sets() -> None:
    """Two of two right in a small set and none of eight in a large one are .5, not .2."""
    outcomes = [answered("small", True, n) for n in range(2)] + [answered("large", False, n) for n in range(8)]
    assert average_score(outcomes) == 0.5


@pytest.mark.parametrize(
    ("right", "best"),
    [({5: 1, 10: 3, 20: 2}, 10), ({5: 2, 10: 2, 20: 2}, 5), ({5: 0, 10: 1, 20: 3}, 20)],
)
def test_the_best_is_chosen(tmp_path: Path, right: dict[int, int], best: int) -> None:
    """By its score, of equal ones the earliest; one that was torn is not asked."""
    for step in right:
        save_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-30").mkdir()

    def evaluate(checkpoint: Path, name: str) -> list[Outcome]:
        assert name == checkpoint.name
        return [answered("one", n < right[int(name.removeprefix("checkpoint-"))], n) for n in range(4)]

    chosen, choice = choose_checkpoint(tmp_path, evaluate)
    assert chosen.name == f"checkpoint-{best}" and choice.step == best
    assert choice.scores == {step: count / 4 for step, count in right.items()}
    choice.write(tmp_path / "choice.json")
    assert BestCheckpoint.read(tmp_path / "choice.json") == choice


def test_rounding_decides_nothing(tmp_path: Path) -> None:
    """None and three of ten right, and one and two, are one average over two data sets: the earlier is taken."""
    right = {5: (0, 3), 10: (1, 2)}
    for step in right:
        save_checkpoint(tmp_path, step)

    def evaluate(checkpoint: Path, name: str) -> list[Outcome]:
        counts = zip("ab", right[int(name.removeprefix("checkpoint-"))], strict=True)
        return [answered(dataset, n < count, n) for dataset, count in counts for n in range(10)]

    chosen, _ = choose_checkpoint(tmp_path, evaluate)
    assert chosen.name == "checkpoint-5"


def test_train_keeps_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of two updates whose first checkpoint answers all (as its file of outcomes says) ends with the weights of
    that one and says below its table that it was chosen; the same command again changes nothing."""
    changes = {"warm_start_steps": 0, "best_checkpoint": True, "weight_decay": 1.0}  # decay: every update moves weights
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), **changes)
    directory = RunDirectory(tmp_path / "run")
    write_outcomes(directory.evaluation("checkpoint-1_greedy"), [answered("one", True)])
    assert main(["train", str(recipe)]) == 0
    said = "after: the policy after 1 of 2 updates, chosen for its average over these data sets, 1.000"
    assert said in capsys.readouterr().out and said in (directory.root / "summary.md").read_text()
    assert BestCheckpoint.read(directory.best_checkpoint).step == 1
    assert equal(weights(directory.model), weights(directory.checkpoints / "checkpoint-1"))
    assert not equal(weights(directory.model), weights(directory.checkpoints / "checkpoint-2"))
    before = directory.best_checkpoint.stat().st_mtime_ns
    assert main(["train", str(recipe), "--resume_from_checkpoint", "true"]) == 0
    assert directory.best_checkpoint.stat().st_mtime_ns == before


def test_adapters_are_merged(tmp_path: Path) -> None:
    """With LoRA each checkpoint answers with its adapters in its weights, and so does the policy that is kept."""
    pytest.importorskip("peft")
    policy = save_policy(tmp_path / "policy")
    changes = {"warm_start_steps": 0, "best_checkpoint": True, "use_peft": True, "lora_target_modules": "all-linear"}
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, **changes)
    assert main(["train", str(recipe)]) == 0
    directory = RunDirectory(tmp_path / "run")
    assert set(BestCheckpoint.read(directory.best_checkpoint).scores) == {1, 2}
    assert weights(directory.model).keys() == weights(policy).keys()


def test_without_checkpoints_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the run begins, in one line."""
    policy = save_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, best_checkpoint=True, save_strategy="no")
    assert main(["train", str(recipe)]) == 2
    assert "best_checkpoint=True with save_strategy='no'" in capsys.readouterr().err


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
