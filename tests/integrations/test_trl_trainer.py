"""The trainer on real TRL: credit equals the core's on likelihoods scored apart, one pass, TRL's own tool loop."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from a2tgpo import A2TGPOTrainer
from a2tgpo.core import information_gain, turn_credit
from a2tgpo.errors import DataError
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals.answer_likelihood import AnswerScaffold
from tests.integrations.parts import (
    Recorded,
    by_turn,
    config,
    failing_once,
    questions,
    qwen_tokenizer,
    scripted_trainer,
    tiny_llama,
)

SEARCH, OTHER = search_turn("find it", "Kelo mentor"), search_turn("so", "kelo founder is it next")
SCRIPTS = [
    [SEARCH, answer_turn("bora")],
    [OTHER, SEARCH, answer_turn("Kelo")],
    ["nothing to say"],
    [answer_turn("bora")],
    [SEARCH, OTHER, SEARCH, answer_turn("bora")],
    [OTHER, answer_turn("mitu")],
    [SEARCH, "no tag"],
    [OTHER, OTHER, answer_turn("bora")],
]


def one_batch(trainer: A2TGPOTrainer) -> dict[str, Any]:
    """The batch of the first generation, in the order generated."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [trainer.train_dataset[i // trainer.num_generations] for i in range(len(SCRIPTS))]
    return trainer._generate_and_score_completions([dict(row) for row in rows])


def test_credit_is_the_cores_on_separately_scored_likelihoods(tmp_path: Path, assigned: list[Recorded]) -> None:
    """Advantage and clip scale of every turn equal the core applied to likelihoods scored rollout by rollout, one row
    per boundary, with a plain forward: tokens, turns, boundaries, groups and rewards all line up."""
    trainer = scripted_trainer(tmp_path, SCRIPTS)
    batch = one_batch(trainer)
    (recorded,) = assigned
    written = recorded.batch.model_mask
    likelihood, is_process, n_turns = [], [], []
    probe = AnswerScaffold(trainer.args.answer_scaffold).encode(trainer._tokenizer, "bora")
    for i in range(len(SCRIPTS)):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
        tokens = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
        own = written[i, : len(tokens)].tolist()
        ends = [t + 1 for t in range(len(tokens)) if not own[t] and (t + 1 == len(tokens) or own[t + 1])]
        if ends and not own[-1] and own[-2]:
            ends = ends[:-1]  # the closing EOS is no observation
        prefixes = [prompt, *(prompt + tokens[:end] for end in ends)]
        values = [_likelihood(trainer, prefix, probe) for prefix in prefixes]
        turns = len(SCRIPTS[i])
        assert len(ends) == sum("<search>" in turn for turn in SCRIPTS[i])
        likelihood.append(values + [0.0] * (4 - len(ends)))
        is_process.append([t < len(ends) for t in range(4)])
        n_turns.append(turns)
    process = torch.tensor(is_process)
    expected = turn_credit(
        information_gain(torch.tensor(likelihood), process),
        process,
        torch.tensor([1.0, 0.0, -1.0, 1.0, 1.0, 0.0, -1.0, 1.0]),
        torch.arange(8) // 4,
        gamma=1.0,
        alpha=1.0,
        beta=0.3,
        n_turns=torch.tensor(n_turns),
    )
    torch.testing.assert_close(by_turn(batch, "advantages", 4), expected.advantage, atol=2e-2, rtol=1e-3)
    exists = torch.arange(4) < torch.tensor(n_turns)[:, None]
    scale = by_turn(batch, "turn_clip_scale", 4)
    torch.testing.assert_close(scale[exists], expected.clip_scale[exists], atol=2e-3, rtol=1e-3)
    assert expected.advantage.abs().max() > 0.5


def _likelihood(trainer: A2TGPOTrainer, prefix: list[int], probe: Any) -> float:
    row = torch.tensor([[*prefix, *probe.ids]])
    with torch.no_grad():
        logits = trainer.model(input_ids=row).logits[0].log_softmax(-1)
    scored = [
        logits[len(prefix) + j - 1, token]
        for j, (token, own) in enumerate(zip(probe.ids, probe.is_answer, strict=True))
        if own
    ]
    return float(torch.stack(scored).mean().exp())


