"""Time rollouts: KV-cache reuse over turns, in our loop and in TRL's, and contexts read anew at every turn.

    python benchmarks/rollout_speed.py --policy runs/hops_cpu/warm_start --json rollout_speed.json

One batch of rollouts on the questions of `recipes/hops_cpu.yaml` (8 prompts × 8 rollouts, up to 6 turns), the same
policy, prompts, search tool and token budget for all. Greedy outputs must be identical token by token before anything
is timed, and sampled ones must pass a two-sample test on length and log-probability. `--policy` is a checkpoint whose
closing tags are single tokens; without it the recipe's warm start is made first (about a minute).

A second table looks at one turn alone: transformers' own continuous batching (`generate_batch`, paged cache) has no
stop strings and no budget per row, so it is compared where neither matters, on contexts and turns of fixed length. Its
cache is sized for them; left to itself it takes most of the machine's memory at every call.

A third has a model with linear attention (four layers of Qwen3.5's build, random weights): conversations whose prompts,
turns and observations differ in length, by `generate` anew at every turn and with kept keys and states.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _measure import Case, floors, measure, print_cases, reading, write_json
from _trl_loop import TRLToolLoop, closing_tokens
from scipy.stats import ks_2samp
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
    Qwen3_5TextConfig,
    set_seed,
)

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe import RunConfig
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from a2tgpo.run.task import Task, open_task
from a2tgpo.run.warm_start import warm_start

RECIPE = Path(__file__).parents[1] / "recipes/hops_cpu.yaml"
Completions = list[tuple[list[int], list[int]]]
"""Ids of each completion, observations included, and the mask of those the policy wrote."""
Way = Callable[[Sequence[str]], Completions]

TRL, REUSE, GENERATE = "TRL's tool loop", "KV-cache reuse", "generate"
REUSE_IN_TRL = "TRL's tool loop in A2TGPOTrainer, KV-cache reuse"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--policy", type=Path, help="checkpoint; its closing tags must be single tokens")
    parser.add_argument("--rollouts", type=int, default=64, help="rollouts of the batch, 8 per prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every repeat to this file")
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how fast")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rollouts, arguments.repeats = 8, 1
    with tempfile.TemporaryDirectory() as folder:
        cases = [*rollout_cases(arguments, Path(folder))]
    title = f"Rollouts on {arguments.device}"
    print_cases(title, cases)
    if arguments.json:
        write_json(arguments.json, title, cases)


def rollout_cases(arguments: argparse.Namespace, folder: Path) -> Iterator[Case]:
    """Time whole rollouts, then one turn; all ways must give the same before they are timed."""
    device = torch.device(arguments.device)
    config = load_recipe(str(RECIPE))
    task = open_task(config, RunDirectory(folder))
    model, tokenizer = policy(arguments, config, task, folder)
    # TRL's loop has no budget per turn.
    budget = config.training.max_completion_length
    limits = RolloutLimits(task.limits.max_searches, budget, budget, passage_tokens=task.limits.passage_tokens)
    agent = SearchAgent(tokenizer, task.search, limits)
    questions = [row["question"] for row in task.train_dataset.select(range(arguments.rollouts // 8)) for _ in range(8)]

    n_greedy = 8 if arguments.smoke else 64
    greedy, sampled = ways(model, agent, greedy=True), ways(model, agent, greedy=False)
    facts: dict[str, Any] = {"greedy turns compared": check_greedy(greedy, task.train_dataset["question"][:n_greedy])}
    facts |= check_sampled(model, agent, sampled, questions * (1 if arguments.smoke else 4))
    seconds = measure(
        {name: partial(_timed, way, questions) for name, way in sampled.items()},
        device,
        repeats=arguments.repeats,
    )
    per_second = {
        f"{name}: rollouts per second": f"{len(questions) / statistics.median(taken):.1f}"
        for name, taken in seconds.items()
    }
    size = f"{len(questions)} rollouts, {model.num_parameters() / 1e6:.1f} M"
    rollouts = sampled[REUSE](questions)
    facts |= {"policy tokens": sum(sum(mask) for _, mask in rollouts), "tokens": sum(len(ids) for ids, _ in rollouts)}
    yield Case(size, seconds, TRL, per_second | _floors(model, rollouts, device), facts)
    rows, context, new = (4, 8, 3) if arguments.smoke else (16, 200, 24)
    yield turn_case(model, tokenizer, rows, context, new, arguments.repeats)
    yield states_case(tokenizer, *((2, 2) if arguments.smoke else (16, 4)), arguments)


def _floors(model: PreTrainedModel, rollouts: Completions, device: torch.device) -> dict[str, str]:
    """Count every token once, and the weights once for each token of the longest rollout: those come one by one."""
    written = [sum(mask) for _, mask in rollouts]
    n_bytes, n_flops = reading(model, [len(ids) for ids, _ in rollouts], sum(written))
    return floors(n_bytes * max(written), n_flops, device)


def turn_case(model: PreTrainedModel, tokenizer: Any, rows: int, context: int, new: int, repeats: int) -> Case:
    """Time one greedy turn of `new` tokens after random contexts, by three engines of this process."""
    contexts = torch.randint(20, 200, (rows, context), generator=torch.Generator().manual_seed(0)).tolist()
    # No token ends a row: one that the vocabulary does not have.
    greedy = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=-1, pad_token_id=tokenizer.pad_token_id)
    sampler = Sampler(model, greedy)
    n_pages = rows * (2 + (context + new) // 64)
    paged = ContinuousBatchingConfig(page_size=64, num_blocks=n_pages, max_batch_tokens=4096, use_cuda_graph=False)

    def generate() -> list[list[int]]:
        ids = torch.tensor(contexts, device=model.device)
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        return output[:, context:].tolist()

    def continuous() -> list[list[int]]:
        found = model.generate_batch(contexts, greedy, paged, progress_bar=False)
        return [request.generated_tokens for request in found.values()]

    def reusing() -> list[list[int]]:
        turns: dict[int, Turn] = {}
        engine = KVCacheEngine(model, tokenizer, sampler, ())
        engine([Continuation(ids, new) for ids in contexts], lambda done: turns.update(done) or {})
        return [turns[row].ids for row in range(rows)]

    ways = {"generate": generate, "generate_batch": continuous, REUSE: reusing}
    turns = {name: way() for name, way in ways.items()}
    assert turns["generate"] == turns[REUSE], "generate and KV-cache reuse differ"
    assert sorted(turns["generate"]) == sorted(turns["generate_batch"]), "generate and generate_batch differ"
    seconds = measure({name: partial(_run, way) for name, way in ways.items()}, model.device, repeats=repeats)
    return Case(f"one turn: {rows} rows of {context} + {new} tokens", seconds, "generate")


def states_case(tokenizer: Any, rows: int, n_turns: int, arguments: argparse.Namespace) -> Case:
    """Time greedy conversations of a model with linear attention, whose lengths are drawn once for both engines."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        initializer_range=0.1,  # far enough from 0 for the likeliest token to be one
    )
    model = AutoModelForCausalLM.from_config(config).eval().to(arguments.device)
    pad = tokenizer.pad_token_id
    greedy = GenerationConfig(do_sample=False, suppress_tokens=[pad], eos_token_id=-1, pad_token_id=pad)
    draw = random.Random(0)

    def piece(fewest: int, most: int) -> Continuation:
        ids = [draw.randrange(20, 200) for _ in range(draw.randint(fewest, most))]
        return Continuation(ids, draw.randint(15, 30))

    said = [[piece(60, 120), *(piece(70, 140) for _ in range(n_turns - 1))] for _ in range(rows)]

    def played(engine: GenerationEngine) -> list[list[list[int]]]:
        written: list[list[list[int]]] = [[] for _ in range(rows)]

        def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
            for row, turn in turns.items():
                written[row].append(turn.ids)
            return {row: said[row][len(written[row])] for row in turns if len(written[row]) < n_turns}

        engine([pieces[0] for pieces in said], take_turns)
        return written

    engines: dict[str, GenerationEngine] = {
        GENERATE: HFGenerateEngine(model, tokenizer, greedy, STOP_STRINGS),
        REUSE: KVCacheEngine(model, tokenizer, Sampler(model, greedy), STOP_STRINGS),
    }
    assert played(engines[GENERATE]) == played(engines[REUSE]), "generate and kept states differ"
    seconds = measure(
        {name: partial(_run, partial(played, engine)) for name, engine in engines.items()},
        model.device,
        repeats=arguments.repeats,
    )
    return Case(f"linear attention: {rows} rows of {n_turns} turns", seconds, GENERATE)


