"""Read answer likelihoods from the rollout server, as soon as a rollout is over and before the weights change.

The server is asked for the log-probabilities of a prompt: a turn's prefix, the scaffold and the answer. It keeps no KV
cache of such a request, so every turn boundary costs a prefill; the actor's own module costs less, and this is for
trainers whose devices are busy when the server's are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import torch

from a2tgpo.integrations.verl.queue_rows import as_scored
from a2tgpo.integrations.verl.refusals import select
from a2tgpo.integrations.verl.row_scoring import answer_rows, rows_likelihood
from a2tgpo.signals.answer_likelihood import AnswerScorer

Ask = Callable[[list[int], dict[str, Any]], Awaitable[Any]]
"""Ask a server of verl's with prompt and sampling parameters; its `extra_fields` have `prompt_logprobs`."""

READ = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
"""Sampling parameters that make a server read a prompt: the log-probability of each of its tokens, no others."""


async def server_likelihood(
    ask: Ask,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    response_mask: Sequence[int],
    answers: Sequence[str],
    scorer: AnswerScorer,
) -> list[float]:
    """Return the likelihood of `answers` at each turn boundary of one rollout, at temperature 1."""
    columns = {
        "prompts": [torch.tensor(prompt_ids)],
        "responses": [torch.tensor(response_ids)],
        "response_mask": [torch.tensor(response_mask)],
    }
    batch = as_scored(columns, [answers], scorer.tokenizer, cut_last_result=scorer.cut_last_result)
    rows = answer_rows(batch, scorer)
    found = await asyncio.gather(*(ask(row.ids.tolist(), dict(READ)) for row in rows))
    # Entry i is of token i + 1; the last is a placeholder, as in an engine's log-probability pass.
    logps = [torch.tensor(one.extra_fields["prompt_logprobs"], dtype=torch.float32)[:, 0] for one in found]
    likelihood = rows_likelihood(rows, logps, batch, scorer)
    return likelihood[0][batch.boundaries.exists[0].cpu()].tolist()


def check_server_room(config: Mapping[str, Any], scorer: AnswerScorer, answers: Sequence[Sequence[str]]) -> None:
    """Check that the longest answer fits into the server's context behind the longest rollout.

    Raises:
        ValueError: it does not.
    """
    suffix = max(len(alias.ids) for aliases in scorer.suffixes(answers) for alias in aliases)
    needed = select(config, "data.max_prompt_length") + select(config, "data.max_response_length") + suffix + 1
    given = select(config, key := "actor_rollout_ref.rollout.max_model_len")
    if given is None or given < needed:
        raise ValueError(
            f"{key}={given}: with +a2tgpo.gain_method='server' the server also reads answers behind a rollout, "
            f"{suffix} tokens at most; set {key}={needed} or more"
        )
