"""What a script of TRL's users meets: traps named at construction, tools that fail, answers that environments keep, and
the files that a run leaves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from trl import GRPOConfig

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import DataError, SignalError, ToolError
from a2tgpo.integrations.trl import checks
from a2tgpo.integrations.trl.tool_failures import FAILED_BATCHES, ToolFailures
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals import TurnFunction
from tests.integrations.parts import Recorded, config, questions, qwen_tokenizer, scripted_trainer, tiny_llama

BOXED = "\\boxed{{answer}}"
CALL = '<tool_call>\n{"name": "lookup", "arguments": {"name": "Kelo"}}\n</tool_call><|im_end|>'
WRONG_CALL = '<tool_call>\n{"name": "lookup", "arguments": {"who": "Kelo"}}\n</tool_call><|im_end|>'
ANSWER = "<think> so </think> <answer> \\boxed{bora} </answer><|im_end|>"


def lookup(name: str) -> str:
    """Look a person up.

    Args:
        name: who to look up.

    Returns:
        What is known.
    """
    raise ConnectionError("the library is closed")


def messages(n: int = 2) -> Dataset:
    """Questions as TRL's tools want them."""
    return Dataset.from_list([{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in questions(n)])


def with_tools(tmp_path: Path, dataset: Any, reward: Any = exact_match_reward, **options: Any) -> A2TGPOTrainer:
    """A trainer that calls `lookup`, which always raises, through TRL's own loop."""
    tokenizer = qwen_tokenizer()
    native = options.pop("native", {"tools": [lookup]})
    settings = {"max_completion_length": 900, "answer_scaffold": BOXED} | options
    return A2TGPOTrainer(
        tiny_llama(tokenizer),
        reward,
        config(tmp_path, **settings),
        train_dataset=dataset,
        processing_class=tokenizer,
        **native,
    )


def written_turns(monkeypatch: pytest.MonkeyPatch, first: list[str]) -> None:
    """Let each rollout write its own first turn, and then the answer."""
    tokenizer = qwen_tokenizer()

    def sample(self: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        done = ["<tool_response>" in tokenizer.decode(ids) for ids in prompt_ids]
        texts = [ANSWER if after else first[i % len(first)] for i, after in enumerate(done)]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(A2TGPOTrainer, "_generate_single_turn", sample)


def test_text_prompts_beside_tools_are_refused(tmp_path: Path) -> None:
    """TRL would fail at the first call; here construction says what to write."""
    said = r"row 0 has the text prompt 'Who is.*\[\{\"role\": \"user\""
    with pytest.raises(ValueError, match=said):
        with_tools(tmp_path, questions())
    for evaluated in (questions(), {"small": messages(), "other": questions()}):
        with pytest.raises(ValueError, match=said):
            with_tools(tmp_path, messages(), native={"tools": [lookup], "eval_dataset": evaluated})
    streamed = with_tools(tmp_path, questions().to_iterable_dataset())
    with pytest.raises(ValueError, match=said):
        streamed.train()


def test_a_scaffold_that_the_reward_forbids_is_refused(tmp_path: Path) -> None:
    """The paper's reward wants a box; a sentence without one would be scored and never rewarded."""
    with pytest.raises(ValueError, match=r"answer_scaffold='The answer is \{answer\}.' has no .boxed"):
        with_tools(tmp_path, messages(), answer_scaffold="The answer is {answer}.")
    with_tools(tmp_path, messages(), answer_scaffold="The answer is {answer}.", method="grpo", beta=0.0)
    reward = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    with_tools(tmp_path, messages(), reward, answer_scaffold="The answer is {answer}.")
    judged = {"tools": [lookup], "turn_signal": TurnFunction(lambda rollout: [0.0] * len(rollout.steps))}
    with_tools(tmp_path, messages(), answer_scaffold="The answer is {answer}.", native=judged)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0.2}, "epsilon=0.2 is 67 times"),
        ({"epsilon_high": 0.28}, "epsilon_high=0.28 is 70 times"),
        ({"method": "gspo", "epsilon": 0.2}, "whose ratio is a mean over a sequence"),
        ({"epsilon": 0.004}, None),
        ({"method": "grpo", "epsilon": 0.2, "epsilon_high": 3.0}, None),
        ({}, None),
    ],
)
def test_an_epsilon_of_another_method_is_said(
    tmp_path: Path, changes: dict[str, Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """0.2, as every GRPO script has it, clips hardly any mean ratio: one warning, not an error."""
    with caplog.at_level(logging.WARNING, logger=checks.__name__):
        scripted_trainer(tmp_path, [["x"]], **changes)
    assert said in caplog.text if said else "hardly any" not in caplog.text


def test_braces_that_are_the_placeholders(tmp_path: Path) -> None:
    r"""`\boxed{answer}` would be filled to `\boxedbora`, whatever the reward."""
    for scaffold in ("\\boxed{answer}", "So \\text{answer}."):
        with pytest.raises(ValueError, match=r"would read .(boxed|text)Paris.*write .(boxed|text)\{\{answer\}\}"):
            with_tools(tmp_path, messages(), lambda completions, **_: [0.0], answer_scaffold=scaffold)


def test_a_missing_prompt_column_is_said(tmp_path: Path) -> None:
    """TRL fails with a KeyError in its first step."""
    with pytest.raises(DataError, match=r"columns \['question', 'answer'\] and no 'prompt'"):
        scripted_trainer(tmp_path, [["x"]], dataset=questions().rename_column("prompt", "question"))


def test_a_signal_of_one_rollout_is_told_from_one_of_a_batch(tmp_path: Path) -> None:
    """A plain function is called with all rollouts; one written for a single rollout says what to wrap it in."""
    signal = lambda rollout: [0.0 for _ in rollout.steps]  # noqa: E731
    trainer = scripted_trainer(tmp_path, [[search_turn("find", "Kelo"), answer_turn("bora")]], turn_signal=signal)
    with pytest.raises(SignalError, match=r"rollouts of a batch.*TurnFunction\("):
        trainer.train()
    of_batch = lambda rollouts: [[0.0 for _ in one.steps] for one in rollouts]  # noqa: E731
    scripted_trainer(
        tmp_path, [[search_turn("find", "Kelo"), answer_turn("bora")]], turn_signal=of_batch, rollouts_dir=""
    ).train()


def test_a_missing_answer_column_names_every_way_out(tmp_path: Path) -> None:
    """A column, an environment that reveals it, another signal, or a method without gains."""
    dataset = messages().remove_columns("answer")
    with pytest.raises(DataError, match=r"no 'answer'.*attribute `answer`.*turn_signal=.*method='grpo'"):
        with_tools(tmp_path, dataset, lambda completions, **_: [0.0] * len(completions))


def test_number_answers_train(tmp_path: Path, assigned: list[Recorded]) -> None:
    """A column of numbers, as in TRL's own tool example, is read as text."""
    dataset = questions().remove_columns("answer").add_column("answer", [12, 7])
    trainer = scripted_trainer(tmp_path, [[answer_turn("12")]], dataset=dataset)
    trainer.train()
    assert [list(task.answers) for task in assigned[0].batch.tasks] == [["12"]] * 4 + [["7"]] * 4


def test_a_tool_that_raises_fails_its_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """Rollouts whose tool raised are excluded like those of our own loop; one that called it wrongly, and so read an
    error as well, is the policy's doing and stays."""
    written_turns(monkeypatch, [CALL, ANSWER, WRONG_CALL, ANSWER])
    trainer = with_tools(tmp_path, messages())
    trainer.model.train()
    batch = trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])
    (recorded,) = assigned
    assert recorded.credit.valid.tolist() == [False, True, True, True] * 2
    assert (batch["turn_ids"][0] == -1).all() and (batch["turn_ids"][2] >= 0).any()
    assert trainer._metrics["train"]["rollout/invalid"] == [0.25]