def _run(way: Callable[[], Any]) -> None:
    way()


def policy(arguments: argparse.Namespace, config: RunConfig, task: Task, folder: Path) -> tuple[PreTrainedModel, Any]:
    """Open the checkpoint given, or the recipe's after its warm start."""
    path = arguments.policy
    if path is None:
        path, name = folder / "warm_start", config.model.model_name_or_path
        tokenizer = load_tokenizer(name, config)
        warm_start(load_model(name, config), tokenizer, task.demonstrations(tokenizer), config, path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").to(arguments.device)
    return model, AutoTokenizer.from_pretrained(path, padding_side="left")


def ways(model: PreTrainedModel, agent: SearchAgent, *, greedy: bool) -> dict[str, Way]:
    """Return what is compared: TRL's loop in its trainer and in ours, and our agent with either engine."""
    ends = [agent.tokenizer.eos_token_id, *closing_tokens(agent.tokenizer)]
    sampling = GenerationConfig(
        do_sample=not greedy, top_k=0, pad_token_id=agent.tokenizer.pad_token_id, eos_token_id=ends
    )
    options = dict(greedy=greedy, use_cpu=model.device.type == "cpu", bf16=False)
    return {
        TRL: TRLToolLoop(model, agent, **options).run,
        REUSE_IN_TRL: TRLToolLoop(model, agent, trainer=A2TGPOTrainer, config_of=A2TGPOConfig, **options).run,
        GENERATE: _with(agent, HFGenerateEngine(model, agent.tokenizer, sampling, STOP_STRINGS)),
        REUSE: _with(agent, KVCacheEngine(model, agent.tokenizer, Sampler(model, sampling), STOP_STRINGS)),
    }


def _with(agent: SearchAgent, engine: GenerationEngine) -> Way:
    def run(questions: Sequence[str]) -> Completions:
        completions = []
        for rollout in agent.run(list(questions), engine):
            # The closing end of sequence is the environment's; TRL's loop appends none.
            closing = rollout.model_mask[-1] == 0 and rollout.completion_ids[-1] == agent.tokenizer.eos_token_id
            end = len(rollout.completion_ids) - closing
            completions.append((rollout.completion_ids[:end], rollout.model_mask[:end]))
        return completions

    return run


def check_greedy(ways: dict[str, Way], questions: Sequence[str]) -> int:
    """Check that greedy rollouts are the same tokens by the same authors; return the number of turns compared."""
    reference = ways[TRL](questions)
    for name, way in ways.items():
        different = [q for q, mine, theirs in zip(questions, way(questions), reference, strict=True) if mine != theirs]
        assert not different, f"{name} and {TRL} differ greedily on {len(different)} questions: {different[:3]}"
    return sum(a > b for _, mask in reference for a, b in pairwise([*mask, 0]))


def check_sampled(model: PreTrainedModel, agent: SearchAgent, ways: dict[str, Way], questions: Sequence[str]) -> dict:
    """Run Kolmogorov-Smirnov tests of each way against TRL's loop; a p-value under 1e-3 stops the benchmark."""
    samples = {name: _statistics(model, agent, questions, _seeded(way, questions)) for name, way in ways.items()}
    facts = {}
    for name in set(ways) - {TRL}:
        for statistic, values in samples[name].items():
            p = ks_2samp(values, samples[TRL][statistic]).pvalue
            assert p > 1e-3, f"{name} and {TRL} differ in {statistic}: p = {p:.1e} on {len(values)} rollouts each"
            facts[f"{name}, p-value of {statistic}, {len(values)} rollouts each"] = p
    return facts


def _seeded(way: Way, questions: Sequence[str]) -> Completions:
    set_seed(0)
    return way(questions)


def _timed(way: Way, questions: Sequence[str]) -> None:
    way(questions)


@torch.no_grad()
def _statistics(
    model: PreTrainedModel, agent: SearchAgent, questions: Sequence[str], completions: Completions
) -> dict[str, list[float]]:
    """Return the policy tokens of each rollout, and their mean log-probability."""
    lengths, logps = [], []
    for question, (ids, mask) in zip(questions, completions, strict=True):
        prompt = agent.encode_prompt(question)
        logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1 : -1]
        taken = logits.float().log_softmax(-1).gather(1, torch.tensor(ids, device=model.device)[:, None])[:, 0]
        written = torch.tensor(mask, device=model.device).bool()
        lengths.append(float(sum(mask)))
        logps.append(taken[written].mean().item())
    return {"length": lengths, "log-probability": logps}


if __name__ == "__main__":
    main()
