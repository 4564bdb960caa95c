# ruff: noqa: E402
"""verl's own worker and agent loop with ours in them, in this process: FSDP2 over a process group of one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import asdict
from math import exp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

REASON = "verl is not installed here; `make test-verl` makes it an environment of its own"
pytest.importorskip("verl", reason=REASON)
pytest.importorskip("transfer_queue", reason=REASON)
if torch.cuda.is_available():
    pytest.skip("the stand-ins are for machines without a GPU", allow_module_level=True)

from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.replica import TokenOutput

from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.queue_rows import LIKELIHOOD, as_scored
from a2tgpo.integrations.verl.scoring_worker import SETTINGS, ScoringWorker
from a2tgpo.integrations.verl.search_loop import SearchAgentLoop
from a2tgpo.integrations.verl.server_scoring import READ, check_server_room, server_likelihood
from a2tgpo.pipeline.likelihood import score_answers
from a2tgpo.pretrained import EMBEDDED, open_model, open_tokenizer, resolve
from a2tgpo.rollout.types import Termination
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, plain_forward
from tests.verl.rollout_server import Server
from tests.verl.test_contract import config, packed

TOKENIZER = open_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def worker() -> Iterator[ScoringWorker]:
    """An actor of FSDP2 in float32, as main_ppo's workers hold it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            patch.setenv(name, value)
        made = config(
            f"actor_rollout_ref.model.path={resolve(EMBEDDED)}",
            "actor_rollout_ref.actor.strategy=fsdp2",
            "actor_rollout_ref.model.use_remove_padding=False",
            "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
            "actor_rollout_ref.actor.ppo_mini_batch_size=2",
            "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
            "+actor_rollout_ref.actor.fsdp_config.mixed_precision="
            "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}",
        )
        found = ScoringWorker(made.actor_rollout_ref, "actor")
        found.init_model()
        yield found
    torch.distributed.destroy_process_group()


