"""Time what slow environments cost a batch of rollouts, and what the environment loop costs when they are fast.

    python benchmarks/environments.py --policy runs/hops_cpu/warm_start --json environments.json

First 256 rollouts on the questions of `recipes/hops_cpu.yaml`, each in an environment of its own that takes 50 ms for a
step and 2 s for every twentieth: our loop (`EnvironmentPool`, KV-cache reuse) against TRL's own tool loop with the same
policy, questions and delays. The engine's busy share is the time outside of the environments and their loop.

Then the demo's 64 rollouts in environments that answer at once, against pure generation: the same engine is given the
same observations from a list, without protocol, threads or environments, and has to write the same tokens.

Greedy outputs of all ways are identical before anything is timed. With `--smoke` every turn of a few tokens is taken as
a search: the policy at hand may know no protocol.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from _measure import Case, measure, print_cases, write_json
from _trl_loop import TRLToolLoop, closing_tokens
from rollout_speed import RECIPE, policy
from transformers import GenerationConfig, PreTrainedModel, set_seed

from a2tgpo.environments import Action, CallLimits, EnvironmentPool, StepResult
from a2tgpo.environments.search_environment import SEARCH, BatchedSearch
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import Agent, RolloutLimits, SearchAgent
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.turn_protocol import TagProtocol
from a2tgpo.rollout.types import Rollout
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.task import open_task

TRL, OURS = "TRL's tool loop", "EnvironmentPool, KV-cache reuse"
LOOP, PURE = "environments that answer at once", "pure generation"
STRAGGLER_EVERY = 20
SMOKE_TURN = 6


@dataclass
class Delays:
    """Make a step slow, and every twentieth very slow, whoever takes it."""

    step_s: float
    straggler_s: float
    steps: Iterator[int] = field(default_factory=itertools.count)

    def wait(self) -> None:
        """Take the next step's time."""
        slow = next(self.steps) % STRAGGLER_EVERY == STRAGGLER_EVERY - 1
        time.sleep(self.straggler_s if slow else self.step_s)


class SearchWorld:
    """Answer one rollout: a search, after the delay."""

    tools = (SEARCH,)

    def __init__(self, search: BatchedSearch, delays: Delays | None) -> None:
        self.search, self.delays = search, delays

    def reset(self, row: Mapping[str, object]) -> None:
        """Begin."""

    def step(self, action: Action) -> StepResult:
        """Search."""
        if self.delays is not None:
            self.delays.wait()
        return StepResult(self.search([action.text])[0])


class EveryTurnSearches(TagProtocol):
    """Take every turn as a search."""

    def read(self, turn: list[int], before: list[int]) -> list[Action]:
        """Give the same search whatever the turn says."""
        return [Action("search", "Kelo")]