class ClosedLibrary:
    """An environment of TRL's whose one tool always raises."""

    def reset(self, **_: Any) -> None:
        """Nothing to prepare."""

    def lookup(self, name: str) -> str:
        """Look a person up.

        Args:
            name: who to look up.

        Returns:
            What is known.
        """
        raise ConnectionError("the library is closed")


@pytest.mark.parametrize("options", [{}, {"scale_rewards": "none"}, {"loss_type": "cispo"}])
def test_an_environments_tool_that_raises_fails_its_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded], options: dict[str, Any]
) -> None:
    """The same with `environment_factory`; failed rollouts are in no baseline however outcomes are compared, and in no
    loss, TRL's own objectives' neither."""
    written_turns(monkeypatch, [CALL, ANSWER, WRONG_CALL, ANSWER])
    native = {"environment_factory": ClosedLibrary}
    reward = lambda completions, **_: [[9.0, 1.0, 0.0, 0.0][i % 4] for i in range(len(completions))]  # noqa: E731
    trainer = with_tools(tmp_path, messages(), reward, native=native, method="grpo", beta=0.0, **options)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])
    (recorded,) = assigned
    assert recorded.credit.valid.tolist() == [False, True, True, True] * 2
    shares = recorded.credit.advantage[1:4, 0]
    assert shares.sum().abs() < 1e-5 and shares[0] > 0 > shares[1]
    assert (batch["advantages"][0] == 0).all() and batch["num_items_in_batch"] == (batch["turn_ids"] >= 0).sum()
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))