@pytest.mark.parametrize("steps_per_generation", [1, 2])
def test_one_trajectory_pass(tmp_path: Path, steps_per_generation: int) -> None:
    """Likelihoods cost one trajectory forward and one probe forward a micro-batch. Where TRL asks for old
    log-probabilities (2 steps per generation) the first is theirs too; where it does not (1) its seconds are the
    gain's."""
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        per_device_train_batch_size=8 // steps_per_generation,
        steps_per_generation=steps_per_generation,
    )
    lengths: list[int] = []
    trainer.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].size(1)), with_kwargs=True
    )
    batch = one_batch(trainer)
    trajectory = batch["prompt_ids"].size(1) + batch["completion_ids"].size(1)
    assert len(lengths) == 2 * steps_per_generation
    assert max(lengths) <= trajectory and (steps_per_generation == 1 or lengths.count(trajectory) == 2)
    seconds = trainer._clock.take("train")
    assert seconds["seconds/gain"][0] > 0 and ("seconds/old_logps" in seconds) == (steps_per_generation == 2)


def logps_of(trainer: A2TGPOTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """The policy's log-probabilities, as TRL computes them."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        logps, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, batch["completion_ids"].size(1)
        )
    return logps


def gradient_of(trainer: A2TGPOTrainer, loss: torch.Tensor) -> torch.Tensor:
    """Of all parameters, side by side."""
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("method", "rows"), [("a2tgpo", 8), ("grpo", 8), ("grpo", 3)])
def test_old_log_probabilities_are_the_policys(
    tmp_path: Path, method: str, rows: int, assigned: list[Recorded]
) -> None:
    """With two updates a batch, what our pass leaves as old log-probabilities is what TRL's own method computes, with
    gains to read beside them or without, in one forward or several; with one update there are none, as in TRL: the
    ratio to oneself is 1, whatever two passes round to."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, num_iterations=2, method=method)
    trainer.args.per_device_train_batch_size = rows
    batch = one_batch(trainer)
    written = batch["turn_ids"] >= 0
    expected = logps_of(trainer, batch)
    torch.testing.assert_close(batch["old_per_token_logps"][written], expected[written], atol=1e-4, rtol=1e-4)
    (recorded,) = assigned
    assert not batch["old_per_token_logps"][~written & ~recorded.batch.model_mask].any()
    assert "old_per_token_logps" not in one_batch(scripted_trainer(tmp_path, SCRIPTS, method=method))


def test_on_one_turn_it_is_trls_sequence_level_loss(tmp_path: Path) -> None:
    """Without tools a rollout is one turn, and loss and gradient equal TRL's sequence-level GRPO on the same batch."""
    trainer = scripted_trainer(tmp_path, [[answer_turn("bora")], [answer_turn("Kelo mitu")]] * 4)
    batch = one_batch(trainer)
    advantage = torch.linspace(-1.0, 1.0, 8)
    logps = logps_of(trainer, batch)
    batch |= {
        "old_per_token_logps": logps + 0.004 * torch.randn_like(logps),
        "advantages": advantage[:, None].expand_as(logps),
        "turn_clip_scale": torch.ones_like(logps),
    }
    ours = trainer._compute_loss(trainer.model, batch)
    trainer.importance_sampling_level = "sequence"
    theirs = GRPOTrainer._compute_loss(
        trainer, trainer.model, batch | {"advantages": advantage, "tool_mask": (batch["turn_ids"] >= 0).long()}
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient_of(trainer, ours), gradient_of(trainer, theirs), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("iterations", [1, 2])
def test_kl_penalty_is_trls(tmp_path: Path, iterations: int) -> None:
    """With beta > 0 the added penalty, its gradient and what is logged of it equal TRL's, importance-weighted and not,
    with one update a batch and with two."""
    trainer = scripted_trainer(tmp_path, [[answer_turn("bora")]], num_iterations=iterations)
    batch = one_batch(trainer)
    trainer.beta = 0.1
    batch["ref_per_token_logps"] = logps_of(trainer, batch) + 0.1
    batch["advantages"] = torch.zeros(8)
    for weighted in (True, False):
        trainer.args.use_bias_correction_kl = weighted
        ours = trainer._compute_loss(trainer.model, batch)
        theirs = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradient_of(trainer, ours), gradient_of(trainer, theirs), atol=1e-6, rtol=1e-4)
        mine, other = trainer._metrics["train"]["kl"][-2:]
        assert mine == pytest.approx(other, rel=1e-4) and other > 0


def test_training_moves_the_policy_and_writes_its_rollouts(tmp_path: Path) -> None:
    """A real step changes weights, logs what the issue of credit needs, and leaves one JSON line per rollout whose
    numbers fit together."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, rollouts_dir=str(tmp_path / "rollouts"))
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.lm_head.weight)
    logged = set().union(*trainer.state.log_history)
    assert logged >= {
        *("gain/turn_1", "gain_normalized/turn_1", "advantage/turn_4", "clip_scale/mean", "clip_scale/std"),
        *("loss/clipped_low", "loss/clipped_high", "rollout/turns", "rollout/searches", "rollout/format_rate"),
        *("entropy", "seconds/generation", "seconds/gain", "seconds/update"),
    }
    lines = (tmp_path / "rollouts" / "step_000000.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["termination"] for record in records].count("malformed") == 2
    for record in records:
        before_after = record["likelihood"]
        gains = [b - a for a, b in pairwise(before_after)]
        assert record["gain"] == pytest.approx(gains, abs=1e-6)
        turns = {segment["turn"] for segment in record["segments"]} - {-1}
        assert len(record["advantage"]) == len(turns)
        text = "".join(segment["text"] for segment in record["segments"])
        assert ("<result>" in text) == bool(record["gain"])


# --- TRL's own tool loop ---------------------------------------------------------------------------------------------


def lookup(name: str) -> str:
    """Look a person up.

    Args:
        name: who to look up.

    Returns:
        What is known.
    """
    return f"The mentor of {name} is bora."


class Library:
    """An environment with one tool and its own reward."""

    def reset(self, **row: Any) -> None:
        self.calls = 0

    def lookup(self, name: str) -> str:
        """Look a person up.

        Args:
            name: who to look up.

        Returns:
            What is known.
        """
        self.calls += 1
        return f"The mentor of {name} is bora."

    def get_reward(self) -> float:
        return float(self.calls > 0)


@pytest.mark.parametrize("native", [{"tools": [lookup]}, {"environment_factory": Library}])
def test_trls_tools_work_unchanged(tmp_path: Path, native: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With `tools=` or `environment_factory=` TRL runs the tools; we find a process turn per tool result, score it,
    and train. Only the sampling is replaced, by written turns in Qwen3's format."""
    tokenizer = qwen_tokenizer()
    call = '<tool_call>\n{"name": "lookup", "arguments": {"name": "Kelo"}}\n</tool_call><|im_end|>'
    answer = "\\boxed{bora}<|im_end|>"

    def sample(self: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        texts = [
            call if i % 2 == 0 and "<tool_response>" not in tokenizer.decode(ids) else answer
            for i, ids in enumerate(prompt_ids)
        ]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(A2TGPOTrainer, "_generate_single_turn", sample)
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in questions()]
    trainer = A2TGPOTrainer(
        tiny_llama(tokenizer),
        exact_match_reward,
        config(tmp_path, max_completion_length=600, answer_scaffold="\\boxed{{answer}}"),
        train_dataset=questions().from_list(rows),
        processing_class=tokenizer,
        **native,
    )
    trainer.model.train()
    batch = trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])
    turns = (batch["turn_ids"].amax(dim=1) + 1).tolist()
    assert turns == [2, 1] * 4
    gains = trainer._metrics["train"]["gain/turn_1"]
    assert len(gains) == 1 and "gain/turn_2" not in trainer._metrics["train"]
    first = batch["turn_ids"][0]
    assert tokenizer.decode(batch["completion_ids"][0][first == 0]) == call
    assert "<tool_response>" in tokenizer.decode(batch["completion_ids"][0][first == -1])
    trainer.train()


