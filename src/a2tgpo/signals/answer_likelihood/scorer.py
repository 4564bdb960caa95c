"""Score gold answers at every turn boundary of a batch of rollouts, with the old log-probabilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from a2tgpo.core.gain import Likelihood
from a2tgpo.messages import warn_once
from a2tgpo.signals.answer_likelihood.boundaries import Boundaries, find_boundaries
from a2tgpo.signals.answer_likelihood.cache_check import why_not_trusted
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.kv_cache import cached_answer_logps
from a2tgpo.signals.answer_likelihood.model_support import needs_additive_mask, why_not_cached
from a2tgpo.signals.answer_likelihood.passes import read_logps
from a2tgpo.signals.answer_likelihood.scaffold import AnswerScaffold, AnswerSuffix, SuffixBatch, opens_thought
from a2tgpo.signals.answer_likelihood.token_budget import MicroBatch
from a2tgpo.signals.answer_likelihood.trajectories import Trajectories

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer
    from transformers import Cache, PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Alias = Literal["first", "best"]
Method = Literal["auto", "cached", "rows"]


@dataclass(frozen=True)
class Scores:
    """Hold what one scoring pass found.

    Attributes:
        likelihood: v_{i,t}; column 0 after the query alone, column t + 1 after turn t's observation, and 0
            where `boundaries.exists` is False (`is_process` keeps those columns out of every gain).
        old_logps: log π of each completion token the policy wrote, 0 elsewhere; None where nobody asked for them.
        boundaries: where the likelihoods were read, with `is_process` and `n_turns`.
        seconds_logps: wall-clock seconds of the trajectory forwards, where they were asked for.
        seconds_gain: wall-clock seconds of the forwards that only the likelihoods need.
    """

    likelihood: Float[Tensor, "B T+1"]
    old_logps: Float[Tensor, "B L"] | None
    boundaries: Boundaries
    seconds_logps: float
    seconds_gain: float


@dataclass(frozen=True)
class AnswerScorer:
    """Score gold answers at turn boundaries (step 1 of A²TGPO, arXiv 2605.06200).

    v_{i,t} = exp( (1/n) Σ_j log π(a_j | prefix through o_t, scaffold, a_<j) ), over the gold answer's tokens.

    Attributes:
        likelihood: "probability", in [0, 1], is the paper's; "log_probability", at most 0, leaves the
            exponential out as the authors' released code does.
        alias: "first" scores the canonical answer, "best" the likeliest alias at each boundary.
        method: "cached" reads the KV cache of the trajectory's pass, "rows" runs one forward row per
            boundary, "auto" is "cached" for every model that `why_not_cached` admits and
            whose first rollout comes out alike both ways (see `docs/models.md`).
        cut_last_result: see `find_boundaries`; reproduces a fault of the released code.
        count_padding: let positions count left padding, as a forward without `position_ids` does. Set it where
            the update runs so (TRL's does): rotary positions shifted by the padding round differently, which in
            bfloat16 moves the turn ratio, whose clip range is a few thousandths.

    Raises `ValueError` for an unknown option.
    """

    scaffold: AnswerScaffold
    tokenizer: PreTrainedTokenizerBase
    likelihood: Likelihood = "probability"
    alias: Alias = "first"
    method: Method = "auto"
    cut_last_result: bool = False
    count_padding: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("likelihood", Likelihood), ("alias", Alias), ("method", Method)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {get_args(choices)}.")

    def score(
        self,
        forward: LabelLogps,
        model_config: PreTrainedConfig,
        prompt_ids: Integer[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        completion_ids: Integer[Tensor, "B L"],
        completion_mask: Bool[Tensor, "B L"],
        model_mask: Bool[Tensor, "B L"],
        answers: Sequence[Sequence[str]],
        *,
        old_logps: bool = True,
        tokens_per_batch: int | None = None,
        boundaries: Boundaries | None = None,
    ) -> Scores:
        """Score `answers[b]` (aliases, canonical first) at every boundary of rollout b, without gradient.

        Masks are as in `find_boundaries`; the tokenizer's EOS at the end of a completion is no observation
        unless the policy wrote it. Rows of similar length share a forward of at most `tokens_per_batch` tokens,
        padding included (all of them by default); so do their suffixes. A row of more tokens runs alone. With
        `old_logps` False the trajectories are read for their keys alone: up to the last boundary, and without the
        output head. A caller that knows the `boundaries` passes them, found with this scorer's `cut_last_result`.

        Raises `ValueError` for answers that are missing, blank or tokenise to nothing, for shapes that
        disagree, for a budget below 1, and when `method="cached"` meets a model whose cache cannot be cut.
        """
        device, parts = prompt_ids.device, (prompt_mask, completion_ids, completion_mask, model_mask)
        if boundaries is None:
            eos = self.tokenizer.eos_token_id
            boundaries = find_boundaries(
                *parts, end_ids=() if eos is None else (eos,), cut_last_result=self.cut_last_result
            )
        boundaries = boundaries.to(torch.device("cpu"))
        if len(answers) != len(prompt_ids):
            raise ValueError(
                f"answers has {len(answers)} entries for {len(prompt_ids)} rollouts; pass one list per rollout."
            )
        suffixes = self._suffix_batch(prompt_ids, prompt_mask, answers)
        trajectories = Trajectories.join(prompt_ids, *parts, self.count_padding)
        if not old_logps:
            trajectories = trajectories.for_keys(boundaries.columns.amax(1))
        cached = self.method != "rows" and self._use_cache(
            forward, model_config, trajectories, boundaries, suffixes, device, tokens_per_batch
        )
        read = read_logps(
            forward,
            trajectories,
            boundaries,
            suffixes,
            device,
            cache_config=model_config if cached else None,
            old_logps=old_logps,
            tokens_per_batch=tokens_per_batch,
        )
        boundaries = boundaries.to(device)
        return Scores(
            likelihood=self.likelihood_of(read.answer_logps.amax(-1), boundaries),
            old_logps=read.trajectory_logps[:, prompt_ids.shape[1] :] if old_logps else None,
            boundaries=boundaries,
            seconds_logps=read.seconds_logps if old_logps else 0.0,
            seconds_gain=read.seconds_gain if old_logps else read.seconds_logps + read.seconds_gain,
        )

    def score_from(
        self,
        cache: Cache,
        forward: LabelLogps,
        model_config: PreTrainedConfig,
        prompt_ids: Integer[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        completion_ids: Integer[Tensor, "B L"],
        completion_mask: Bool[Tensor, "B L"],
        model_mask: Bool[Tensor, "B L"],
        answers: Sequence[Sequence[str]],
        *,
        boundaries: Boundaries,
    ) -> Float[Tensor, "B T+1"]:
        """Return the likelihood that `score` finds, read from a `cache` that another forward over these rows filled.

        The model is one for which `why_not_full_attention` is None. The cache may lack the last columns, where no
        boundary ends.
        """
        every_row = MicroBatch(tuple(range(len(prompt_ids))), slice(0, cache.get_seq_length()))
        rows = Trajectories.join(
            prompt_ids, prompt_mask, completion_ids, completion_mask, model_mask, self.count_padding
        ).take(every_row)
        answer_logps = cached_answer_logps(
            forward,
            rows,
            boundaries.to(torch.device("cpu")),
            self._suffix_batch(prompt_ids, prompt_mask, answers),
            prompt_ids.device,
            cache,
            additive_mask=needs_additive_mask(model_config),
        )
        return self.likelihood_of(answer_logps.amax(-1), boundaries)

    def _suffix_batch(self, prompt_ids: Tensor, prompt_mask: Tensor, answers: Sequence[Sequence[str]]) -> SuffixBatch:
        rows = zip(prompt_ids.cpu(), prompt_mask.cpu().bool(), strict=True)
        prompts = (ids[mask].tolist() for ids, mask in rows)
        return SuffixBatch.stack(self.suffixes(answers, [self.opens_thought(prompt) for prompt in prompts]))

    def _use_cache(self, forward: LabelLogps, model_config: PreTrainedConfig, *batch: Any) -> bool:
        obstacle = why_not_cached(model_config) or why_not_trusted(forward, model_config, *batch)
        if obstacle is not None and self.method == "cached":
            raise ValueError(f"method='cached' cannot score this model: {obstacle}. Or use method='rows'.")
        if obstacle is not None:
            warn_once(
                logger,
                f"Answer likelihoods are read from separate rows, because {obstacle}. One full row for every "
                "turn costs several old-log-probability passes; a KV cache would cost a fraction of one.",
            )
        return obstacle is None

    def opens_thought(self, prompt: Sequence[int]) -> bool:
        """Tell whether the scaffold's thought is opened by the prompt's tokens already."""
        return self.scaffold.opens and opens_thought(self.tokenizer, prompt)

    def suffixes(
        self, answers: Sequence[Sequence[str]], opened: Sequence[bool] | None = None
    ) -> list[list[AnswerSuffix]]:
        """Encode the scored aliases of each rollout's `answers` in the scaffold.

        Args:
            answers: gold answers of each rollout, canonical first.
            opened: rollouts whose prompt has opened the thought (`opens_thought`); none by default.

        Raises `ValueError` for answers that are missing, blank or tokenise to nothing.
        """
        suffixes = []
        for row, aliases in enumerate(answers):
            if isinstance(aliases, str) or not aliases:
                raise ValueError(f"answers[{row}] is {aliases!r}; pass a non-empty list of gold answers.")
            scored = aliases[:1] if self.alias == "first" else aliases
            inside = opened is not None and opened[row]
            scaffold = self.scaffold.inside_thought if inside else self.scaffold
            suffixes.append([scaffold.encode(self.tokenizer, answer) for answer in scored])
        return suffixes

    def likelihood_of(self, answer_logps: Float[Tensor, "B K"], boundaries: Boundaries) -> Float[Tensor, "B K"]:
        """Turn mean log-probabilities of answers into what `likelihood` says, 0 where there is no boundary."""
        values = answer_logps.exp() if self.likelihood == "probability" else answer_logps
        return values.masked_fill(~boundaries.exists, 0.0)
