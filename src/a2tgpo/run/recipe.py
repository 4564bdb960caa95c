"""Hold a recipe: one flat YAML file with everything a run needs, each key also a command-line flag.

Keys are the fields of `Recipe` (data, search, rollouts, warm start, evaluation), `A2TGPOConfig` (training: TRL's own
arguments and ours) and TRL's `ModelConfig` (model, precision, LoRA).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError
from a2tgpo.rollout.protocol import check_wording
from a2tgpo.run.environment_keys import EnvironmentKeys

if TYPE_CHECKING:  # the keys of a recipe are known without TRL, which takes seconds to import
    from trl import ModelConfig

    from a2tgpo.integrations.trl.config import A2TGPOConfig


@dataclass
class Recipe(EnvironmentKeys):
    """Hold what is ours in a recipe; data paths of None mean the generated world, or the environment's own rows.

    Raises:
        RecipeError: a number below its least value, or keys that contradict each other.
    """

    plugins: list[str] | None = field(
        default=None,
        metadata={"help": "Modules of yours to import first, for the methods they register; `--import M` adds one."},
    )
    reward: list[str] | None = field(
        default=None,
        metadata={
            "help": "Your reward functions, package.module:function, weighed by `reward_weights`; none = exact match, "
            "or what the environment gives for the episode."
        },
    )
    turn_signal: str | None = field(
        default=None,
        metadata={
            "help": "What numbers the turns: your function of a Transcript or ProcessSignal, package.module:name, or "
            "'judge', a model that `judge` names; none = what `process_signal` says."
        },
    )
    judge: dict | str | None = field(
        default=None,
        metadata={
            "help": "For turn_signal: judge, the arguments of a2tgpo.signals.Judge: url and model of an "
            "OpenAI-compatible server, and where wanted rubric, low, high, api_key_env, cache_dir, concurrency, "
            "timeout_s, options."
        },
    )

    questions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Training questions, or an environment's rows: files, folders or Hub data sets; none = generated."
        },
    )
    eval_questions: list[str] | None = field(
        default=None, metadata={"help": "Held-out questions, as `questions`; needed where those are given."}
    )
    corpus: str | None = field(
        default=None,
        metadata={"help": "Passages, JSONL or JSONL.gz: searched with BM25 unless `retriever` says otherwise."},
    )
    retriever: str | None = field(
        default=None,
        metadata={
            "help": "What searches instead: a folder made by `a2tgpo index`, of `corpus` where that is given too, or a "
            "retrieval server's URL."
        },
    )
    only_answerable: bool = field(
        default=False, metadata={"help": "Keep only questions whose `answerable_here` is true."}
    )
    n_train_questions: int | None = field(
        default=None,
        metadata={"help": "Use this many training questions; none = all (4000 of those that are generated)."},
    )
    n_eval_questions: int | None = field(
        default=None,
        metadata={"help": "Evaluate on this many questions; none = all (300 of those that are generated)."},
    )
    world_seed: int = field(default=0, metadata={"help": "Seed of the generated world, or of an environment's rows."})
    world_entities: int = field(
        default=600, metadata={"help": "Training entities of the generated world; evaluation has half as many."}
    )
    world_correlation: float = field(
        default=0.0,
        metadata={"help": "Share of facts that stay in a region of the generated world; 0 = a world without regions."},
    )
    hops: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Hop counts of generated questions."})

    passages_per_search: int = field(default=3, metadata={"help": "Passages shown per search."})
    title_weight: int = field(default=1, metadata={"help": "How often BM25 counts a passage's title."})
    search_timeout_s: float = field(default=30.0, metadata={"help": "Seconds before a search counts as failed."})
    search_cache: str | None = field(
        default=None, metadata={"help": "Folder that keeps what a retrieval server answered; none = no cache."}
    )

    max_searches: int = field(default=6, metadata={"help": "Tool calls per rollout."})
    max_prompt_tokens: int = field(default=1024, metadata={"help": "A longer prompt is an error."})
    max_turn_tokens: int = field(default=512, metadata={"help": "Tokens the policy may write per turn."})
    passage_tokens: int = field(default=160, metadata={"help": "Tokens shown of one passage."})
    rows_per_generation: int = field(default=256, metadata={"help": "Rollouts generated together."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message before every question."})
    instruction: str | None = field(
        default=None,
        metadata={"help": "What the user's message says, with one {question}; none = the question alone."},
    )
    result_format: str | None = field(
        default=None,
        metadata={
            "help": "How a result shows a passage: {rank}, {title}, {text}; none = '[{rank}] \"{title}\" {text}'."
        },
    )

    warm_start_steps: int = field(
        default=0, metadata={"help": "Supervised steps on scripted demonstrations before the updates; 0 = none."}
    )
    warm_start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the warm start."})
    warm_start_batch_size: int = field(default=32, metadata={"help": "Demonstrations per warm-start step."})
    warm_start_micro_batch_size: int | None = field(
        default=None, metadata={"help": "Demonstrations per forward; none = the whole batch."}
    )
    warm_start_hops: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Hop counts of generated demonstrations."}
    )
    stops_early: float = field(
        default=0.3, metadata={"help": "Share of demonstrations that answer before the last hop."}
    )
    wrong_hop: float = field(default=0.2, metadata={"help": "Share of demonstrated searches for the wrong hop."})

    processes: int | None = field(
        default=None,
        metadata={
            "help": "Refuse to start in another number of processes: batches are counted per process; none = any."
        },
    )
    best_checkpoint: bool = field(
        default=False,
        metadata={
            "help": "Take as the final policy, of the checkpoints that are kept, the one with the best average exact "
            "match over the data sets of eval_questions; the paper reports such. Chosen and measured on the same "
            "questions, it looks better than it is, the more so the more checkpoints there are: compare only runs that "
            "all have it, with as many."
        },
    )
    eval_batch_size: int = field(default=100, metadata={"help": "Questions answered together in an evaluation."})

    def __post_init__(self) -> None:
        for name in ("plugins", "reward", "questions", "eval_questions", "hops", "warm_start_hops"):
            if isinstance(getattr(self, name), str | int):
                setattr(self, name, [getattr(self, name)])
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name}={value}: must be at least {least}")
        self._check_numbers()
        micro = self.warm_start_micro_batch_size
        if micro is not None and (micro < 1 or self.warm_start_batch_size % micro):
            raise RecipeError(
                f"warm_start_micro_batch_size={micro}: must divide warm_start_batch_size={self.warm_start_batch_size}"
            )
        check_wording(self.instruction, self.result_format)
        self._check_judge()
        self.check_environment()
        if self.in_environment:
            self._check_rows()
        else:
            self._check_search()

    def _check_numbers(self) -> None:
        for name in ("world_correlation", "stops_early", "wrong_hop"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise RecipeError(f"{name}={value}: must be from 0 to 1")
        if not 0 < self.search_timeout_s < math.inf:
            raise RecipeError(f"search_timeout_s={self.search_timeout_s}: must be above 0")
        if not 0 <= self.warm_start_learning_rate < math.inf:  # 0 trains nothing and logs the loss
            raise RecipeError(f"warm_start_learning_rate={self.warm_start_learning_rate}: must be 0 or more")
        for name in ("hops", "warm_start_hops"):
            if not (values := getattr(self, name)) or min(values) < 1:
                raise RecipeError(f"{name}={values}: give one or more hop counts, from 1")

    def _check_judge(self) -> None:
        if isinstance(self.judge, str):
            try:
                self.judge = json.loads(self.judge)
            except ValueError as error:
                raise RecipeError(f"judge={self.judge!r} is no JSON object ({error})") from error
        if self.judge is not None and not isinstance(self.judge, dict):
            raise RecipeError(f"judge={self.judge!r}: give a mapping with url and model")
        if (self.judge is None) != (self.turn_signal != "judge"):
            raise RecipeError(
                f"turn_signal={self.turn_signal!r} with judge={self.judge!r}: they go together, turn_signal: judge and "
                "judge: {url: …, model: …}"
            )

    def _check_rows(self) -> None:
        if (self.questions is None) != (self.eval_questions is None):
            raise RecipeError("questions and eval_questions: give both, or neither for generated rows")
        if self.questions and self.rows:
            raise RecipeError(f"rows={self.rows!r} beside questions: give one of them")
        if self.warm_start_steps and not self.demonstrations:
            raise RecipeError(
                f"warm_start_steps={self.warm_start_steps}: nobody plays for it; give demonstrations, or "
                "warm_start_steps: 0"
            )

    def _check_search(self) -> None:
        names = ("questions", "eval_questions", "corpus", "retriever")
        given = [name for name in names if getattr(self, name) is not None]
        if given and not (self.questions and self.eval_questions and (self.corpus or self.retriever)):
            raise RecipeError(
                f"{', '.join(given)} given alone: give questions, eval_questions and corpus together (or a retriever "
                "for it), or none of them for the generated world"
            )
        if self.search_cache is not None and self.retriever is None:
            raise RecipeError(
                f"search_cache={self.search_cache!r} is for a retrieval server; give its URL as retriever"
            )
        if given and self.warm_start_steps and not self.corpus:
            raise RecipeError(
                f"warm_start_steps={self.warm_start_steps}: demonstrations are written from the passages; give corpus "
                "as well, or warm_start_steps: 0"
            )


_LEAST = {"max_searches": 0, "warm_start_steps": 0} | dict.fromkeys(
    (
        *("n_train_questions", "n_eval_questions", "passages_per_search", "title_weight", "max_prompt_tokens"),
        *("max_turn_tokens", "passage_tokens", "rows_per_generation", "warm_start_batch_size"),
        *("warm_start_micro_batch_size", "eval_batch_size", "processes"),
    ),
    1,
)


@dataclass(frozen=True)
class RunConfig:
    """Hold a parsed recipe; `given` has every key of the file and the flags, and is itself a recipe."""

    recipe: Recipe
    training: A2TGPOConfig
    model: ModelConfig
    given: dict[str, Any]

    @property
    def generated_world(self) -> bool:
        """Tell whether questions and passages are made up, for want of files."""
        return self.recipe.questions is None and not self.recipe.in_environment

    @property
    def resumes(self) -> bool:
        """Tell whether an earlier run is to be continued, from its last checkpoint or a given one."""
        return str(self.training.resume_from_checkpoint).lower() not in ("none", "false")

    @property
    def quantizes(self) -> bool:
        """Tell whether adapters are trained on weights in 4 or 8 bits."""
        return bool(self.model.load_in_4bit or self.model.load_in_8bit)

    def value(self, key: str) -> Any:
        """Return the value of a key, given or not."""
        parts = (self.recipe, self.training, self.model)
        return next((getattr(part, key) for part in parts if hasattr(part, key)), self.given.get(key))
