"""Time a step of A²TGPO beside a step of TRL's own GRPO, on the same rollouts.

    python benchmarks/step_cost.py --device cpu --json step_cost.json

Both trainers take their real steps on the same batch (prompt, four searches with results, an answer): rewards, old
log-probabilities, for A²TGPO the gains and the credit, then the updates. In the first two settings the rollouts are
invented and replayed. There is then no generation, which is the same for both and the larger part of a real step, so
the ratio is at its largest: a batch that feeds four updates, as in `recipes/hops_cpu.yaml`, for which GRPO needs old
log-probabilities too; and a batch that feeds one, for which it does not, so that A²TGPO's pass over the trajectories is
extra where its groups do not fit into the update's own forwards. In the last two settings both generate their
rollouts, one update a batch, and A²TGPO reads the answers from the keys of generation: with `TagRollout`, where both
trainers generate alike, and by TRL's own tool loop (`tools=`), where each generates as it does. Both must find the
same old log-probabilities, or generate the same rollouts (by TRL's loop: the same greedy ones), before anything is
timed. Peak memory is that of an update above what was allocated before.
"""

from __future__ import annotations

import argparse
import itertools
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _measure import SMOLLM2, Case, floors, measure, print_cases, reading, synchronize, write_json
from _trl_loop import search_tool, tool_tokenizer
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.environments.environment import Action
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.turn_protocol import TagProtocol

GRPO, A2TGPO = "GRPO (TRL)", "A²TGPO"
SHAPES = {
    "tiny": dict(hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4),
    "smollm2": SMOLLM2,
}


