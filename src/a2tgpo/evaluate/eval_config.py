"""Configure an evaluation; every field is a flag of `a2tgpo eval`."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError
from a2tgpo.evaluate.benchmarks import Benchmark, parse_benchmarks
from a2tgpo.rollout.protocol import check_wording

if TYPE_CHECKING:
    from a2tgpo.rollout.agent import RolloutLimits


def _flag(help: str, default: Any = MISSING, **options: Any) -> Any:
    return field(default=default, metadata={"help": help, **options})


@dataclass(frozen=True)
class EvalConfig:
    """Hold the settings of an evaluation; names that recipes have mean the same there.

    Raises:
        RecipeError: a value that is out of range or contradicts another.
    """

    model: str = _flag("path, Hub name, or the server's name of the model")
    benchmarks: str = _flag("by commas: names of the paper's seven (from the Hub), or NAME=FILE")
    retriever: str = _flag("URL of a retrieval server, or folder of an index")
    output_dir: str = _flag("folder of the run; the same command again goes on with it")

    engine: str = _flag("what generates from a checkpoint", "transformers", choices=("transformers", "vllm"))
    base_url: str | None = _flag("URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1", None)
    api_key_env: str | None = _flag("environment variable that holds the server's key", None)
    protocol: str = _flag("the paper's tags, or native tool calls of a server", "tags", choices=("tags", "tools"))

    n_questions: int | None = _flag("random questions of each benchmark; default: all", None, type=int)
    only_answerable: bool = _flag("keep only questions whose answerable_here is true", False)
    samples: int = _flag("answers to each question, for pass@k and mean@k", 1, type=int)
    temperature: float = _flag("0 is greedy", 0.0, type=float)
    seed: int = _flag("of the random questions and of sampling", 0, type=int)

    passages_per_search: int = _flag("passages shown per search", 3, type=int)
    max_searches: int = _flag("searches per answer", 6, type=int)
    max_turn_tokens: int = _flag("tokens the policy may write per turn", 512, type=int)
    max_completion_length: int = _flag("tokens of an answer, results included", 4096, type=int)
    max_prompt_tokens: int = _flag("a longer prompt is an error", 1024, type=int)
    passage_tokens: int = _flag("tokens shown of one passage", 160, type=int)
    system_prompt: str | None = _flag(
        "system message; default: the protocol in words, or none beside an instruction; '' for none", None
    )
    instruction: str | None = _flag("what the user's message says, with one {question}; default: that alone", None)
    result_format: str | None = _flag("how a result shows a passage: {rank}, {title}, {text}", None)

    concurrency: int = _flag("questions at a time", 16, type=int)
    timeout_s: float = _flag("seconds before a request to the server is tried again", 120.0, type=float)
    search_timeout_s: float = _flag("seconds before a search counts as failed", 30.0, type=float)
    search_cache: str | None = _flag("folder that keeps what a retrieval server answered; default: none", None)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise RecipeError(f"{name}={value}: must be at least {least}")
        for name in ("timeout_s", "search_timeout_s"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: must be above 0 seconds")
        if self.samples > 1 and self.temperature == 0:
            raise RecipeError(f"samples={self.samples}: greedy answers are all the same; give a temperature above 0")
        if self.base_url is None and self.protocol == "tools":
            raise RecipeError("protocol='tools': native tool calls need a server; give base_url")
        if self.base_url is None and self.api_key_env is not None:
            raise RecipeError(f"api_key_env={self.api_key_env!r} is for a server; give base_url")
        if self.base_url is not None and self.engine != "transformers":
            raise RecipeError(f"engine={self.engine!r}: with base_url the server generates; leave engine out")
        check_wording(self.instruction, self.result_format)
        self.sources  # noqa: B018  # raises

    @property
    def sources(self) -> tuple[Benchmark, ...]:
        """Return the benchmarks, read."""
        return parse_benchmarks(self.benchmarks)

    @property
    def system_message(self) -> str | None:
        """Return the system message, empty for none; None for the protocol in words."""
        return "" if self.system_prompt is None and self.instruction is not None else self.system_prompt

    @property
    def folder(self) -> Path:
        """Return `output_dir` as a path."""
        return Path(self.output_dir)

    @property
    def limits(self) -> RolloutLimits:
        """Return the budgets of one answer."""
        from a2tgpo.rollout.agent import RolloutLimits

        return RolloutLimits(
            max_searches=self.max_searches,
            max_completion_tokens=self.max_completion_length,
            max_turn_tokens=self.max_turn_tokens,
            max_prompt_tokens=self.max_prompt_tokens,
            passage_tokens=self.passage_tokens,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the answers depend on. Speed, patience and the key may change on the way."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_SETTINGS}


_LEAST = {"max_searches": 0, "temperature": 0} | dict.fromkeys(
    (
        *("n_questions", "samples", "passages_per_search", "max_turn_tokens", "max_completion_length"),
        *("max_prompt_tokens", "passage_tokens", "concurrency"),
    ),
    1,
)
# What changes no answer: a prompt above max_prompt_tokens has none.
_NOT_SETTINGS = {
    *("output_dir", "api_key_env", "concurrency", "max_prompt_tokens"),
    *("timeout_s", "search_timeout_s", "search_cache"),
}
