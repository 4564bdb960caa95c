"""Read and check the keys `+a2tgpo.*` of a verl command."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from a2tgpo.core.gain import Likelihood
from a2tgpo.core.groups import Baseline
from a2tgpo.methods import METHODS, Method, resolve_method
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.protocol import SCAFFOLD, check_wording
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer
from a2tgpo.signals.answer_likelihood.scorer import Alias

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GainMethod = Literal["auto", "cached", "rows", "server"]

_OF_METHOD = {
    "epsilon": "eps_low",
    "epsilon_high": "eps_high",
    "turn_gamma": "gamma",
    "gain_alpha": "alpha",
    "clip_beta": "beta",
    "turn_baseline": "baseline",
    "std_floor": "std_floor",
    "likelihood": "likelihood",
    "state_similarity": "state_similarity",
    "kl_beta": "kl_beta",
}
"""Key -> parameter of the methods table."""


@dataclass(frozen=True)
class TurnCreditSettings:
    """Hold what a run adds to verl's configuration. Keys have the names and meanings that they have in a recipe.

    Credit (None takes the method's own value):
        method: a row of `METHODS`.
        epsilon, epsilon_high: clip bounds; `epsilon` alone sets both.
        turn_gamma, gain_alpha, clip_beta, turn_baseline, std_floor: parameters of the credit rule.
        kl_beta: the method's KL penalty; 0 leaves out the one of a method that has it. Its strength is verl's
            `actor.kl_loss_coef`.
        likelihood, state_similarity: how gains and anchor states are read.
        cut_last_result: score the last search without its result, a fault of the authors' code, for comparison.

    Answer likelihood:
        answer_scaffold: how the policy itself would state its answer, with one {answer}.
        answer_alias: "first" or "best" of several gold answers.
        gain_method: "cached" reads the KV cache of the actor's own module, "rows" asks the engine for one row per turn
            boundary, "auto" is "cached" wherever model and engine allow it. "server" has the agent loop ask the rollout
            server as soon as a rollout is over.
        gain_tokens: tokens of one forward while answers are scored; None takes what verl gives a log-probability pass.

    Another signal of turns:
        turn_signal, judge: as in a recipe; asked on the driver, in place of the answer's likelihood.

    Agent loop `a2tgpo_search`:
        corpus, retriever, passages_per_search, title_weight, search_timeout_s, search_cache: the search tool.
        max_searches, max_turn_tokens, passage_tokens, system_prompt, result_format: bounds of a rollout, its system
            message, and how a result shows a passage. Prompt and response lengths are verl's `data.max_prompt_length`
            and `data.max_response_length`.

    Output:
        run_dir: where the run leaves what `a2tgpo report` opens; None for verl's `trainer.default_local_dir`.
    """

    method: str = "a2tgpo"
    epsilon: float | None = None
    epsilon_high: float | None = None
    turn_gamma: float | None = None
    gain_alpha: float | None = None
    clip_beta: float | None = None
    turn_baseline: Baseline | None = None
    std_floor: float | None = None
    kl_beta: float | None = None
    likelihood: Likelihood | None = None
    state_similarity: float | None = None
    cut_last_result: bool = False
    answer_scaffold: str = SCAFFOLD
    answer_alias: Alias = "first"
    gain_method: GainMethod = "auto"
    gain_tokens: int | None = None
    turn_signal: str | None = None
    judge: dict[str, Any] | None = None
    corpus: str | None = None
    retriever: str | None = None
    passages_per_search: int = 3
    title_weight: int = 1
    search_timeout_s: float = 30.0
    search_cache: str | None = None
    max_searches: int = 6
    max_turn_tokens: int = 512
    passage_tokens: int = 160
    system_prompt: str | None = None
    result_format: str | None = None
    run_dir: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> TurnCreditSettings:
        """Read the section `a2tgpo` of a configuration, plain or OmegaConf's.

        Raises:
            ValueError: a key there is none of (the message names the nearest), or a value out of its range.
        """
        given = dict(given or {})
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise ValueError(f"+a2tgpo.{key}: there is no such key; did you mean +a2tgpo.{nearest}?")
        return cls(**given)

    def __post_init__(self) -> None:
        for name, choices in (("answer_alias", Alias), ("gain_method", GainMethod)):
            if getattr(self, name) not in get_args(choices):
                shown = ", ".join(map(repr, get_args(choices)))
                raise ValueError(f"+a2tgpo.{name}={getattr(self, name)!r}: choose one of {shown}")
        if self.turn_signal is not None and not self.resolve_method().signal:
            raise ValueError(
                f"+a2tgpo.turn_signal={self.turn_signal!r}: method {self.method!r} reads no signal of turns"
            )
        if (self.judge is None) != (self.turn_signal != "judge"):
            raise ValueError(
                f"+a2tgpo.turn_signal={self.turn_signal!r} with +a2tgpo.judge={self.judge!r}: they go together, "
                "+a2tgpo.turn_signal=judge and +a2tgpo.judge={url:…,model:…}"
            )
        if self.cut_last_result and not self.resolve_method().signal:
            raise ValueError(f"+a2tgpo.cut_last_result=True: method {self.method!r} reads no gain; leave it out")
        if self.gain_tokens is not None and self.gain_tokens < 1:
            raise ValueError(f"+a2tgpo.gain_tokens={self.gain_tokens}: give at least 1, or leave it out")
        try:
            check_wording(None, self.result_format)
            self.limits(max_prompt_tokens=1, max_completion_tokens=1)
            self.resolve_method()
        except ValueError as error:
            raise ValueError(f"+a2tgpo: {error}") from None

    @property
    def scores_answers(self) -> bool:
        """Tell whether turns are judged by the gold answer's likelihood."""
        return bool(self.resolve_method().signal) and self.turn_signal is None

    def scorer(self, tokenizer: PreTrainedTokenizerBase) -> AnswerScorer:
        """Return what places gold answers behind a prefix of `tokenizer`'s and knows which tokens count."""
        return AnswerScorer(
            AnswerScaffold(self.answer_scaffold),
            tokenizer,
            likelihood=self.resolve_method().likelihood,
            alias=self.answer_alias,
            method="auto" if self.gain_method == "server" else self.gain_method,
            cut_last_result=self.cut_last_result,
        )

    def resolve_method(self) -> Method:
        """Return the method's row with what these settings change of it.

        Raises:
            ValueError: there is no such row, or a parameter that it does not have or that is out of its range.
        """
        changes = {parameter: getattr(self, key) for key, parameter in _OF_METHOD.items()}
        if self.epsilon is not None and self.epsilon_high is None:
            changes["eps_high"] = self.epsilon
        return resolve_method(self.method, **changes)

    def limits(self, *, max_prompt_tokens: int, max_completion_tokens: int) -> RolloutLimits:
        """Return the bounds of a rollout of the agent loop."""
        return RolloutLimits(
            max_searches=self.max_searches,
            max_completion_tokens=max_completion_tokens,
            max_turn_tokens=self.max_turn_tokens,
            max_prompt_tokens=max_prompt_tokens,
            passage_tokens=self.passage_tokens,
        )

    def as_recipe(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, under the names a recipe has for them."""
        default = asdict(TurnCreditSettings())
        return {"method": self.method} | {key: value for key, value in asdict(self).items() if value != default[key]}


def methods_for_verl() -> list[str]:
    """Name the rows of the methods table whose rollouts are independent, which is what verl samples."""
    return [name for name, method in METHODS.items() if not method.shares_turns]
