# ruff: noqa: E402
"""What the driver does with a batch, and before the first one, without Ray: signals of turns, answers, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

REASON = "verl is not installed here; `make test-verl` makes it an environment of its own"
pytest.importorskip("verl", reason=REASON)
pytest.importorskip("transfer_queue", reason=REASON)

from datasets import Dataset
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from a2tgpo.errors import A2TGPOError
from a2tgpo.integrations.verl.credit_trainer import SyncTrainer
from a2tgpo.integrations.verl.queue_rows import RowOrder
from a2tgpo.pretrained import EMBEDDED, open_tokenizer, resolve
from a2tgpo.signals import Transcript
from tests.verl.test_contract import config
from tests.verl.test_verl_command import RECIPE

TOKENIZER = open_tokenizer(EMBEDDED)


def worth(rollout: Transcript) -> list[float]:
    """A user's function: a turn is worth the words it has, each process turn of a rollout by itself."""
    return [float(len(turn.text.split())) for turn in rollout.turns if turn.observation is not None]


def trainer(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str, rows: Any = None) -> SyncTrainer:
    """A trainer of the driver whose engine is not there."""

    def begin(self: Any, config: Any) -> None:
        self.config, self.tokenizer, self.processor, self.global_steps = config, TOKENIZER, None, 1
        self.timing_raw = {}

    monkeypatch.setattr(PPOTrainer, "__init__", begin)
    monkeypatch.setattr(
        PPOTrainer,
        "_init_dataloader",
        lambda self: setattr(self, "train_dataset", SimpleNamespace(dataframe=rows)),
    )
    path = f"actor_rollout_ref.model.path={resolve(EMBEDDED)}"
    made = SyncTrainer(config("trainer.v1.trainer_mode=a2tgpo", f"+a2tgpo.run_dir={folder}", path, *overrides))
    made._rollout_log = made.run_log.begin(made._as_recipe(), step=0, resumes=False)
    return made


def test_a_function_of_the_users_numbers_the_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the driver, in the place of the answer's likelihood: its numbers are the gains that the batch is logged with,
    and no row needs an answer."""
    signal = "+a2tgpo.turn_signal='tests.verl.test_credit_trainer:worth'"
    made = trainer(monkeypatch, tmp_path, signal, rows=Dataset.from_list([{"prompt": "x"}]))
    made._init_dataloader()

    def ids(text: str) -> list[int]:
        return TOKENIZER(text, add_special_tokens=False)["input_ids"]

    said = [["kelo mitu", "bora", "kelo"], ["kelo", "mitu", "bora"]]
    columns: dict[str, list[Any]] = {"prompts": [torch.tensor(ids("who ?"))] * 2, "responses": [], "response_mask": []}
    for turn, result, answer in said:
        parts = [(ids(turn), 1), (ids(result), 0), (ids(answer), 1)]
        columns["responses"].append(torch.tensor([token for tokens, _ in parts for token in tokens]))
        columns["response_mask"].append(torch.tensor([own for tokens, own in parts for _ in tokens]))
    columns["rm_scores"] = [torch.tensor([1.0]), torch.tensor([0.0])]
    order = RowOrder([0, 1], 2, 2)
    rollouts = made._as_rollouts(columns, order)
    signals = made._collect_signals(columns, order, rollouts)
    credit = made._assign_credit(columns, order, rollouts, signals)
    assert credit.likelihood is None and credit.gain is not None
    assert credit.gain[:, 0].tolist() == [2.0, 1.0] and credit.normalized_gain[:, 0].tolist() == pytest.approx(
        [1, -1], abs=1e-5
    )
    assert credit.outcome.tolist() == [1.0, 0.0]
    metrics: dict[str, Any] = {}
    assert list(made._log_credit(rollouts, credit, signals, metrics)) == [0, 1]
    assert metrics["gain/turn_1"] == 1.5 and metrics["reward"] == 0.5 and metrics["frac_reward_zero_std"] == 0
    (first, _) = (json.loads(line) for line in (tmp_path / "rollouts" / "step_000000.jsonl").read_text().splitlines())
    assert first["gain"] == [2.0] and "likelihood" not in first
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["turn_signal"] == "tests.verl.test_credit_trainer:worth"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+a2tgpo.turn_signal='no.such:thing'"], "no.such"),
        (["+a2tgpo.turn_signal=judge", "+a2tgpo.judge={url:'http://x',model:'m',rubrik:'r'}"], "rubrik"),
    ],
)
def test_a_signal_that_cannot_be_had_ends_the_run_at_its_start(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads nowhere, and a judge's argument that there is none of."""
    with pytest.raises(A2TGPOError, match=message):
        trainer(monkeypatch, tmp_path, *overrides)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "x"}], r"row 0 of the data set has reward_model.ground_truth=None"),
        ([{"reward_model": {"ground_truth": ["a"]}}, {"reward_model": {"ground_truth": []}}], "row 1 of the data set"),
    ],
)
def test_missing_answers_end_the_run_before_it_generates(
    rows: list[dict[str, Any]], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is named; with a method that reads none they are not asked for."""
    made = trainer(monkeypatch, tmp_path / "a", rows=Dataset.from_list(rows))
    with pytest.raises(ValueError, match=message):
        made._init_dataloader()
    kl = "actor_rollout_ref.actor.use_kl_loss=True"
    trainer(monkeypatch, tmp_path / "b", "+a2tgpo.method=grpo", kl, rows=Dataset.from_list(rows))._init_dataloader()


def test_a_cache_that_cannot_be_had_is_known_from_the_models_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Insisted on, it is refused on the driver before a worker starts; a model that has one is taken."""
    rows = Dataset.from_list([{"reward_model": {"ground_truth": ["a"]}}])
    sdpa = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
    trainer(monkeypatch, tmp_path / "a", "+a2tgpo.gain_method=cached", sdpa, rows=rows)._init_dataloader()
    folder = tmp_path / "model"
    folder.mkdir()
    named = json.loads((Path(resolve(EMBEDDED)) / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(named | {"model_type": "bloom", "architectures": ["BloomForCausalLM"]})
    )
    made = trainer(monkeypatch, tmp_path / "b", "+a2tgpo.gain_method=cached", sdpa, rows=rows)
    OmegaConf.update(made.config, "actor_rollout_ref.model.path", str(folder))
    with pytest.raises(ValueError, match=r"gain_method='cached': .*bloom.*leave it at 'auto'"):
        made._init_dataloader()


def test_an_entry_point_that_did_not_load_is_said(tmp_path: Path) -> None:
    """verl keeps it to itself; `a2tgpo verl` looks before it starts anything."""
    size = {"world_entities": 40, "n_train_questions": 2, "n_eval_questions": 2, "output_dir": str(tmp_path / "run")}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(RECIPE | size), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "a2tgpo", "verl", str(file), "--devices", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"VERL_USE_EXTERNAL_PLUGINS": "none"},
    )
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "trainer.v1.trainer_mode=a2tgpo is unknown to verl" in said and "VERL_USE_EXTERNAL_PLUGINS unset" in said