@dataclass(frozen=True)
class Size:
    """Hold a batch: rollouts, tokens per turn and per result, searches; and the model's shape."""

    shape: str
    rollouts: int
    rows_per_forward: int = 16
    turn: int = 40
    result: int = 110
    searches: int = 4
    repeats: int = 5
    varied: bool = False

    @property
    def tokens(self) -> int:
        """Return those of the longest rollout."""
        return self.rollout(self.searches)

    def rollout(self, searches: int) -> int:
        return searches * (self.turn + self.result) + self.turn

    def searches_of(self, row: int) -> int:
        """Return all of them, or, where rollouts are `varied`, one more from row to row."""
        return 1 + row % self.searches if self.varied else self.searches

    @property
    def group(self) -> int:
        """Return the rollouts of a prompt; a forward holds two groups."""
        return max(2, self.rows_per_forward // 2)

    @property
    def lengths(self) -> list[int]:
        return [self.rollout(self.searches_of(row)) for row in range(self.rollouts)]


SMOKE = Size("tiny", rollouts=8, rows_per_forward=2, turn=6, result=10, repeats=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="random weights; default: tiny on the CPU, else smollm2")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every repeat to this file")
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how fast")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    shape = arguments.shape or ("tiny" if device.type == "cpu" else "smollm2")
    size = SMOKE if arguments.smoke else Size(shape, rollouts=arguments.rollouts, repeats=arguments.repeats)
    title = f"A step on {device}"
    sizes = [replace(size, varied=varied) for varied in (False, True)]
    cases = [step_case(one, updates, device) for updates in (4, 1) for one in sizes]
    cases += [generated_case(size, device), tool_loop_case(size, device)]
    print_cases(title, cases)
    if arguments.json:
        write_json(arguments.json, title, cases)


def step_case(size: Size, updates: int, device: torch.device) -> Case:
    """Time both trainers on one batch that feeds `updates` updates."""
    trainers = {GRPO: trainer(GRPOTrainer, GRPOConfig, size, updates, device, loss_type="grpo", beta=0.0)}
    trainers[A2TGPO] = trainer(A2TGPOTrainer, A2TGPOConfig, size, updates, device, beta=0.0)
    error = _old_logps_error(trainers) if updates > 1 else None
    assert error is None or error < 1e-3, f"old log-probabilities differ by {error}"
    peaks = {name: _peak_of_update(one, device) for name, one in trainers.items()}
    seconds = measure({name: _step(one) for name, one in trainers.items()}, device, repeats=size.repeats)
    ratio = peaks[A2TGPO] / peaks[GRPO]
    notes = {
        "peak memory of an update": f"{peaks[A2TGPO] / 2**20:.1f} MB beside {peaks[GRPO] / 2**20:.1f} MB: {ratio:.3f}"
    }
    n_written = sum((size.searches_of(row) + 1) * size.turn for row in range(size.rollouts))
    n_bytes, n_flops = reading(trainers[GRPO].model, size.lengths, n_written)
    # A pass for old log-probabilities where there is one; forward and backward are three. Weights, gradients and two
    # moments are read and written by each update.
    notes |= floors(12 * updates * n_bytes, (3 + (updates > 1)) * n_flops, device)
    facts = {"peak bytes": peaks, "old log-probabilities differ by": error}
    tokens = "–".join(str(length) for length in sorted({min(size.lengths), max(size.lengths)}))
    name = f"{size.shape}, {size.rollouts} rollouts of {tokens} tokens, {updates} update{'s' * (updates > 1)} a batch"
    return Case(name, seconds, GRPO, notes, facts)


def generated_case(size: Size, device: torch.device) -> Case:
    """Time whole steps of one update a batch, generation by `TagRollout` included."""
    common = dict(size=size, updates=1, device=device, rollouts="agent", beta=0.0)
    trainers = {
        GRPO: trainer(GRPOTrainer, GRPOConfig, loss_type="grpo", **common),
        A2TGPO: trainer(A2TGPOTrainer, A2TGPOConfig, **common),
    }
    ours, theirs = (_completions(one) for one in trainers.values())
    assert ours == theirs, "the two trainers generate different rollouts from the same seed"
    seconds = measure({name: _step(one) for name, one in trainers.items()}, device, repeats=size.repeats)
    tokens = sum(map(len, ours)) / len(ours)
    name = f"{size.shape}, {size.rollouts} rollouts of {tokens:.0f} tokens, generated, 1 update a batch"
    return Case(name, seconds, GRPO)


def tool_loop_case(size: Size, device: torch.device) -> Case:
    """Time whole steps of one update a batch, generation by TRL's tool loop included."""

    def trainers(do_sample: bool = True, **options: Any) -> dict[str, Any]:
        turns = {"generation_kwargs": {"max_new_tokens": size.turn, "do_sample": do_sample}}
        common = dict(size=size, updates=1, device=device, rollouts="tools", beta=0.0, **turns, **options)
        return {
            GRPO: trainer(GRPOTrainer, GRPOConfig, loss_type="grpo", **common),
            A2TGPO: trainer(A2TGPOTrainer, A2TGPOConfig, **common),
        }

    # In float32: to bfloat16's rounding the likeliest token of a random policy is often two.
    greedy = trainers(do_sample=False, bf16=False)
    ours, theirs = (_batch(one)["completion_ids"] for one in greedy.values())
    assert ours.equal(theirs), "the two trainers generate different greedy rollouts"
    seconds = measure({name: _step(one) for name, one in trainers().items()}, device, repeats=size.repeats)
    name = f"{size.shape}, {size.rollouts} rollouts by TRL's tool loop, {size.searches} searches, 1 update a batch"
    return Case(name, seconds, GRPO)


def trainer(
    kind: Any, config: Any, size: Size, updates: int, device: torch.device, rollouts: str = "replay", **options: Any
) -> Any:
    """Make a trainer of `kind` whose rollouts are the invented batch, or generated in its shape: by an "agent" of ours
    or with "tools" by TRL."""
    tokenizer = build_tokenizer()
    set_seed(0)
    options = {"bf16": device.type != "cpu"} | options
    sizes = {"vocab_size": len(tokenizer)} | SHAPES[size.shape]
    model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=8192, pad_token_id=tokenizer.pad_token_id))
    # Prompts of one length: where they are padded no forward of either trainer is plainly causal, which sdpa is
    # quicker at.
    letters = itertools.islice(itertools.cycle(string.ascii_lowercase), size.rollouts // size.group)
    asked: list[Any] = [f"Who is {letter}?" for letter in letters]
    generation: dict[str, Any] = {"processing_class": tokenizer}
    if rollouts == "tools":
        asked = [[{"role": "user", "content": text}] for text in asked]
        generation = tools(tokenizer, size)
        options["max_tool_calling_iterations"] = size.searches
    elif rollouts == "agent":
        generation["rollout_func"] = TagRollout(searching(tokenizer, size))
    else:
        generation["rollout_func"] = replay(tokenizer, size)
    generation["train_dataset"] = Dataset.from_list([{"prompt": prompt, "answer": "Kelo Mitu"} for prompt in asked])
    made = kind(
        model=model.to(device),
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args=config(
            output_dir=tempfile.mkdtemp(prefix="step-cost-"),
            use_cpu=device.type == "cpu",
            per_device_train_batch_size=size.rows_per_forward,
            gradient_accumulation_steps=size.rollouts // size.rows_per_forward // updates,
            steps_per_generation=size.rollouts // size.rows_per_forward,
            num_generations=size.group,
            max_completion_length=size.tokens,
            max_steps=updates,
            learning_rate=1e-6,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **options,
        ),
        **generation,
    )
    made.remove_callback(PrinterCallback)
    return made


def replay(tokenizer: PreTrainedTokenizerBase, size: Size) -> Callable[..., dict[str, Any]]:
    """Return a `rollout_func` that gives the same rollouts at every call."""
    generator = torch.Generator().manual_seed(0)

    def rollouts(prompts: list[Any], _: Any) -> dict[str, Any]:
        generator.manual_seed(0)
        drawn = torch.randint(10, len(tokenizer), (len(prompts), size.tokens), generator=generator).tolist()
        searches = [size.searches_of(row) for row in range(len(prompts))]
        return {
            "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
            "completion_ids": [ids[: size.rollout(n)] for ids, n in zip(drawn, searches, strict=True)],
            "env_mask": [([1] * size.turn + [0] * size.result) * n + [1] * size.turn for n in searches],
            "logprobs": None,
        }

    return rollouts


class _EveryTurnSearches(TagProtocol):
    """Take each turn as a search until its searches are spent: the policy is random and knows no protocol."""

    def read(self, turn: list[int], before: list[int]) -> list[Action]:
        """Give the same search whatever the turn says."""
        return [Action("search", "anything")]


def searching(tokenizer: PreTrainedTokenizerBase, size: Size) -> SearchAgent:
    """Return an agent that finds a passage of about `size.result` tokens."""
    word = " Kelo"
    text = word * (size.result // len(tokenizer(word, add_special_tokens=False)["input_ids"]))
    limits = RolloutLimits(size.searches, 2 * size.tokens, size.turn, passage_tokens=size.result)
    agent = SearchAgent(tokenizer, lambda queries: [[Passage("0", "", text)] for _ in queries], limits)
    agent.protocol = _EveryTurnSearches(tokenizer, agent.environment.tools, limits.passage_tokens)
    return agent


def tools(tokenizer: PreTrainedTokenizerBase, size: Size) -> dict[str, Any]:
    """Return TRL's `tools=` with the same search, for which it takes every turn."""
    asking = tool_tokenizer(tokenizer, lambda turn: "anything")
    return {"processing_class": asking, "tools": [search_tool(searching(tokenizer, size))]}


def _completions(one: Any) -> list[list[int]]:
    """Return what a trainer generates from seed 0."""
    set_seed(0)
    prompts = [row["prompt"] for row in one.train_dataset for _ in range(one.num_generations)]
    return one.rollout_func(prompts, one)["completion_ids"]


def _step(one: Any) -> Callable[[], None]:
    """Take a step at every call, its seed the number of calls before: two trainers that draw alike generate alike."""
    calls = itertools.count()

    def run() -> None:
        set_seed(next(calls))
        one.train()

    return run


def _old_logps_error(trainers: dict[str, Any]) -> float:
    """Return the largest difference on tokens the policy wrote, of the trainers as they start."""
    found = {}
    for name, one in trainers.items():
        output = _batch(one)
        found[name] = output["old_per_token_logps"], output["tool_mask"].bool()
    (ours, mask), (theirs, _) = found[A2TGPO], found[GRPO]
    return (ours - theirs)[mask].abs().max().item()


def _batch(one: Any) -> dict[str, Any]:
    """Make a generation batch, of the trainer as it starts."""
    one.model.train()
    one.create_optimizer_and_scheduler(num_training_steps=1)
    rows = [row for row in one.train_dataset for _ in range(one.num_generations)]
    one.current_gradient_accumulation_steps = one.args.gradient_accumulation_steps
    output = one._generate_and_score_completions([dict(row) for row in rows])
    one._metrics["train"].clear()
    return output


def _peak_of_update(one: Any, device: torch.device) -> int:
    """Return the peak of the second micro-batch's update in bytes, above what was allocated when it began."""
    calls = 0
    peaks: list[int] = []
    step = one.training_step

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        # The first call generates and scores the batch; the second only updates.
        if calls != 2:
            return step(*args, **kwargs)
        loss, peak = _watch(lambda: step(*args, **kwargs), device)
        peaks.append(peak)
        return loss

    one.training_step = watched
    one.train()
    del one.training_step
    return peaks[0]


def _watch(run: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    # Allocations and releases, as positive and negative sizes. Not in `profiler.events()`, which keeps only those that
    # no operator accounts for.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return result, peak


if __name__ == "__main__":
    main()