def rollouts() -> dict[str, list[Any]]:
    """Three rollouts of real text: two searches, an answer alone, and one that ends in an observation."""

    def row(prompt: str, *said: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = [(token_ids(text), i % 2 == 0) for i, text in enumerate(said)]
        response = [token for tokens, _ in parts for token in tokens]
        return (
            torch.tensor(token_ids(prompt)),
            torch.tensor(response),
            torch.tensor([int(m) for t, m in parts for _ in t]),
        )

    rows = [
        row("who is the mentor of kelo ?", "kelo", "the mentor of kelo is bora .", "bora", "bora lives .", "bora"),
        row("what is the seat ?", "mitu"),
        row("where ?", "kelo mitu", "mitu is a place ."),
    ]
    return dict(zip(("prompts", "responses", "response_mask"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("gain_method", ["cached", "rows"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_likelihoods_of_the_actors_own_module(worker: ScoringWorker, gain_method: str, temperature: float) -> None:
    """Cached on the sharded module, and as rows through the engine's pass: those of the plain model, to 1e-5."""
    columns, truths = rollouts(), ["bora", {"target": ["mitu"]}, ["kelo", "bora"]]
    data = TensorDict({name: packed(values) for name, values in columns.items()}, batch_size=3)
    data["reward_model"] = NonTensorStack(*({"ground_truth": truth} for truth in truths))
    settings = TurnCreditSettings(gain_method=gain_method, answer_alias="best")
    tu.assign_non_tensor_data(data, SETTINGS, asdict(settings))
    tu.assign_non_tensor_data(data, "temperature", temperature)
    output = worker.score_answers(data)
    assert output is not None
    found = [row.tolist() for row in output[LIKELIHOOD].unbind()]
    assert [len(row) for row in found] == [3, 1, 2]

    model = open_model(EMBEDDED, dtype=torch.float32).eval()
    batch = as_scored(columns, [["bora"], ["mitu"], ["kelo", "bora"]], TOKENIZER, cut_last_result=False)
    scorer = AnswerScorer(AnswerScaffold(settings.answer_scaffold), TOKENIZER, alias="best")
    forward = plain_forward(model, temperature)
    expected = score_answers(batch, scorer, forward, model.config, rows_per_forward=3).likelihood
    for row, values in zip(found, expected.tolist(), strict=True):
        assert row == pytest.approx(values[: len(row)], rel=1e-5)


def test_likelihoods_of_the_rollout_server() -> None:
    """Read from log-probabilities of prompts, one per turn boundary and alias: those of the plain model, to 1e-5."""
    columns, answers = rollouts(), [["bora"], ["mitu"], ["kelo", "bora"]]
    settings = TurnCreditSettings(gain_method="server", answer_alias="best")
    scorer = settings.scorer(TOKENIZER)
    server = Server(resolve(EMBEDDED))

    async def ask(ids: list[int], sampling: dict[str, Any]) -> TokenOutput:
        assert sampling["temperature"] == 1 and sampling["max_tokens"] == 1
        return await server.generate("r", prompt_ids=ids, sampling_params=sampling)

    model = open_model(EMBEDDED, dtype=torch.float32).eval()
    batch = as_scored(columns, answers, TOKENIZER, cut_last_result=False)
    forward = plain_forward(model, 1.0)
    expected = score_answers(batch, scorer, forward, model.config, rows_per_forward=3).likelihood
    for i, n_boundaries in enumerate([3, 1, 2]):
        tokens = [columns[name][i].tolist() for name in ("prompts", "responses", "response_mask")]
        found = asyncio.run(server_likelihood(ask, *tokens, answers[i], scorer))
        assert found == pytest.approx(expected[i, :n_boundaries].tolist(), rel=1e-5)


def test_the_server_has_room_for_the_answers() -> None:
    """Its context is checked at the start against the longest rollout and the longest answer behind it."""
    scorer, answers = TurnCreditSettings().scorer(TOKENIZER), [["bora"], ["kelo mitu bora", "x"]]
    longest = max(len(one.ids) for aliases in scorer.suffixes(answers) for one in aliases)
    made = config("data.max_prompt_length=10", "data.max_response_length=20")
    with pytest.raises(ValueError, match=rf"max_model_len=None.*set .*max_model_len={30 + longest + 1} or more"):
        check_server_room(made, scorer, answers)
    made.actor_rollout_ref.rollout.max_model_len = 30 + longest + 1
    check_server_room(made, scorer, answers)


def token_ids(text: str) -> list[int]:
    """The policy's tokens of a text."""
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


class ScriptedServer:
    """A rollout server that gives written turns, and keeps what it was asked."""

    def __init__(self, *turns: str) -> None:
        self.turns, self.asked = list(turns), []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.asked.append((request_id, list(prompt_ids), sampling_params))
        if "prompt_logprobs" in sampling_params:
            return TokenOutput(token_ids=[0], extra_fields={"prompt_logprobs": [[-0.25]] * len(prompt_ids)})
        ids = token_ids(self.turns.pop(0))
        steps = {"min_global_steps": 3 + len(self.asked), "max_global_steps": 3 + len(self.asked)}
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), extra_fields=steps)


def play(tmp_path: Path, server: ScriptedServer, *overrides: str, passages: str) -> Any:
    """One rollout of the agent loop on one question."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(passages, encoding="utf-8")
    made = config("data.max_prompt_length=64", "data.max_response_length=256", f"+a2tgpo.corpus={corpus}", *overrides)
    loop = SearchAgentLoop(
        trainer_config=DictConfigWrap(made),
        server_manager=server,
        tokenizer=TOKENIZER,
        processor=None,
        dataset_cls=SimpleNamespace,
        data_config=DictConfigWrap(made.data),
    )
    row = {"raw_prompt": [{"role": "user", "content": "Who?"}], "reward_model": {"ground_truth": ["bora"]}, "index": 0}
    return asyncio.run(loop.run({"temperature": 1.0, "logprobs": True}, **row))


PASSAGES = '{"id": "e1", "title": "kelo", "text": "the mentor of kelo is bora."}\n'
SEARCH, ANSWER = "<think> i </think> <search> kelo </search>", "<think> i </think> <answer> \\boxed{ bora } </answer>"


def test_the_agent_loop_keeps_the_tokens_it_was_given(tmp_path: Path) -> None:
    """What was sampled is in the response as it was, observations are masked, each turn is asked with all before it."""
    server = ScriptedServer(SEARCH, ANSWER)
    output = play(tmp_path, server, passages=PASSAGES)
    (session, first, sampling), (again, second, _) = server.asked
    assert session == again and first == output.prompt_ids
    assert sampling["stop"] == ["</search>", "</answer>"] and sampling["include_stop_str_in_output"]
    written = [i for i, own in zip(output.response_ids, output.response_mask, strict=True) if own]
    assert written == [
        token for turn in (SEARCH, ANSWER) for token in TOKENIZER(turn, add_special_tokens=False)["input_ids"]
    ]
    assert second == output.prompt_ids + output.response_ids[: len(second) - len(first)]
    assert [logp != 0 for logp in output.response_logprobs] == [bool(own) for own in output.response_mask]
    assert output.reward_score == 1.0 and output.extra_fields["reward_extra_info"] == {"acc": 1.0}
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (4, 5)
    assert output.extra_fields["a2tgpo_rollout"]["termination"] == Termination.ANSWERED.value


def test_the_agent_loop_asks_the_server_for_likelihoods(tmp_path: Path) -> None:
    """A request per turn boundary behind the rollout's own, whose answers are in the row."""
    server = ScriptedServer(SEARCH, ANSWER)
    output = play(tmp_path, server, "+a2tgpo.gain_method=server", passages=PASSAGES)
    asked = [(len(ids), sampling) for _, ids, sampling in server.asked]
    assert len(asked) == 4 and all(sampling == READ for _, sampling in asked[2:])
    suffix = asked[2][0] - asked[0][0]
    assert asked[3][0] - suffix == asked[1][0], "behind the observation, where the second turn began"
    assert output.extra_fields[LIKELIHOOD] == pytest.approx([exp(-0.25)] * 2)


def test_a_reward_function_of_the_users_is_left_its_work(tmp_path: Path) -> None:
    """verl calls it where a row has no score yet."""
    output = play(tmp_path, ScriptedServer(ANSWER), "reward.custom_reward_function.path=mine.py", passages=PASSAGES)
    assert output.reward_score is None


def test_a_tool_that_fails_ends_its_rollout_alone(tmp_path: Path) -> None:
    """It is typed and scores 0; the record, with which it is excluded from the loss, goes with the row."""
    output = play(
        tmp_path,
        ScriptedServer(SEARCH),
        "+a2tgpo.retriever=http://127.0.0.1:9",
        "+a2tgpo.search_timeout_s=2",
        passages="",
    )
    assert output.reward_score == 0.0
    assert output.extra_fields["a2tgpo_rollout"]["termination"] == Termination.TOOL_FAILED.value
