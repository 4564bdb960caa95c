"""Draw docs/figures/hops_gains.svg: what each passage on the way to an answer is worth, truly and to a policy.

    a2tgpo train recipes/hops_regions_cpu.yaml --max_steps 0 --output_dir runs/regions_start
    pip install 'a2tgpo[report]'
    python docs/figures/hops_gains.py runs/regions_start

The truth is `a2tgpo.data.ideal_reader`'s. The policy is that of the run's warm start; it reads the same passages as the
reader, found by looking up one right name after the other, and its gains are those that training would see. Questions
are about the training split, of which the warm start has seen nothing.
"""

from __future__ import annotations

import random
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import torch

from a2tgpo.data.ideal_reader import IdealReader
from a2tgpo.data.world import Chain, World
from a2tgpo.rollout.demonstration import Demonstration, Lookup, encode_demonstration
from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from a2tgpo.run.task import Task, open_task
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, plain_forward

PER_HOPS = 100


def likelihoods_of(chains: list[Chain], task: Task, scorer: AnswerScorer, model: torch.nn.Module) -> list[list[float]]:
    """Return the policy's likelihood of each answer after 0, 1, … of the right passages."""
    agent = task.agent(scorer.tokenizer)
    scored = []
    for chain in chains:
        lookups = []
        for entity, relation in zip(chain.entities, chain.relations, strict=False):
            (found,) = task.search([entity.name])
            lookups.append(Lookup(f"I need the {relation} of {entity.name}.", entity.name, tuple(found)))
        row = encode_demonstration(agent, Demonstration(chain.question, tuple(lookups), chain.answer))
        first = row["completion_mask"].index(1)
        prompt, completion = (torch.tensor([ids]) for ids in (row["input_ids"][:first], row["input_ids"][first:]))
        written = torch.tensor([row["completion_mask"][first:]])
        scores = scorer.score(
            plain_forward(model),
            model.config,
            prompt,
            torch.ones_like(prompt),
            completion,
            torch.ones_like(completion),
            written,
            [[chain.answer]],
            old_logps=False,
        )
        scored.append(scores.likelihood[0, : len(chain.relations) + 1].tolist())
    return scored


def gains(values: list[list[float]]) -> list[tuple[float, float]]:
    """Return mean and standard deviation of v_t − v_{t−1} at every turn."""
    turns = zip(*([after - before for before, after in pairwise(row)] for row in values), strict=True)
    return [(fmean(turn), stdev(turn)) for turn in turns]


def main() -> None:
    import matplotlib.pyplot as plt

    directory = RunDirectory(Path(sys.argv[1]))
    config = load_recipe(str(directory.config))
    recipe = config.recipe
    world = World.generate(
        recipe.world_seed, recipe.world_entities, recipe.world_entities // 2, recipe.world_correlation
    )
    tokenizer = load_tokenizer(str(directory.warm_start), config)
    model = load_model(str(directory.warm_start), config).eval()
    task = open_task(config, directory)
    scorer = AnswerScorer(AnswerScaffold(SCAFFOLD), tokenizer)
    reader = IdealReader(world)

    plt.rcParams |= {"svg.hashsalt": "hops_gains", "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(1, len(recipe.hops), figsize=(8, 2.8), sharey=True, layout="constrained")
    for axis, hops in zip(axes, recipe.hops, strict=True):
        chains = list(world.chains(random.Random(0), "train", (hops,), PER_HOPS))
        measured = {
            "true posterior": [[reader.likelihood(c, n) for n in range(hops + 1)] for c in chains],
            "warm-started policy": likelihoods_of(chains, task, scorer, model),
        }
        for shift, (name, values) in zip((-0.18, 0.18), measured.items(), strict=True):
            before = [row[0] for row in values]
            found = gains(values)
            print(f"{hops} hops, {name:20}", f"v0 {fmean(before):.3f}", *(f"{m:+.3f} ± {s:.3f}" for m, s in found))
            turns = [turn + shift for turn in range(1, hops + 1)]
            axis.bar(turns, [m for m, _ in found], 0.34, yerr=[s for _, s in found], label=name, capsize=2)
        axis.set_title(f"{hops} hops")
        axis.set_xticks(range(1, hops + 1))
        axis.set_xlabel("turn")
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0].set_ylabel("gain, mean ± standard deviation")
    axes[0].legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
