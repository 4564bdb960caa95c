"""Run the agent loop: sample a turn, run its search, show the result, until every rollout has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from a2tgpo.errors import DataError, ToolError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.groups import Chains, Expansion, RolloutGroups, check_groups
from a2tgpo.rollout.observation import ObservationEncoder
from a2tgpo.rollout.protocol import Search, judge_turn, open_thought, parse_turn, tool_failure
from a2tgpo.rollout.types import Rollout, Termination, ToolCall

BatchedSearch = Callable[[list[str]], list[list[Passage]]]


@dataclass(frozen=True)
class RolloutLimits:
    """Bound one rollout.

    Args:
        max_searches: tool calls; one more turn is left for the answer. The paper uses 6.
        max_completion_tokens: everything after the prompt, observations included.
        max_turn_tokens: one policy turn.
        max_prompt_tokens: a longer prompt is an error in the data.
        passage_tokens: one passage's text, longer ones are cut.
    """

    max_searches: int = 6
    max_completion_tokens: int = 4096
    max_turn_tokens: int = 512
    max_prompt_tokens: int = 1024
    passage_tokens: int = 160

    def __post_init__(self) -> None:
        for name in ("max_completion_tokens", "max_turn_tokens", "max_prompt_tokens", "passage_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1 token")
        if self.max_searches < 0:
            raise ValueError(f"max_searches={self.max_searches}: must be 0 (no tool) or more")


class SearchAgent:
    """Run rollouts of the tag protocol; the engine decides how many of them generate and search together.

    Args:
        tokenizer: the policy's, with a chat template.
        search: batched search; raises `ToolError` when it fails.
        limits: token and turn budgets.
        system_prompt: prepended as a system message unless None.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        search: BatchedSearch,
        limits: RolloutLimits,
        system_prompt: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.search = search
        self.limits = limits
        self.system_prompt = system_prompt
        self.encode_observation = ObservationEncoder(tokenizer, limits.passage_tokens)

    def run(
        self,
        prompts: Sequence[str | list[dict[str, str]]],
        engine: GenerationEngine,
        expansion: Expansion | None = None,
    ) -> list[Rollout]:
        """Make one rollout per prompt (text, or chat messages), in order.

        With an `expansion` the prompts come as groups of equal ones, and some rollouts branch off others of their
        group; without, all are independent and nodes and trees are told apart over the whole batch.

        Raises:
            DataError: a prompt is longer than `max_prompt_tokens`.
            ToolError: the tool failed in every rollout: it is down, and nothing can be learned from this batch.
            ValueError: a group of unequal prompts.
        """
        if expansion is None:
            expansion = Chains(max(1, len(prompts)))
        else:
            check_groups(prompts, expansion.group_size)
        groups = RolloutGroups([self.encode_prompt(prompt) for prompt in prompts], expansion)
        rollouts = groups.rollouts

        def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
            going = self._take_turns(rollouts, turns)
            groups.name_turns(turns)
            return going | {row: self._start(rollouts[row]) for row in groups.branch(turns)}

        engine([self._start(rollout) for rollout in rollouts], take_turns, expansion.n_entropies)
        if rollouts and all(rollout.termination is Termination.TOOL_FAILED for rollout in rollouts):
            raise ToolError(f"the search tool failed in all {len(rollouts)} rollouts: {rollouts[0].reason}")
        return groups.in_order()

    def encode_prompt(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Return the token ids of the prompt, through the chat template, up to where the policy writes."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        if len(ids) > self.limits.max_prompt_tokens:
            raise DataError(
                f"prompt of {len(ids)} tokens is longer than max_prompt_tokens={self.limits.max_prompt_tokens}: "
                f"{messages[-1]['content'][:80]!r}…; raise the budget or drop the question"
            )
        return ids

    def encode_turn(self, text: str) -> list[int]:
        """Return the token ids of a turn written by hand."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _start(self, rollout: Rollout) -> Continuation:
        return Continuation(rollout.ids, self._turn_budget(rollout))

    def _turn_budget(self, rollout: Rollout) -> int:
        # One token is kept for the closing end-of-sequence token.
        left = self.limits.max_completion_tokens - len(rollout.completion_ids) - 1
        return max(1, min(left, self.limits.max_turn_tokens))

    def _take_turns(self, rollouts: Sequence[Rollout], turns: dict[int, Turn]) -> dict[int, Continuation]:
        """Append each row's turn, run the searches of all of them at once, and return what rows go on from."""
        searching = {}
        for row, turn in turns.items():
            rollout = rollouts[row]
            cut = len(turn.ids) >= self._turn_budget(rollout)
            rollout.append(turn.ids, by_policy=True, logps=turn.logps)
            query = self._take_turn(rollout, turn.ids, cut=cut)
            if query is not None:
                searching[row] = query
        observed = self._observe([(rollouts[row], query) for row, query in searching.items()]) if searching else []
        return {
            row: Continuation(ids, self._turn_budget(rollouts[row]))
            for row, ids in zip(searching, observed, strict=True)
            if ids is not None
        }

    def _take_turn(self, rollout: Rollout, ids: list[int], *, cut: bool) -> str | None:
        """Return the query of the turn just appended if it searches, end the rollout otherwise."""
        text = self.tokenizer.decode(self._without_eos(ids))
        if self._prompt_opens_thought(rollout):
            text = open_thought(text)
        rollout.turn_texts.append(text)
        action = parse_turn(text)
        verdict = judge_turn(action, len(rollout.calls), self.limits.max_searches, cut=cut)
        if isinstance(verdict, Search):
            return verdict.query
        rollout.answer = verdict.answer
        rollout.end(verdict.termination, verdict.reason)
        if verdict.termination is not Termination.OUT_OF_TOKENS:
            self._close(rollout)
        return None

    def _prompt_opens_thought(self, rollout: Rollout) -> bool:
        # The tag is one token, or a few where the vocabulary lacks it.
        return self.tokenizer.decode(rollout.prompt_ids[-8:]).rstrip().endswith("<think>")

    def _without_eos(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _close(self, rollout: Rollout) -> None:
        # TRL reads a completion without an end-of-sequence token as truncated.
        if rollout.completion_ids[-1] != self.tokenizer.eos_token_id:
            rollout.append([self.tokenizer.eos_token_id], by_policy=False)

    def _observe(self, searching: list[tuple[Rollout, str]]) -> list[list[int] | None]:
        """Search for all queries at once; append and return each result, or None where its rollout ended instead."""
        try:
            results = self.search([query for _, query in searching])
        except ToolError as error:
            for rollout, query in searching:
                failure = tool_failure(query, error)
                rollout.end(failure.termination, failure.reason)
            return [None] * len(searching)
        return [self._show(*asked, passages) for asked, passages in zip(searching, results, strict=True)]

    def _show(self, rollout: Rollout, query: str, passages: list[Passage]) -> list[int] | None:
        rollout.calls.append(ToolCall(query, tuple(passage.id for passage in passages)))
        observation = self.encode_observation(passages)
        # The next turn needs room for at least one token and the end of sequence.
        if len(rollout.completion_ids) + len(observation) + 2 > self.limits.max_completion_tokens:
            rollout.end(Termination.OUT_OF_TOKENS, f"the result of search {query!r} does not fit")
            return None
        rollout.append(observation, by_policy=False)
        return observation
