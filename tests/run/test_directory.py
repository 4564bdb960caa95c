"""A run's directory is never written over, belongs to one process, and holds no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from a2tgpo.errors import RecipeError
from a2tgpo.run.directory import RunDirectory


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    """A new run may begin in a folder that is missing or without a run, not where one began; the message names the
    folder and both ways out."""
    directory = RunDirectory(tmp_path / "runs" / "one")
    directory.check_new()
    directory.begin({"max_steps": 2, "hops": [1, 2]})
    assert yaml.safe_load(directory.config.read_text(encoding="utf-8")) == {"max_steps": 2, "hops": [1, 2]}
    with pytest.raises(RecipeError, match=r"runs/one.*another --output_dir.*--resume_from_checkpoint true"):
        directory.check_new()


def test_resuming_without_a_run_is_refused(tmp_path: Path) -> None:
    """There is nothing to continue where no run began, whatever else the folder holds."""
    directory = RunDirectory(tmp_path)
    (directory.checkpoints / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(RecipeError, match="no run to resume: leave out --resume_from_checkpoint"):
        directory.check_begun()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """While a process has the directory, another is refused at once and by name; afterwards it is free, also where the
    first ended in an error."""
    directory = RunDirectory(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from a2tgpo.run.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): pass"
    )
    other = [sys.executable, "-c", code, str(directory.root)]
    with pytest.raises(KeyError), directory.locked():
        refused = subprocess.run(other, capture_output=True, text=True)
        raise KeyError
    assert refused.returncode == 1 and "run': another process is running in it" in refused.stderr
    assert subprocess.run(other).returncode == 0


def test_the_configuration_holds_no_secret(tmp_path: Path) -> None:
    """Tokens and keys are left out of config.yaml, logins are taken out of addresses, and the rest is as given."""
    directory = RunDirectory(tmp_path)
    given = {"hub_token": "hf_abcdefghijklmnopqrst", "max_steps": 2, "retriever": "http://me:pw@host:1/x"}
    directory.begin(given | {"env": {"WANDB_API_KEY": "0123456789", "WANDB_MODE": "offline"}})
    text = directory.config.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {
        "max_steps": 2,
        "retriever": "http://***@host:1/x",
        "env": {"WANDB_MODE": "offline"},
    }
