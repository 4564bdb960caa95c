"""No secret stands in a file, an error or a page, whatever the key or the address it came by."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from a2tgpo.cli import main
from a2tgpo.compare.matrix_plan import plan_matrix
from a2tgpo.errors import RetrieverError
from a2tgpo.evaluate.answers_file import open_answers
from a2tgpo.redact import HIDDEN, is_secret, redact, redact_settings, remember_secrets, secrets_in
from a2tgpo.report.run_data import read_runs
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.train import train
from tests.run.parts import save_policy, write_recipe

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUv"
PLAIN = "correct-horse-battery"  # no shape gives it away
URL = f"http://anna:{PLAIN}@127.0.0.1:9/search"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{URL} gives no answer", f"http://{HIDDEN}@127.0.0.1:9/search gives no answer"),
        ("https://token@host/x", f"https://{HIDDEN}@host/x"),
        ("http://anna:p@ss@host/x", f"http://{HIDDEN}@host/x"),
        ("github_pat_0123456789abcdefghij_x", HIDDEN),
        ("postgresql+psycopg://u:p%40ss@db:5432", f"postgresql+psycopg://{HIDDEN}@db:5432"),
        ("GET /v1?api_key=abc123&k=3", f"GET /v1?api_key={HIDDEN}&k=3"),
        ("Authorization: Bearer abcdefghij.klm", f"Authorization: Bearer {HIDDEN}"),
        (f"401 for {TOKEN}.", f"401 for {HIDDEN}."),
        ("sk-proj-0123456789abcdefgh", HIDDEN),
        ("mail anna@example.org about http://host/a@b", "mail anna@example.org about http://host/a@b"),
        ("max_prompt_tokens=3; eos_token; the key word", "max_prompt_tokens=3; eos_token; the key word"),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, shown: str) -> None:
    """Logins and keys in addresses, headers and tokens of known shapes; ordinary text stays."""
    assert redact(text) == shown
    assert str(RetrieverError(text)) == shown


def test_a_remembered_value_has_no_shape() -> None:
    """A key that looks like a word is hidden once it is known; a very short one would hide ordinary words."""
    remember_secrets(["tulip-and-oak", "ab"])
    assert redact("said tulip-and-oak, about") == f"said {HIDDEN}, about"


@pytest.mark.parametrize(
    "name",
    [
        *("hub_token", "api_key", "WANDB_API_KEY", "password", "OPENAI_API_KEY", "db_secret"),
        *("x-api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "private_key", "Authorization", "ssh_passphrase"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    """The settings' names tell which hold a secret."""
    assert is_secret(name)
    assert not any(map(is_secret, ("max_turn_tokens", "eos_token", "api_key_env", "passage_tokens", "keyword", "key")))


@given(st.text(alphabet="abcDEF0123456789-._~!$&*+=", min_size=6))
def test_no_login_survives(password: str) -> None:
    """Whatever characters a password has, nothing of it is left in the address."""
    assert redact(f"https://user:{password}@host/path") == f"https://{HIDDEN}@host/path"


def test_settings_keep_everything_else() -> None:
    """Numbers, lists and the names of hidden keys stay, nested settings too."""
    settings = {"hub_token": TOKEN, "lr": 1e-4, "retriever": URL, "env": {"A_KEY": "x", "B": "y"}, "files": [URL, 3]}
    shown = redact_settings(settings)
    address = f"http://{HIDDEN}@127.0.0.1:9/search"
    env = {"A_KEY": "x", "B": "y"}
    assert shown == {"hub_token": HIDDEN, "lr": 1e-4, "retriever": address, "env": env, "files": [address, 3]}
    assert secrets_in(settings) == [TOKEN]


# --- every place that is written -------------------------------------------------------------------------------------


def assert_nowhere(folder: Path, *secrets: str) -> None:
    """No file below `folder` has one of the secrets in its bytes."""
    for path in folder.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets), path


def test_a_run_leaves_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run with a Hub token and keys for trackers in TRL's `env`: none is in its configuration, checkpoints,
    logs or models; the report reads none either; the token is where the Hub's client looks for it."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "")  # set by TRL from `env`; undone after the test
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        save_policy(tmp_path / "policy"),
        warm_start_steps=0,
        max_steps=1,
        hub_token=TOKEN,
        env={"WANDB_API_KEY": PLAIN},
    )
    train(load_recipe(str(recipe)), RunDirectory(tmp_path / "run"), Console(file=io.StringIO()))
    assert os.environ.pop("HF_TOKEN") == TOKEN and os.environ["WANDB_API_KEY"] == PLAIN
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-1" / "training_args.bin").exists()
    assert_nowhere(tmp_path / "run", TOKEN, PLAIN)
    (run,) = read_runs([tmp_path / "run"])
    assert TOKEN not in json.dumps(run.config)


def test_old_configurations_are_read_without_their_secrets(tmp_path: Path) -> None:
    """A page made of a run of an earlier version, whose config.yaml holds a token, does not show it."""
    old = {"hub_token": TOKEN, "retriever": URL, "max_steps": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old), encoding="utf-8")
    (run,) = read_runs([tmp_path])
    assert TOKEN not in json.dumps(run.config) and PLAIN not in json.dumps(run.config)
    assert run.config["max_steps"] == 3


def test_an_evaluation_s_settings(tmp_path: Path) -> None:
    """settings.json has no login, and the same evaluation with another password goes on."""
    settings: dict[str, Any] = {"retriever": URL, "base_url": "http://bob:pw@h/v1", "n": 1}
    with open_answers(tmp_path, settings):
        pass
    assert_nowhere(tmp_path, PLAIN, "bob:pw")
    with open_answers(tmp_path, settings | {"base_url": "http://bob:other@h/v1"}):
        pass


def test_a_comparison_s_recipe_is_the_owner_s_alone(tmp_path: Path) -> None:
    """Its runs need the secrets, so the file has them, and nobody else may read it; without secrets it is as usual."""
    for name, changes in (("with", {"hub_token": TOKEN}), ("without", {})):
        recipe = write_recipe(tmp_path / f"{name}.yaml", tmp_path, **changes)
        plan = plan_matrix(str(recipe), "grpo", 1, tmp_path / name, [])
        plan.begin()
        mode = stat.S_IMODE(plan.matrix.recipe.stat().st_mode)
        assert (mode == 0o600) == (name == "with"), oct(mode)


def test_errors_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused flag and an unreachable server are told without the secret that was given with them."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), hub_token=PLAIN)
    files = ["--questions", f"{PLAIN}.jsonl", "--eval_questions", "x.jsonl", "--retriever", URL]
    capsys.readouterr()
    assert main(["train", str(recipe), "--warm_start_steps", "0", *files]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and PLAIN not in error