@pytest.mark.parametrize("method", ["a2tgpo", "dapo"])
def test_evaluation_scores_and_changes_nothing(tmp_path: Path, method: str) -> None:
    """TRL's `evaluate()`: a finite loss and our metrics under `eval_`, no replaced prompts, no line in the rollout log,
    no weight moved; the policy trains on afterwards."""
    trainer = scripted_trainer(
        tmp_path, SCRIPTS, method=method, eval_dataset=questions(2), rollouts_dir=str(tmp_path / "rollouts")
    )
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    metrics = trainer.evaluate()
    assert math.isfinite(metrics["eval_loss"])
    assert metrics["eval_rollout/format_rate"] == pytest.approx(6 / 8)
    assert ("eval_gain/turn_1" in metrics) == (method == "a2tgpo")
    assert "eval_rollout/sampled_batches" not in metrics
    assert not list((tmp_path / "rollouts").glob("*.jsonl"))
    assert all(a.equal(b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    trainer.train()
    assert list((tmp_path / "rollouts").glob("*.jsonl"))


# --- bad input -------------------------------------------------------------------------------------------------------


def other_reward(completions: list[str], **_: Any) -> list[float]:
    """A reward that knows nothing of tools, and gives the rollouts they failed a number like any other."""
    return [7.0 - i % 3 * 7 for i in range(len(completions))]


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("reward", [exact_match_reward, [exact_match_reward, other_reward]])
def test_a_failed_tool_is_left_out_of_every_statistic(tmp_path: Path, reward: Any, iterations: int) -> None:
    """Rollouts the tool failed have no turns to train on, and the others are credited as if they were not there,
    whatever a second reward function says of them."""
    trainer = scripted_trainer(
        tmp_path,
        [[SEARCH, answer_turn("x")], [answer_turn("bora")], [answer_turn("x")]],
        search=failing_once(),
        reward=reward,
        num_iterations=iterations,
    )
    batch = one_batch(trainer)
    failed = torch.tensor([i % 3 == 0 for i in range(8)])
    assert (batch["turn_ids"][failed] == -1).all()
    assert by_turn(batch, "advantages", 1)[:4, 0].tolist() == pytest.approx([0, 1, -1, 0], abs=1e-4)
    assert trainer._metrics["train"]["rollout/tool_failed"] == [pytest.approx(3 / 8)]
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))