def test_dynamic_sampling_remembers_failed_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """A group that is kept from the first of two sampled batches keeps its failed rollouts failed, and each rollout is
    rewarded once."""
    rewarded: list[int] = []

    def reward(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        rewarded.append(len(completions))
        first = len(rewarded) == 1
        return [float(i % 4 == 1) if (i < 4) == first else 0.5 for i in range(len(completions))]

    written_turns(monkeypatch, [CALL, ANSWER, ANSWER, ANSWER])
    trainer = with_tools(tmp_path, messages(6), reward, method="dapo")
    trainer.model.train()
    trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])
    (recorded,) = assigned
    assert rewarded == [8, 8] and trainer._metrics["train"]["rollout/sampled_batches"] == [2]
    assert recorded.credit.valid.tolist() == [False, True, True, True] * 2


def test_tools_that_fail_everything_end_the_run_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some batches in a row in which every call raised, training stops, and the weights are kept."""
    written_turns(monkeypatch, [CALL])
    trainer = with_tools(tmp_path, messages(), max_steps=9, save_strategy="steps", save_steps=100)
    with pytest.raises(ToolError, match=rf"all rollouts of {FAILED_BATCHES} batches in a row.*library is closed"):
        trainer.train()
    assert (tmp_path / "out" / f"checkpoint-{FAILED_BATCHES - 1}").is_dir()


def test_failures_in_a_row_are_counted_anew_after_a_success() -> None:
    """A rollout is known by the text of what its tool raised; one batch that did not fail sets the count back."""
    failures = ToolFailures()
    tool = failures.watch(lookup)
    with pytest.raises(ConnectionError):
        tool(name="Kelo")
    with pytest.raises(TypeError):
        tool(who="Kelo")
    shown = [[{"role": "tool", "content": str({"error": text})}] for text in ("the library is closed", "no argument")]
    assert failures.of([*shown, "text"]) == [True, False, False]
    for all_failed in [True] * (FAILED_BATCHES - 1) + [False] + [True] * (FAILED_BATCHES - 1):
        failures.count(all_failed)
    with pytest.raises(ToolError, match="library is closed"):
        failures.count(True)


def test_a_tool_that_returns_a_list_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """TRL gives it to the template as parts of a message, of which Qwen3's shows nothing."""

    def many() -> list[str]:
        return ["one", "two"]

    with caplog.at_level(logging.WARNING):
        assert ToolFailures().watch(many)() == ["one", "two"]
    assert "Tool 'many' returned a list" in caplog.text and "Return text" in caplog.text


