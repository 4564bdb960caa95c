"""Open what a recipe asks to be learned: rows, the agent that plays them, demonstrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from a2tgpo import processes
from a2tgpo.data.demonstrations import Imperfection, demonstrate_hops, demonstrate_support
from a2tgpo.data.formats import load_questions
from a2tgpo.data.world import World
from a2tgpo.environments.search import SearchTool
from a2tgpo.environments.search_environment import SearchEnvironment
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.retrieval.corpus import read_corpus
from a2tgpo.retrieval.retriever import Retriever
from a2tgpo.retrieval.source import open_retriever
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.demonstration import encode_demonstration, within
from a2tgpo.run.base_task import N_EVAL, N_TRAIN, Encoded, Task
from a2tgpo.run.environment_task import EnvironmentTask

if TYPE_CHECKING:
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe import Recipe, RunConfig


class SearchTask(Task):
    """Ask questions that passages answer."""

    def __init__(self, config: RunConfig, retriever: Retriever) -> None:
        super().__init__(config)
        recipe = config.recipe
        self.search = SearchTool(retriever, k=recipe.passages_per_search, timeout_s=recipe.search_timeout_s)
        self.environment = SearchEnvironment(self.search)

    def agent(self, tokenizer: PreTrainedTokenizerBase) -> SearchAgent:
        recipe = self.config.recipe
        return SearchAgent(
            tokenizer,
            self.search,
            self.limits,
            recipe.system_prompt,
            self.config.training.chat_template_kwargs,
            recipe.instruction,
            recipe.result_format,
        )


class GeneratedTask(SearchTask):
    """Make up a world: training and evaluation entities share no name; one corpus holds both."""

    def __init__(self, config: RunConfig, directory: RunDirectory) -> None:
        recipe = config.recipe
        world = World.generate(
            recipe.world_seed, recipe.world_entities, recipe.world_entities // 2, recipe.world_correlation
        )
        processes.on_main(lambda: world.write_corpus(directory.corpus))
        super().__init__(config, BM25Retriever.from_passages(world.passages, title_weight=recipe.title_weight))
        train = world.questions("train", recipe.hops, recipe.n_train_questions or N_TRAIN)
        self.train_dataset = _with_prompt(Dataset.from_list(train))
        self.eval_questions = world.questions("eval", recipe.hops, recipe.n_eval_questions or N_EVAL)

    def demonstrations(self, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        recipe = self.config.recipe
        shown = demonstrate_hops(
            recipe.warm_start_steps * recipe.warm_start_batch_size,
            seed=self.config.training.seed,
            hops=recipe.warm_start_hops,
            imperfection=Imperfection(stops_early=recipe.stops_early, wrong_hop=recipe.wrong_hop),
            correlation=recipe.world_correlation,
        )
        agent = self.agent(tokenizer)
        return [encode_demonstration(agent, demonstration) for demonstration in shown]


class FileTask(SearchTask):
    """Read questions from disk or the Hub, and a corpus, an index or a server to search."""

    def __init__(self, config: RunConfig) -> None:
        recipe = config.recipe
        assert recipe.questions is not None and recipe.eval_questions is not None
        super().__init__(config, _retriever(recipe))
        train = _load(recipe, recipe.questions, "train", recipe.n_train_questions)
        self._questions = train.to_list()
        self.train_dataset = _with_prompt(train)
        self.eval_questions = _load(recipe, recipe.eval_questions, "dev", recipe.n_eval_questions).to_list()

    def demonstrations(self, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        assert self.config.recipe.corpus is not None
        passages = {passage.id: passage for passage in read_corpus(self.config.recipe.corpus)}
        agent = self.agent(tokenizer)
        shown = demonstrate_support(self._questions, passages, self.search)
        return within([encode_demonstration(agent, demonstration) for demonstration in shown], self.limits)


def open_task(config: RunConfig, directory: RunDirectory) -> Task:
    """Return the recipe's environment, its files, or the generated world."""
    if config.recipe.in_environment:
        return EnvironmentTask(config)
    return GeneratedTask(config, directory) if config.generated_world else FileTask(config)


def _retriever(recipe: Recipe) -> Retriever:
    if recipe.retriever is not None:
        return open_retriever(
            recipe.retriever, recipe.search_timeout_s, corpus=recipe.corpus, cache=recipe.search_cache
        )
    assert recipe.corpus is not None, "a recipe with questions has a corpus or a retriever"
    return BM25Retriever.build(recipe.corpus, title_weight=recipe.title_weight)


def _load(recipe: Recipe, sources: list[str], split: str, limit: int | None) -> Dataset:
    where = {"answerable_here": True} if recipe.only_answerable else None
    loaded = concatenate_datasets([load_questions(source, split=split, where=where) for source in sources])
    # A shuffled prefix keeps every source's share.
    return loaded.shuffle(seed=0).select(range(min(limit or len(loaded), len(loaded))))


def _with_prompt(questions: Dataset) -> Dataset:
    return questions.add_column("prompt", questions["question"])
