"""TRL's tool loop with KV-cache reuse: the turns that `generate` writes, each token read once, and the answers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from a2tgpo import A2TGPOTrainer
from a2tgpo.integrations.trl import tool_loop as tool_turns
from a2tgpo.integrations.trl.tool_loop import ToolLoopCache
from a2tgpo.rollout.slot_layout import Chunk
from tests.integrations.parts import Recorded, config, questions, qwen_tokenizer, tiny_llama
from tests.integrations.test_kept_answers import expected_of
from tests.rollout.test_kv_cache_engine import count_reading

TURN, LONGEST = 12, 420


def calling_tokenizer() -> Any:
    """Takes four turns in five for a tool call, by their tokens: the policy is random and knows no format."""
    tokenizer = qwen_tokenizer()

    def parse_response(ids: list[int], **_: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": tokenizer.decode(ids)}
        if sum(ids) % 5:
            message["tool_calls"] = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
        return message

    tokenizer.response_template = {"calls": "by tokens"}
    tokenizer.parse_response = parse_response
    return tokenizer


def looking(start: int = 0, words: Callable[[int], int] = lambda number: number * 7 % 13) -> Any:
    """A tool whose answers differ from call to call: the number of the call, and so many `words`."""
    calls = itertools.count(start)

    def look(at: str) -> str:
        """Look.

        Args:
            at: What to look at.

        Returns:
            What is seen.
        """
        number = next(calls)
        return f"{number} " + "seen " * words(number)

    return look


def rooms() -> Any:
    """Makes environments with the same tool, no two alike."""
    starts = itertools.count(0, 3)

    class Room:
        def __init__(self) -> None:
            self._look = looking(next(starts))

        def reset(self, **_: Any) -> None:
            """Nothing to prepare."""

        def look(self, at: str) -> str:
            """Look.

            Args:
                at: What to look at.

            Returns:
                What is seen.
            """
            return str(self._look(at))

    return Room


def trainer(tmp_path: Path, environment: bool = False, tool: Any = None, **changes: Any) -> A2TGPOTrainer:
    """A random policy on questions, generating through TRL's loop."""
    tokenizer = calling_tokenizer()
    model = tiny_llama(tokenizer)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(200, 210)]
    native: dict[str, Any] = {"environment_factory": rooms()} if environment else {"tools": [tool or looking()]}
    native["rollout_func"] = changes.pop("rollout_func", None)
    options = {"generation_kwargs": {"max_new_tokens": TURN}, "max_completion_length": LONGEST} | changes
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in questions(4)]
    made = A2TGPOTrainer(
        model,
        lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        config(tmp_path, temperature=0.8, **options),
        train_dataset=questions().from_list(rows),
        processing_class=tokenizer,
        **native,
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def batch(made: A2TGPOTrainer) -> dict[str, Any]:
    torch.manual_seed(0)
    return made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])


def rows_of(output: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Completion and turn of each token, without padding."""
    lengths = output["completion_mask"].sum(1).tolist()
    both = zip(output["completion_ids"].tolist(), output["turn_ids"].tolist(), lengths, strict=True)
    return [(ids[:n], turns[:n]) for ids, turns, n in both]


def calls(ids: list[int], turns: list[int]) -> bool:
    """Whether the rollout's last turn asked for a tool."""
    return bool(sum(token for token, turn in zip(ids, turns, strict=True) if turn == max(turns)) % 5)


def generate_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToolLoopCache, "write", lambda self, contexts: None)