def test_fewer_prompts_than_a_batch_are_refused(tmp_path: Path) -> None:
    """TRL would make no update and end as if it had trained."""
    with pytest.raises(ValueError, match="2"):
        scripted_trainer(tmp_path, [["x"]], dataset=questions(1))


class Secret:
    """An environment of TRL's that owns its data: it sets the task, and names the answer after the episode."""

    answer: str

    def reset(self, **_: Any) -> str:
        self.answer = "bora"
        return "Who is it?"

    def ask(self, name: str) -> str:
        """Ask.

        Args:
            name: whom to ask.

        Returns:
            What they say.
        """
        return "bora, perhaps"

    def get_reward(self) -> float:
        return 1.0


def test_the_other_trainers_arguments_are_refused_at_once(tmp_path: Path) -> None:
    """Who swaps the trainer and not its arguments is told before a model is loaded."""
    arguments = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match=r"args is a GRPOConfig: write A2TGPOConfig\(...\)"):
        A2TGPOTrainer("no/such-model", exact_match_reward, arguments)


def test_an_environment_may_own_prompt_and_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """Without columns `prompt` and `answer` it trains on what the environment reveals, and the log has the prompt as
    the policy read it."""
    written_turns(monkeypatch, [CALL.replace("lookup", "ask"), ANSWER])
    trainer = with_tools(
        tmp_path,
        Dataset.from_list([{"seed": 0}, {"seed": 1}]),
        None,
        native={"environment_factory": Secret},
        rollouts_dir=str(tmp_path / "rollouts"),
    )
    trainer.train()
    assert assigned[0].signals.likelihood is not None and assigned[0].credit.gain is not None
    lines = (tmp_path / "rollouts" / "step_000000.jsonl").read_text(encoding="utf-8").splitlines()
    record = RolloutRecord.from_line(lines[0])
    assert "Who is it?" in record.prompt[-1]["content"] and record.answer == ["bora"]


def test_a_script_leaves_what_the_report_reads(tmp_path: Path) -> None:
    """Without a word about logs, a run leaves rollouts, metrics and configuration in its output folder; a secret among
    the arguments is not written."""
    scripts = [[search_turn("a", "b"), answer_turn("bora")], ["no tag"]]
    trainer = scripted_trainer(tmp_path, scripts, hub_token="hf_abc123def456ghi7")
    trainer.train()
    folder = tmp_path / "out"
    assert len((folder / "rollouts" / "step_000000.jsonl").read_text().splitlines()) == 8
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    written = (folder / "config.yaml").read_text()
    assert yaml.safe_load(written)["max_steps"] == 1 and "hf_abc" not in written
    quiet = scripted_trainer(tmp_path / "quiet", [["x"]], rollouts_dir="")
    quiet.train()
    assert not (tmp_path / "quiet" / "out" / "rollouts").exists()


@pytest.mark.parametrize(("method", "number"), [("a2tgpo", "2605.06200"), ("gspo", "2507.18071")])
def test_a_model_card_names_its_methods_paper(tmp_path: Path, method: str, number: str) -> None:
    """Not DeepSeekMath's, which TRL's trainer has."""
    trainer = scripted_trainer(tmp_path, [["x"]], method=method)
    (tmp_path / "out").mkdir(exist_ok=True)
    trainer.create_model_card(model_name="mine")
    card = (tmp_path / "out" / "README.md").read_text()
    assert number in card and "2402.03300" not in card and method in card


def test_the_turn_signal_is_a_keyword(tmp_path: Path) -> None:
    """The sixth argument by position is TRL's processing_class."""
    tokenizer = build_tokenizer()
    trainer = A2TGPOTrainer(tiny_llama(tokenizer), exact_match_reward, config(tmp_path), questions(), None, tokenizer)
    assert trainer._tokenizer is tokenizer
