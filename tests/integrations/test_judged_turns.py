"""Turns judged in the real trainer: by a model behind a real server, and by functions that see the whole episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from a2tgpo import A2TGPOTrainer
from a2tgpo.environments import EnvironmentPool
from a2tgpo.errors import JudgeError
from a2tgpo.integrations.trl.rollout_func import rollout_columns
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.pipeline.signal_health import FAILED_BATCHES
from a2tgpo.rewards import environment_reward
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals import Judge, Transcript, TurnFunction, Unscored
from tests.environments.worlds import Number
from tests.evaluate.chat_server import ChatServer, Refuses, Request, Response, Says
from tests.integrations.parts import (
    config,
    questions,
    qwen_tokenizer,
    record_credit,
    scripted_trainer,
    tiny_llama,
)
from tests.rollout.scripted import ScriptedEngine
from tests.signals.test_judge import fair, record
from tests.signals.test_verdict import scored

SEARCH = search_turn("find it", "Kelo mentor")
SCRIPTS = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], [SEARCH, "no"]]


def logged(folder: Path) -> list[RolloutRecord]:
    """Every rollout of the first batch, as the report reads it."""
    return [RolloutRecord.from_line(line) for line in (folder / "step_000000.jsonl").read_text().splitlines()]


def test_a_judges_scores_are_the_gains_and_its_words_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of two turns score .1 and .2, those of one .1; the fourth of each prompt is answered with prose and is
    in no loss and no turn group; what it all cost is logged."""

    def respond(request: Request) -> Response:
        turns = record(request)["turns"]
        closing = record(request).get("closing_turn", "")
        return Says("Well, well.") if closing == "no" else Says(scored(*(turn["turn"] / 10 for turn in turns)))

    assigned = record_credit(monkeypatch)
    with ChatServer(respond) as server:
        trainer = scripted_trainer(
            tmp_path, SCRIPTS, rollouts_dir=str(tmp_path), turn_signal=Judge(server.url, "judge-1")
        )
        trainer.train()
    rows = logged(tmp_path)
    assert [row.gain for row in rows] == [pytest.approx(gain) for gain in ([0.1], [], [0.1, 0.2], [0.0])] * 2
    assert [row.notes for row in rows[:4]] == [["because 0"], None, ["because 0", "because 1"], None]
    assert rows[3].unscored is not None and rows[3].unscored.startswith("prose: the judge answered no JSON")
    (batch,) = assigned
    assert batch.credit.valid.tolist() == [True, True, True, False] * 2
    assert batch.credit.advantage[3].abs().sum() == 0 and batch.credit.advantage[:3, 0].sum().abs() < 1e-5
    (step,) = [entry for entry in trainer.state.log_history if "judge/calls" in entry]
    # Four rollouts of a prompt are three distinct ones with turns; the prose is asked for again.
    assert step["judge/calls"] == 8 and step["judge/asked_again"] == step["judge/failed_prose"] == 2
    assert step["judge/rollouts"] == 6 and step["judge/unscored_share"] == pytest.approx(1 / 3)
    assert step["judge/tokens_in"] > 0 and step["judge/tokens_out"] == 7 * 8 and "judge/failed_empty" not in step
    assert step["seconds/turn_signal"] >= step["judge/seconds"] - 0.1 and step["rollout/invalid"] == 0.25


def test_a_judge_that_is_gone_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """It scores one batch and then nothing: after some batches in a row the run ends, and the weights are kept."""
    left = [8]

    def respond(request: Request) -> Response:
        left[0] -= 1
        return fair(request) if left[0] >= 2 else Refuses(500)

    with ChatServer(respond) as server:
        trainer = scripted_trainer(
            tmp_path,
            SCRIPTS,
            turn_signal=Judge(server.url, "judge-1"),
            max_steps=9,
            save_strategy="steps",
            save_steps=100,
        )
        with pytest.raises(JudgeError, match=rf"no turn of {FAILED_BATCHES} batches in a row.*server: "):
            trainer.train()
    assert (tmp_path / "out" / f"checkpoint-{FAILED_BATCHES}").is_dir()


def test_a_refused_key_ends_the_run_at_once(tmp_path: Path) -> None:
    """Before three batches are generated for nothing."""
    with ChatServer(lambda _: Refuses(401)) as server:
        trainer = scripted_trainer(tmp_path, SCRIPTS, turn_signal=Judge(server.url, "judge-1"))
        with pytest.raises(JudgeError, match="check the API key"):
            trainer.train()