@dataclass
class Watched:
    """Write as an engine that notes the seconds spent outside of it, and what every row went on from."""

    engine: KVCacheEngine
    outside_s: float = 0.0
    starts: Sequence[Continuation] = ()
    continued: dict[int, list[Continuation]] = field(default_factory=dict)

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        self.starts, self.outside_s = starts, 0.0
        self.continued = {row: [] for row in range(len(starts))}

        def timed(ask: Callable[..., Mapping[int, Continuation | None]], *turns: dict[int, Turn]):
            started = time.perf_counter()
            answers = ask(*turns)
            self.outside_s += time.perf_counter() - started
            for row, answer in answers.items():
                if answer is not None:
                    self.continued[row].append(answer)
            return answers

        watched = partial(timed, take_turns)
        watched.poll = partial(timed, take_turns.poll)  # type: ignore[attr-defined]
        self.engine(starts, watched, n_entropies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--policy", type=Path, help="checkpoint; its closing tags must be single tokens")
    parser.add_argument(
        "--environments", type=int, default=256, help="rollouts in slow environments, 8 per prompt; 0 leaves them out"
    )
    parser.add_argument(
        "--rollouts", type=int, default=64, help="rollouts in fast environments, 8 per prompt; 0 leaves them out"
    )
    parser.add_argument("--step_s", type=float, default=0.05, help="seconds of a step")
    parser.add_argument("--straggler_s", type=float, default=2.0, help="seconds of every twentieth step")
    parser.add_argument("--slow_repeats", type=int, default=2, help="of the slow environments; TRL's take minutes")
    parser.add_argument("--repeats", type=int, default=31, help="of the fast ones")
    parser.add_argument("--json", type=Path, help="write every repeat to this file")
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how fast")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.environments = arguments.rollouts = 8
        arguments.slow_repeats = arguments.repeats = 1
        arguments.step_s, arguments.straggler_s = 0.005, 0.05
    with tempfile.TemporaryDirectory() as folder:
        cases = [*environment_cases(arguments, Path(folder))]
    title = f"Environments on {arguments.device}"
    print_cases(title, cases)
    if arguments.json:
        write_json(arguments.json, title, cases)


def environment_cases(arguments: argparse.Namespace, folder: Path) -> Iterator[Case]:
    """Time slow environments, then fast ones."""
    config = load_recipe(str(RECIPE))
    task = open_task(config, RunDirectory(folder))
    model, tokenizer = policy(arguments, config, task, folder)
    # TRL's loop has no budget per turn.
    budget, smoke = config.training.max_completion_length, arguments.smoke
    limits = RolloutLimits(
        2 if smoke else task.limits.max_searches,
        1000 if smoke else budget,
        SMOKE_TURN if smoke else budget,
        passage_tokens=task.limits.passage_tokens,
    )
    agent = SearchAgent(tokenizer, task.search, limits)
    if smoke:
        agent.protocol = EveryTurnSearches(tokenizer, agent.environment.tools, limits.passage_tokens)

    def questions(n_rollouts: int) -> list[str]:
        return [row["question"] for row in task.train_dataset.select(range(n_rollouts // 8)) for _ in range(8)]

    if arguments.environments:
        yield slow_case(arguments, model, agent, questions(arguments.environments))
    if arguments.rollouts:
        yield fast_case(arguments, model, agent, questions(arguments.rollouts))


def slow_case(
    arguments: argparse.Namespace, model: PreTrainedModel, agent: SearchAgent, questions: Sequence[str]
) -> Case:
    """Time rollouts in slow environments, by our loop and by TRL's."""
    cpu: dict[str, Any] = dict(use_cpu=model.device.type == "cpu", bf16=False)
    if arguments.smoke:
        cpu |= dict(turn_tokens=SMOKE_TURN, query_of=lambda turn: "Kelo")
    distinct = questions[::8]
    plain = TRLToolLoop(model, agent, greedy=True, **cpu).run(distinct)
    ours = in_environments(agent, None, len(distinct)).run(distinct, engine(model, agent, greedy=True))
    assert [without_end(rollout, agent) for rollout in ours] == plain, f"{OURS} and {TRL} differ greedily"

    def delays() -> Delays:
        return Delays(arguments.step_s, arguments.straggler_s)

    slow = SearchAgent(agent.tokenizer, agent.search, agent.limits)
    loop = TRLToolLoop(model, slow, greedy=False, **cpu)
    shares: dict[str, list[float]] = {TRL: [], OURS: []}
    calls: dict[str, list[int]] = {TRL: [], OURS: []}
    inside = _timed_method(loop._trainer, "_generate_single_turn")

    def by_trl() -> None:
        waiting = delays()
        slow.search = lambda queries: (waiting.wait(), agent.search(queries))[1]
        started, inside.seconds = time.perf_counter(), 0.0
        loop.run(questions)
        shares[TRL].append(inside.seconds / (time.perf_counter() - started))
        calls[TRL].append(next(waiting.steps))

    watched = Watched(engine(model, agent, greedy=False))

    def by_us() -> None:
        waiting = delays()
        pool = in_environments(agent, waiting, len(questions))
        started = time.perf_counter()
        pool.run(questions, watched)
        shares[OURS].append(1 - watched.outside_s / (time.perf_counter() - started))
        calls[OURS].append(next(waiting.steps))

    set_seed(0)
    by_us()  # its caches grow to their size
    for found in (*shares.values(), *calls.values()):
        found.clear()
    seconds = measure({TRL: by_trl, OURS: by_us}, model.device, repeats=arguments.slow_repeats, warmup=0)
    busy = {f"{name}: busy share": ", ".join(f"{share:.3f}" for share in found) for name, found in shares.items()}
    size = f"{len(questions)} environments of {arguments.step_s * 1e3:g} ms, 5 % of {arguments.straggler_s:g} s"
    return Case(size, seconds, TRL, busy, {"busy shares": shares, "environment steps": calls})


def fast_case(
    arguments: argparse.Namespace, model: PreTrainedModel, agent: SearchAgent, questions: Sequence[str]
) -> Case:
    """Time rollouts in environments that answer at once, and the same tokens without environments."""
    known: dict[str, list[Passage]] = {}

    def search(queries: Sequence[str]) -> list[list[Passage]]:
        for query in queries:
            if query not in known:
                (known[query],) = agent.search([query])
        return [known[query] for query in queries]

    quick = SearchAgent(agent.tokenizer, search, agent.limits)
    written: dict[int, list[list[int]]] = {}
    writes = engine(model, agent, greedy=True)
    watched = Watched(writes)
    loop = in_environments(quick, None, len(questions))
    rollouts = loop.run(questions, watched)
    starts, continued = watched.starts, {row: list(found) for row, found in watched.continued.items()}

    def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
        for row, turn in turns.items():
            written[row].append(turn.ids)
        done = {row: len(written[row]) - 1 for row in turns}
        return {row: continued[row][n] for row, n in done.items() if n < len(continued[row])}

    def pure() -> None:
        written.update({row: [] for row in range(len(starts))})
        writes(starts, take_turns)

    pure()
    for row, rollout in enumerate(rollouts):
        said = [token for token, own in zip(rollout.completion_ids, rollout.model_mask, strict=True) if own]
        assert said == [token for turn in written[row] for token in turn], f"{PURE} differs in rollout {row}"
    seconds = measure(
        {PURE: pure, LOOP: lambda: loop.run(questions, writes) and None}, model.device, repeats=arguments.repeats
    )
    n_calls = sum(len(rollout.calls) for rollout in rollouts)
    return Case(f"{len(questions)} rollouts, {n_calls} steps, greedy", seconds, PURE)


def in_environments(agent: SearchAgent, delays: Delays | None, n_rollouts: int) -> Agent:
    """Put the agent in environments of their own, all of which may work at a time."""
    limits = CallLimits(max_concurrent=n_rollouts)
    pool = EnvironmentPool(lambda: SearchWorld(agent.search, delays), limits)
    return Agent(agent.tokenizer, pool, agent.limits, protocol=agent.protocol)


def engine(model: PreTrainedModel, agent: SearchAgent, *, greedy: bool) -> KVCacheEngine:
    ends = [agent.tokenizer.eos_token_id, *closing_tokens(agent.tokenizer)]
    sampling = GenerationConfig(
        do_sample=not greedy, top_k=0, pad_token_id=agent.tokenizer.pad_token_id, eos_token_id=ends
    )
    return KVCacheEngine(model, agent.tokenizer, Sampler(model, sampling), STOP_STRINGS)


def without_end(rollout: Rollout, agent: SearchAgent) -> tuple[list[int], list[int]]:
    """Return ids and mask of a completion without the closing end of sequence, which TRL's loop does not append."""
    closing = rollout.model_mask[-1] == 0 and rollout.completion_ids[-1] == agent.tokenizer.eos_token_id
    end = len(rollout.completion_ids) - closing
    return rollout.completion_ids[:end], rollout.model_mask[:end]


class _timed_method:
    """Add up the seconds inside a method of `owner`."""

    def __init__(self, owner: object, name: str) -> None:
        self.seconds, self._method = 0.0, getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        try:
            return self._method(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - started


if __name__ == "__main__":
    main()