def test_nan_rewards_raise(tmp_path: Path) -> None:
    """A reward that is not a number stops the run and names the function."""

    def broken_reward(completions: list[str], **_: Any) -> list[float]:
        return [float("nan")] * len(completions)

    trainer = scripted_trainer(tmp_path, SCRIPTS, reward=broken_reward)
    with pytest.raises(ValueError, match=r"broken_reward.*NaN.*return a number, or None"):
        one_batch(trainer)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, "no 'answer'.*add a column"),
        (["", "x"], "row 0: the answers '' are empty"),
        ([[], ["x"]], r"row 0: the answers \[\] are empty"),
        ([["x"], ["\u0301"]], "row 1"),
    ],
)
def test_data_without_answers_is_refused(tmp_path: Path, answers: Any, message: str) -> None:
    """A missing column, an empty answer and an answer without tokens are found before training, by row."""
    dataset = questions().remove_columns("answer")
    if answers is not None:
        dataset = dataset.add_column("answer", answers)
    with pytest.raises(DataError, match=message):
        scripted_trainer(tmp_path, SCRIPTS, dataset=dataset)


def test_a_streamed_row_without_answer_is_refused_when_met(tmp_path: Path) -> None:
    """Streamed and environment-owned data cannot be read beforehand; the batch says which row lacks its answer."""
    trainer = scripted_trainer(tmp_path, SCRIPTS)
    with pytest.raises(DataError, match="row 1: the answers None are empty"):
        trainer._generate_and_score_completions([dict(trainer.train_dataset[0]), {"prompt": "Who?"}])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss_type", "cispo"),
        ("loss_type", "vespo"),
        ("importance_sampling_level", "sequence"),
        ("likelihood", "odds"),
        ("answer_alias", "worst"),
        ("gain_method", "magic"),
        ("turn_gamma", 1.5),
        ("clip_beta", 1.0),
    ],
)
def test_options_it_cannot_honour_raise(tmp_path: Path, option: str, value: Any) -> None:
    """Each names the option and the value, before anything is loaded; TRL itself accepts TRL's."""
    if option in GRPOConfig.__dataclass_fields__:
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{option: value})
    with pytest.raises(ValueError, match=f"{option}={value!r}(: | with method='a2tgpo': .*method=')"):
        config(tmp_path, **{option: value})


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    """A single rollout per prompt has no baseline."""
    with pytest.raises(ValueError, match=r"num_generations=1|at least 2"):
        config(tmp_path, num_generations=1)
