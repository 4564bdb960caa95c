"""Run an agent: the policy writes turns, the environment answers them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from a2tgpo.environments.environment import Row
from a2tgpo.environments.episodes import EnvironmentSource
from a2tgpo.environments.search_environment import SEARCH, BatchedSearch, SearchEnvironment
from a2tgpo.errors import DataError, ToolError
from a2tgpo.messages import warn_once
from a2tgpo.pretrained import encode_chat
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.expansion import Chains, Expansion, RolloutGroups, check_groups, initial_places
from a2tgpo.rollout.observation import without_special_tokens
from a2tgpo.rollout.play import Play, RolloutLimits
from a2tgpo.rollout.protocol import RESULT_FORMAT, check_wording
from a2tgpo.rollout.turn_protocol import TagProtocol, TurnProtocol
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.signals.answer_likelihood.scaffold import opens_thought

logger = logging.getLogger(__name__)

Prompt = str | list[dict[str, Any]]

FAILED_BATCHES = 3
"""Batches in a row in which every call failed, after which the environment counts as gone."""


MANY_CALLS = 8
"""Calls of a batch that are warned of if all of them were refused."""


@dataclass
class ToolHealth:
    """Count the calls of an agent's environment over its life.

    Attributes:
        calls: calls that were made.
        refused: of those, the ones that the environment found impossible, which the policy reads and learns from.
        failed: turns whose calls failed, which ended their rollouts.
        failed_batches: batches in a row in which no call was answered.
    """

    calls: int = 0
    refused: int = 0
    failed: int = 0
    failed_batches: int = 0


class Agent:
    """Run rollouts in an environment; the engine decides how many of them generate and wait together.

    Args:
        tokenizer: the policy's, with a chat template.
        environment: answers the policy: `EnvironmentPool(MyEnvironment)`, `SearchEnvironment(search)`, `MCPTools(…)`.
        limits: token and turn budgets.
        system_prompt: prepended as a system message unless None or empty.
        protocol: how turns call tools; None for the paper's tags, named after the environment's tools.
        chat_template_kwargs: what the chat template takes besides the messages.
        instruction: what the user's message says, with the prompt at its `{question}`; None for the prompt alone. Chat
            messages are left as they are.

    Raises:
        RecipeError: an instruction without its `{question}`.

    Attributes:
        health: what became of the calls so far.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        environment: EnvironmentSource,
        limits: RolloutLimits,
        system_prompt: str | None = None,
        protocol: TurnProtocol | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        instruction: str | None = None,
    ) -> None:
        check_wording(instruction, None)
        self.tokenizer = tokenizer
        self.environment = environment
        self.limits = limits
        self.system_prompt = system_prompt
        self.instruction = "{question}" if instruction is None else instruction
        self.protocol = protocol or TagProtocol(tokenizer, environment.tools, limits.passage_tokens)
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.health = ToolHealth()

    def run(
        self,
        prompts: Sequence[Prompt],
        engine: GenerationEngine,
        expansion: Expansion | None = None,
        rows: Sequence[Row] | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> list[Rollout]:
        """Make one rollout per prompt (text, or chat messages), in order.

        With an `expansion` the prompts come as groups of equal ones, and some rollouts branch off others of their
        group; without, all are independent and nodes and trees are told apart over the whole batch.

        Args:
            prompts: what the policy is asked.
            engine: generates the turns.
            expansion: which rollouts branch.
            rows: of the data set, for the environment's `reset`; without them it gets the prompt alone.
            template: what the chat template takes in this batch, beside `chat_template_kwargs` and before them.

        Raises:
            DataError: a prompt is longer than `max_prompt_tokens`.
            RecipeError: there is no chat template, or it refuses a prompt.
            ToolError: every call failed in the last `FAILED_BATCHES` batches: nothing can be learned from them.
            ValueError: a group of unequal prompts, or rollouts branch in an environment that cannot be copied.
        """
        branching = expansion is not None
        if expansion is None:
            expansion = Chains(max(1, len(prompts)))
        else:
            check_groups(prompts, expansion.group_size)
        rows = [{"prompt": prompt} for prompt in prompts] if rows is None else rows
        episodes = self.environment.open(branching=branching)
        try:
            places = dict(enumerate(initial_places(len(prompts), expansion)))
            shown = episodes.reset({number: rows[place] for number, place in places.items()})
            failed = {number: error for number, error in shown.items() if isinstance(error, ToolError)}
            prompt_ids: list[list[int]] = [[] for _ in prompts]
            known: dict[str, tuple[list[int], ToolError | None]] = {}  # the rollouts of a prompt begin alike
            for number, place in places.items():
                observed = shown[number]
                text = observed if isinstance(observed, str) else None
                asked = repr((prompts[place], text))
                if asked not in known:
                    known[asked] = self._begin(prompts[place], text, template)
                prompt_ids[place], error = known[asked]
                if error is not None:
                    failed[number] = error
            groups = RolloutGroups(prompt_ids, expansion)
            for number, rollout in enumerate(groups.rollouts):
                rollout.opened = opens_thought(self.tokenizer, rollout.prompt_ids)
                if isinstance(observed := shown[number], str) and number not in failed:
                    rollout.observed = observed
            play = Play(self.protocol, self.limits, self.tokenizer.eos_token_id, episodes, groups)
            engine(play.start(failed), play, expansion.n_entropies)
        finally:
            episodes.close()
        rollouts = groups.in_order()
        self._note_health(play, rollouts)
        return rollouts

    def _begin(
        self, prompt: Prompt, observed: str | None, template: Mapping[str, Any] | None
    ) -> tuple[list[int], ToolError | None]:
        """Return the prompt's token ids, without what the environment said where that is too long for them, and how it
        failed then."""
        try:
            return self.encode_prompt(prompt, observed, template), None
        except DataError as error:
            if not observed:
                raise
            return self.encode_prompt(prompt, None, template), ToolError(str(error))

    def encode_prompt(
        self, prompt: Prompt, observed: str | None = None, template: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Return the token ids of the prompt, through the chat template, up to where the policy writes.

        Args:
            prompt: text, or chat messages.
            observed: what the environment says first; it stands at the end of the last message.
            template: what the chat template takes, beside `chat_template_kwargs` and before them.

        Raises:
            DataError: the prompt is longer than `max_prompt_tokens`.
            RecipeError: there is no chat template, or it refuses the prompt.
        """
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": self.instruction.replace("{question}", prompt)}]
        messages = list(prompt)
        if self.system_prompt and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        if observed:
            said = without_special_tokens(observed, self.tokenizer, self.limits.max_prompt_tokens)
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}{said}"}
        tools = {"tools": self.protocol.tool_schemas} if self.protocol.tool_schemas else {}
        ids = encode_chat(self.tokenizer, messages, self.chat_template_kwargs | dict(template or {}) | tools)
        if len(ids) > self.limits.max_prompt_tokens:
            raise DataError(
                f"prompt of {len(ids)} tokens is longer than max_prompt_tokens={self.limits.max_prompt_tokens}: "
                f"{messages[-1]['content'][:80]!r}…; raise the budget or drop the question"
            )
        return ids

    def encode_turn(self, text: str) -> list[int]:
        """Return the token ids of a turn written by hand in the paper's tags, as the policy would write it."""
        return self.protocol.write(text)

    def _note_health(self, play: Play, rollouts: Sequence[Rollout]) -> None:
        """Count the batch's calls; warn of failures, and raise once the environment is gone."""
        failed = [rollout for rollout in rollouts if rollout.termination is Termination.TOOL_FAILED]
        health = self.health
        health.calls += play.n_calls
        health.refused += play.n_refused
        health.failed += play.n_failed
        if failed and len(failed) == len(rollouts):
            health.failed_batches += 1
        elif play.n_calls:
            health.failed_batches = 0
        if health.failed_batches >= FAILED_BATCHES:
            raise ToolError(
                f"the environment failed in all rollouts of {health.failed_batches} batches in a row, the last "
                f"{len(rollouts)} rollouts with: {failed[0].reason}"
            )
        if play.n_calls >= MANY_CALLS and play.n_refused == play.n_calls:
            warn_once(
                logger,
                f"The environment refused all {play.n_calls} calls of a batch, and the policy learns from its words; "
                "look at a rollout: is it the policy's fault or the tool's?",
            )
        if 2 * len(failed) > len(rollouts):
            warn_once(
                logger,
                f"The environment failed in {len(failed)} of {len(rollouts)} rollouts of a batch, which are excluded "
                f"from the loss; the first: {failed[0].reason}",
            )


class SearchAgent(Agent):
    """Run rollouts of the paper's search agent: the tag protocol with one tool, `search`.

    Args:
        tokenizer: the policy's, with a chat template.
        search: batched search; raises `ToolError` when it fails.
        limits: token and turn budgets.
        system_prompt: prepended as a system message unless None or empty.
        chat_template_kwargs: what the chat template takes besides the messages.
        instruction: what the user's message says, with the question at its `{question}`; None for the question alone.
        result_format: how a passage is shown, with its `{text}`, `{title}` and `{rank}`; None for `RESULT_FORMAT`.

    Raises:
        RecipeError: as `check_wording` says.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        search: BatchedSearch,
        limits: RolloutLimits,
        system_prompt: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        result_format: str | None = None,
    ) -> None:
        check_wording(None, result_format)
        super().__init__(
            tokenizer,
            SearchEnvironment(search),
            limits,
            system_prompt,
            TagProtocol(tokenizer, (SEARCH,), limits.passage_tokens, result_format=result_format or RESULT_FORMAT),
            chat_template_kwargs,
            instruction,
        )
        self.search = search

    @property
    def encode_observation(self) -> Any:
        """Return what renders and tokenises passages."""
        assert isinstance(self.protocol, TagProtocol), "a search agent speaks in tags"
        return self.protocol.encode