def test_a_function_may_have_nothing_to_say(tmp_path: Path) -> None:
    """`Unscored` for every rollout: no loss is made, nothing is a number that is not finite, and the log says why."""
    silent = TurnFunction(lambda rollout: Unscored("not my field"))
    trainer = scripted_trainer(tmp_path, SCRIPTS, rollouts_dir=str(tmp_path), turn_signal=silent)
    trainer.train()
    assert {row.unscored for row in logged(tmp_path)} == {"not my field"}
    assert trainer.state.log_history[0]["loss"] == 0 and trainer.state.log_history[0]["rollout/invalid"] == 1


class ScriptedGuesses:
    """A `rollout_func` in which every rollout guesses 2, then 5."""

    def __init__(self, tokenizer: Any) -> None:
        self.agent = Agent(tokenizer, EnvironmentPool(Number), RolloutLimits(max_completion_tokens=400))

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        turns = [f"<think> {n} it is </think> <guess> {n} </guess>" for n in (2, 5)]
        engine = ScriptedEngine(self.agent.tokenizer, [turns] * len(prompts))
        return rollout_columns(self.agent.run(prompts, engine, rows=trainer.rows_to_generate))


def test_a_function_sees_environment_row_and_conversation(tmp_path: Path) -> None:
    """In our loop: the object that answered, as the episode left it, the data set's row, the messages, and what the
    environment gave each turn."""
    seen: list[Transcript] = []

    def function(rollout: Transcript) -> list[float]:
        seen.append(rollout)
        return [float(reward or 0) for reward in rollout.turn_rewards]

    tokenizer = qwen_tokenizer()
    data = questions(2).remove_columns("answer").add_column("secret", [5, 5])
    trainer = A2TGPOTrainer(
        tiny_llama(tokenizer),
        environment_reward,
        config(tmp_path, rollouts_dir=str(tmp_path)),
        data,
        processing_class=tokenizer,
        rollout_func=ScriptedGuesses(tokenizer),
        turn_signal=TurnFunction(function),
    )
    trainer.train()
    assert len({id(one.environment) for one in seen}) == 8 and {one.environment.answer for one in seen} == {"5"}
    assert {one.row["secret"] for one in seen} == {5} and seen[0].turn_rewards == (pytest.approx(-3 / 9), 1.0)
    assert [message["role"] for message in seen[0].messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert seen[0].messages[0]["content"] == data[0]["prompt"] or seen[0].messages[0]["content"] == data[1]["prompt"]
    assert "higher" in seen[0].messages[2]["content"] and "2 it is" in seen[0].messages[1]["content"]
    assert [row.gain for row in logged(tmp_path)] == [pytest.approx([-3 / 9, 1.0])] * 8


class Corridor:
    """A class as TRL's `environment_factory` takes it, which remembers what each step earned."""

    def reset(self, **_: Any) -> str:
        self.place, self.turn_rewards = 0, []
        return "You stand at 0."

    def walk(self, steps: int) -> str:
        """Walk.

        Args:
            steps: how far.
        """
        self.place += steps
        self.turn_rewards.append(steps / 10)
        return f"You stand at {self.place}."


def test_a_function_sees_trls_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `environment_factory` each transcript holds its own rollout's environment, whose rewards per turn become the
    gains without a global."""
    tokenizer = qwen_tokenizer()

    def sample(self: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        texts = []
        for i, ids in enumerate(prompt_ids):
            call = json.dumps({"name": "walk", "arguments": {"steps": i}})
            again = "<tool_response>" in tokenizer.decode(ids)
            texts.append("there<|im_end|>" if again else f"<tool_call>\n{call}\n</tool_call><|im_end|>")
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(A2TGPOTrainer, "_generate_single_turn", sample)
    rows = [{"prompt": [{"role": "user", "content": "Walk."}]}] * 2
    trainer = A2TGPOTrainer(
        tiny_llama(tokenizer),
        lambda environments, **_: [float(one.place) for one in environments],
        config(tmp_path, max_completion_length=600, rollouts_dir=str(tmp_path)),
        train_dataset=questions().from_list(rows),
        processing_class=tokenizer,
        environment_factory=Corridor,
        turn_signal=TurnFunction(lambda rollout: rollout.environment.turn_rewards),
    )
    trainer.train()
    assert [row.gain for row in logged(tmp_path)] == [pytest.approx([i / 10]) for i in range(8)]
