"""A run's directory belongs to one process and one recipe, and a disk that refuses a file damages nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from a2tgpo.cli import main
from a2tgpo.errors import RecipeError, disk_failure
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.resume import MAY_CHANGE, check_same_recipe
from tests.run.parts import save_policy, write_recipe

RESUME = ("--resume_from_checkpoint", "true")


def begun(folder: Path, **recipe: Any) -> tuple[Path, RunDirectory]:
    """A recipe, and the directory of a run that began with it."""
    path = write_recipe(folder / "recipe.yaml", folder, **recipe)
    directory = RunDirectory(folder / "run")
    directory.begin(load_recipe(str(path)).given)
    return path, directory


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rate", "5e-4"], r"learning_rate was 0.0001 and is 0.0005"),
        (["--max_searches", "3", "--seed", "1"], r"max_searches was 2 and is 3; seed was 42 and is 1"),
        (["--method", "grpo"], r"method was 'a2tgpo' and is 'grpo'"),
        (["--hops", "1"], r"hops was \[1, 2\] and is \[1\]"),
    ],
)
def test_another_recipe_is_refused_key_by_key(tmp_path: Path, flags: list[str], message: str) -> None:
    """Every key that differs is named with both values, given then or not, and so is what may differ."""
    path, directory = begun(tmp_path)
    with pytest.raises(RecipeError, match=rf"{message}.*only .*max_steps.* may change"):
        check_same_recipe(directory, load_recipe(str(path), [*flags, *RESUME]))


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--max_steps", "9", "--save_steps", "3", "--logging_steps", "2", "--output_dir", "elsewhere"],
        ["--learning_rate", "0.0001"],  # the file says 1e-4, which YAML reads as text
        ["--max_grad_norm", "1.0"],  # the default, said
    ],
)
def test_the_same_recipe_in_other_words_goes_on(tmp_path: Path, flags: list[str]) -> None:
    """What may change does, and one value in two spellings is one."""
    path, directory = begun(tmp_path)
    check_same_recipe(directory, load_recipe(str(path), [*flags, *RESUME]))


def test_a_secret_is_no_difference(tmp_path: Path) -> None:
    """Secrets are not in config.yaml; given again, or changed, they do not make another recipe."""
    path, directory = begun(tmp_path, hub_token="hf_" + "a" * 20)
    assert "hf_" not in directory.config.read_text(encoding="utf-8")
    check_same_recipe(directory, load_recipe(str(path), ["--hub_token", "hf_" + "b" * 20, *RESUME]))


def test_what_may_change_are_keys() -> None:
    """A key that no longer exists would be a promise that nobody keeps."""
    from a2tgpo.run.recipe_keys import known_keys

    assert set(MAY_CHANGE) <= known_keys()


def test_a_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second `train` and an `eval` into it exit 2 with one line and change nothing."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"))
    directory = RunDirectory(tmp_path / "run")
    capsys.readouterr()
    with directory.locked():
        for command in ("train", "eval"):
            assert main([command, str(recipe)]) == 2
            assert "another process is running in it" in capsys.readouterr().err
        assert [path.name for path in directory.root.iterdir()] == [".lock"]


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
@pytest.mark.parametrize("file", ["metrics.jsonl", "rollouts/step_000000.jsonl"])
def test_a_full_disk_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Where a record cannot be written: exit 2, what the disk said, the line that goes on; and it does go on, to the
    end, once there is space."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), warm_start_steps=0)
    full = tmp_path / "run" / file
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    assert main(["train", str(recipe)]) == 2
    error = capfd.readouterr().err
    assert "error: No space left on device" in error and "Traceback" not in error
    assert "continue with: a2tgpo train" in error and " ".join(RESUME) in error
    full.unlink()
    assert main(["train", str(recipe), *RESUME]) == 0


@pytest.mark.parametrize("blocked", ["a file where the directory should be", "a directory where a file should be"])
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], blocked: str
) -> None:
    """A path that the system refuses is named before anything has run."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"))
    if blocked.startswith("a file"):
        (tmp_path / "run").write_text("not a directory", encoding="utf-8")
    else:
        (tmp_path / "run" / "corpus.jsonl").mkdir(parents=True)
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "run") in error and "Traceback" not in error


def test_what_libraries_say_of_a_full_disk_is_understood() -> None:
    """safetensors and torch raise errors of their own; other errors are no question of disks."""
    inner = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    try:
        raise ValueError("could not save") from inner
    except ValueError as error:
        assert (disk_failure(error) or "").startswith("No space left on device")
    writer = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    assert "full disk" in (disk_failure(writer) or "")
    assert disk_failure(OSError(13, os.strerror(13), "x")) == "Permission denied: x"
    assert disk_failure(FileNotFoundError(2, "no such file", "x")) is None
    assert disk_failure(ValueError("no")) is None


def test_a_run_moved_elsewhere_goes_on(tmp_path: Path) -> None:
    """The folder may be renamed between two parts of a run."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), warm_start_steps=0)
    assert main(["train", str(recipe)]) == 0
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "moved"), "--max_steps", "3", *RESUME]) == 0
    assert yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text(encoding="utf-8"))["max_steps"] == 3