@pytest.mark.parametrize("environment", [False, True])
@pytest.mark.parametrize("longest", [LONGEST, 160])
def test_greedy_rollouts_are_generates(
    tmp_path: Path, environment: bool, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `tools=` and with environments, the rollouts are token by token those of TRL's own generation: of several
    turns, ended by the policy, by the budget of a turn, and by that of the rollout in a turn and before a result."""
    greedy = {"generation_kwargs": {"max_new_tokens": TURN, "do_sample": False}, "max_completion_length": longest}
    made = trainer(tmp_path, environment, **greedy)
    kept = rows_of(batch(made))
    assert made._tool_loop._engine is not None
    with monkeypatch.context() as patch:
        generate_reads_all(patch)
        anew = rows_of(batch(trainer(tmp_path, environment, **greedy)))
    assert kept == anew
    assert len({max(turns) for _, turns in kept}) > 1
    last = {turns.count(max(turns)) for _, turns in kept}
    assert TURN in last and len(last) > 1
    if longest < LONGEST and not environment:
        assert max(len(ids) for ids, _ in kept) == longest
        assert any(calls(ids, turns) and len(ids) < longest for ids, turns in kept)


def test_contexts_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all turns of a batch what is read in more than single steps is each prompt, once for its rows, and each
    result, with the token before it, whose keys no next token asked for."""
    read = count_reading(monkeypatch)
    output = batch(trainer(tmp_path))
    prompts = output["prompt_mask"].sum(1).tolist()
    results = [list(run) for _, turns in rows_of(output) for turn, run in itertools.groupby(turns) if turn < 0]
    assert len(results) > 8
    assert sum(n for n, _ in read if n > 1) == prompts[0] + prompts[4] + sum(len(run) + 1 for run in results)


@pytest.mark.parametrize("options", [{}, {"answer_alias": "best"}, {"gradient_checkpointing": True}])
def test_answers_are_read_from_generations_keys(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """With one update a batch no pass over the trajectories is made, and the likelihoods are the pass's."""
    monkeypatch.setattr(A2TGPOTrainer, "_score", lambda *_, **__: pytest.fail("a pass over the trajectories"))
    made = trainer(tmp_path, **options)
    batch(made)
    (recorded,) = assigned
    made.model.gradient_checkpointing_disable()
    expected, exists = expected_of(made, recorded.batch), recorded.batch.boundaries.exists
    torch.testing.assert_close(recorded.signals.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    assert exists.equal(expected.boundaries.exists)
    assert exists.sum(1).max() > 2
    assert recorded.signals.likelihood[exists].std() > 0


GREEDY = {"generation_kwargs": {"max_new_tokens": TURN, "do_sample": False}, "max_completion_length": 160}


def overlong_first() -> Any:
    """A tool whose first answer is more than a rollout can hold."""
    return looking(words=lambda number: number or 60)


def equal_until_one_ends(made: A2TGPOTrainer, same_answers: bool) -> int:
    """A batch of one prompt, whose greedy rollouts are equal until the tools answer; the passes it took."""
    passes = 0
    score = made._score

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        return score(*args, **named)

    made._score = counted  # type: ignore[method-assign]
    answers = [["bora"] if same_answers or number % 2 else ["kelo"] for number in range(8)]
    made._generate_and_score_completions([{**made.train_dataset[0], "answer": answer} for answer in answers])
    return passes


@pytest.mark.parametrize("same_answers", [True, False])
def test_rollouts_that_were_equal_until_one_ended(tmp_path: Path, same_answers: bool, assigned: list[Recorded]) -> None:
    """The first rollout, whose result is too long, ends, and the others are taken for those before them until the batch
    ends. Each has its own likelihoods all the same: from the keys, or, where the rows so exchanged had different
    answers, from a pass."""
    made = trainer(tmp_path, tool=overlong_first(), **GREEDY)
    passes = equal_until_one_ends(made, same_answers)
    (recorded,) = assigned
    lengths = recorded.batch.completion_mask.sum(1).tolist()
    assert lengths[0] < min(lengths[1:])
    assert passes == (0 if same_answers else 1)
    expected = expected_of(made, recorded.batch).likelihood
    torch.testing.assert_close(recorded.signals.likelihood, expected, atol=1e-4, rtol=0)


def test_several_updates_keep_the_keys_but_not_the_answers(tmp_path: Path, assigned: list[Recorded]) -> None:
    """A batch that feeds two updates is scored by the pass that its old log-probabilities need."""
    made = trainer(tmp_path, steps_per_generation=2)
    output = batch(made)
    assert "old_per_token_logps" in output
    assert made._tool_loop._engine is not None
    (recorded,) = assigned
    torch.testing.assert_close(recorded.signals.likelihood, expected_of(made, recorded.batch).likelihood)


def test_training_and_evaluation(tmp_path: Path) -> None:
    """Steps and TRL's `evaluate()`, whose batch has another size; the model trains on and no batch is left open."""
    made = trainer(tmp_path, max_steps=2, num_generations_eval=2)
    made.train()
    assert made.model.training and made._tool_loop._batch is None
    metrics = made.evaluate(made.train_dataset)
    assert "eval_gain/turn_1" in metrics


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"num_beams": 2}, "several beams"),
        ({"min_new_tokens": 4}, "MinNewTokens"),
        ({"max_time": 9.0}, "max_time"),
        ({"encoder_repetition_penalty": 1.2}, "encoder_repetition_penalty"),
        ({"encoder_no_repeat_ngram_size": 1}, "encoder_no_repeat_ngram_size"),
        ({"max_new_tokens": None, "max_length": 2000}, "max_new_tokens=None"),
    ],
)
def test_what_cannot_be_kept_is_generates(
    tmp_path: Path, kwargs: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where rows at different depths cannot be drawn together, TRL generates, with a warning that says why."""
    with caplog.at_level(logging.WARNING, logger=tool_turns.__name__):
        output = batch(trainer(tmp_path, generation_kwargs={"max_new_tokens": TURN, **kwargs}))
    assert reason in caplog.text
    assert output["turn_ids"].max() > 0


def test_shards_are_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no process holds the whole model, as one machine can only pretend, TRL generates and the log says why."""
    monkeypatch.setattr(tool_turns, "sharded_by", lambda accelerator: "FSDP")
    made = trainer(tmp_path)
    with caplog.at_level(logging.WARNING, logger=tool_turns.__name__):
        output = batch(made)
    assert "FSDP keeps the model in shards" in caplog.text
    assert made._tool_loop._engine is None and output["turn_ids"].max() > 0


def test_settings_may_change_between_batches(tmp_path: Path) -> None:
    """What a callback makes of the sampling is heard, as `generate` would hear it."""
    made = trainer(tmp_path)
    batch(made)
    first = made._tool_loop._engine
    made.generation_config.temperature = 0.3
    batch(made)
    second = made._tool_loop._engine
    assert first is not None and second is not None
    assert (first.decoding.sampler.config.temperature, second.decoding.sampler.config.temperature) == (0.8, 0.3)


def test_tools_after_rollouts_of_the_users_own(tmp_path: Path, assigned: list[Recorded]) -> None:
    """With `rollout_func=` beside `tools=` TRL runs tools on what the function wrote: its first call then begins after
    a result, TRL generates, and the likelihoods are those of a pass."""

    def first_turns(prompts: list[Any], trainer: A2TGPOTrainer) -> dict[str, Any]:
        tokenizer = trainer._tokenizer
        ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
        return {"prompt_ids": ids, "completion_ids": [[n + 71] * 3 for n in range(len(ids))], "logprobs": None}

    made = trainer(tmp_path, rollout_func=first_turns)
    output = batch(made)
    assert output["turn_ids"].max() > 0
    (recorded,) = assigned
    torch.testing.assert_close(recorded.signals.likelihood, expected_of(made, recorded.batch).likelihood)


def test_a_batch_that_was_interrupted_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """What ends a batch in the middle of its turns does not reach into the next."""
    made = trainer(tmp_path)
    pack, calls = Chunk.pack.__func__, itertools.count()  # type: ignore[attr-defined]

    def failing(cls: Any, *args: Any) -> Chunk:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return pack(cls, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Chunk, "pack", classmethod(failing))
        with pytest.raises(KeyboardInterrupt):
            batch(made)
    assert made.model.training
    batch(made)
    (recorded,) = assigned
    expected = expected_of(made, recorded.batch).likelihood
    torch.testing.assert_close(recorded.signals.likelihood, expected, atol=1e-4, rtol=0)


def test_a_loop_it_does_not_know_goes_back_to_trl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, assigned: list[Recorded]
) -> None:
    """Contexts that begin with nothing written here, as another version's loop might make, are TRL's to generate, for
    the rest of the batch, with one warning; the likelihoods are then a pass's."""
    made = trainer(tmp_path)
    suffix = A2TGPOTrainer._generate_single_turn

    def rewritten(self: A2TGPOTrainer, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        later = self._tool_loop._batch is not None and self._tool_loop._batch.conversation is not None
        return suffix(self, [[7, *ids[1:]] for ids in prompt_ids] if later else prompt_ids, *args, **kwargs)

    monkeypatch.setattr(A2TGPOTrainer, "_generate_single_turn", rewritten)
    with caplog.at_level(logging.WARNING, logger=tool_turns.__name__):
        output = batch(made)
    assert "it went on with a context that it was not given" in caplog.text
    assert output["turn_ids"].max() > 0
    (recorded,) = assigned
    torch.testing.assert_close(recorded.signals.likelihood, expected_of(made, recorded.batch).likelihood)


def test_the_switch_leaves_the_loop_to_trl(tmp_path: Path) -> None:
    """With `tool_loop_kv_cache=False` no engine is made."""
    made = trainer(tmp_path, tool_loop_kv_cache=False)
    assert batch(made)["turn_ids"].max() > 0 and made._tool_loop._engine is None


def test_a_generate_of_the_users_is_called(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose `generate` was replaced writes every turn by it."""
    made = trainer(tmp_path)
    asked, generate = [], made.model.generate
    made.model.generate = lambda *args, **kwargs: asked.append(1) or generate(*args, **kwargs)
    with caplog.at_level(logging.WARNING, logger=tool_turns.__name__):
        output = batch(made)
    assert len(asked) > 1 and output["turn_ids"].max() > 0
    assert "generate is not the one of transformers" in caplog.text
