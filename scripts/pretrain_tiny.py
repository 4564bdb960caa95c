"""Pre-train the tiny policies that ship with the package (`a2tgpo/assets`) on generated text.

    python scripts/pretrain_tiny.py --out src/a2tgpo/assets/hops-tiny
    python scripts/pretrain_tiny.py --regions --out src/a2tgpo/assets/hops-regions-tiny

The second starts from the weights of the first as shipped. It reads worlds with regions besides those without, and
follows chains of two to four hops passage by passage, answered before the last in half of the documents: what the
passages so far say about the answer is learned from that.

Every document is about a world of its own, drawn afresh, so that no name can be memorised: what is left to learn is to
copy names, to recall facts from the context, and to read passages in the form a search returns them. No document shows
an agent's turns; how to be one is left to the warm start and to A²TGPO.

Short, copy-dense text comes first, because copying forms there quickest; the second phase reads what was asked for
before the passages, and long rows. The loss counts the words that the context determines in full and all others at a
tenth. As every batch is new, the accuracies logged are held-out accuracies.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from a2tgpo.data.names import Namer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.data.world import REGION_SIZE, RELATIONS, Chain, Entity, World
from a2tgpo.pretrained import EMBEDDED, open_model
from a2tgpo.rollout.protocol import TAGS, render_result

# A document is a list of (text, determined by the context before it).
Document = list[tuple[str, bool]]
Worlds = Callable[[random.Random], World]
CONTEXT_WEIGHT = 0.1


def repeat(rng: random.Random, worlds: Worlds) -> Document:
    """Write names, then the same names again in the same order."""
    names = " ".join(draw_names(rng, rng.randint(2, 6)))
    return [(names, False), (names, True)]


def mark_up(rng: random.Random, worlds: Worlds) -> Document:
    """Write names between random tags and in the short sentences of the protocol, then the same again.

    Makes the tags and words of the protocol known, in no order that an agent would use.
    """
    pieces = []
    for name in draw_names(rng, rng.randint(2, 4)):
        tag = rng.choice(TAGS)
        relation = rng.choice([relation for facts in RELATIONS.values() for relation in facts])
        inside = rng.choice((name, name, f"I need the {relation} of {name}.", "I now know the answer.", "no results"))
        pieces.append(f"<{tag}> {inside} </{tag}>")
    marked = " ".join(pieces)
    return [(marked, False), (marked, True)]


def recall(rng: random.Random, worlds: Worlds) -> Document:
    """Write facts, then the same facts in another order."""
    world = worlds(rng)
    facts = rng.sample(facts_of(world, rng.sample(world.entities, 4)), rng.randint(2, 4))
    document = [(" ".join(map(sentence, facts)), False)]
    for fact in rng.sample(facts, len(facts)):
        start, end = sentence(fact).split(" is ")
        document += [(f"{start} is", False), (end, True)]
    return document


def read(rng: random.Random, worlds: Worlds) -> Document:
    """Write something asked, what a search for its subject returns, the answer; once or several times."""
    world = worlds(rng)
    document: Document = []
    for _ in range(rng.randint(1, 4)):
        asked = rng.choice(facts_of(world, world.entities))
        document += [(ask(rng, asked), False), result(world, search(rng, world, asked.entities[0])), box(asked)]
    return document


def study(rng: random.Random, worlds: Worlds) -> Document:
    """Write passages, then questions on them."""
    world = worlds(rng)
    entities = rng.sample(world.entities, rng.randint(1, 3))
    facts = facts_of(world, entities)
    document = [result(world, entities)]
    for fact in rng.sample(facts, min(len(facts), 5)):
        document += [(fact.question, False), box(fact)]
    return document


def quiz(rng: random.Random, worlds: Worlds) -> Document:
    """Write passages and questions on them, the first question before or after the passages; once or twice."""
    world = worlds(rng)
    document: Document = []
    for _ in range(rng.randint(1, 2)):
        entities = rng.sample(world.entities, rng.randint(1, 3))
        asked = facts_of(world, entities)
        asked = rng.sample(asked, min(len(asked), rng.randint(2, 6)))
        opening = [(asked[0].question, False), result(world, entities)]
        document += opening if rng.random() < 0.6 else opening[::-1]
        document.append(box(asked[0]))
        for fact in asked[1:]:
            document += [(fact.question, False), box(fact)]
    return document


def reason(rng: random.Random, worlds: Worlds) -> Document:
    """Write a question of two or three hops before or after the passages that answer it, answered fact by fact."""
    world = worlds(rng)
    chain = next(world.chains(rng, "train", (rng.randint(2, 3),), 1))
    found = list(chain.entities[:-1])
    opening = [(chain.question, False), result(world, rng.sample(found, len(found)))]
    return [*(opening[::-1] if rng.random() < 0.3 else opening), *steps_of(chain)]


def sift(rng: random.Random, worlds: Worlds) -> Document:
    """Write as `reason`, with a passage among the others that may not belong."""
    world = worlds(rng)
    chain = next(world.chains(rng, "train", (rng.randint(2, 3),), 1))
    strangers = [entity for entity in world.entities if entity not in chain.entities]
    found = [*chain.entities[:-1], *rng.sample(strangers, rng.randint(0, 1))]
    opening = [(chain.question, False), result(world, rng.sample(found, len(found)))]
    return [*(opening if rng.random() < 0.5 else opening[::-1]), *steps_of(chain)]


def chase(rng: random.Random, worlds: Worlds) -> Document:
    """Write a question of two to four hops and look up one entity after the other; answer after the last, or before."""
    world = worlds(rng)
    chain = next(world.chains(rng, "train", (rng.randint(2, 4),), 1))
    hops = len(chain.relations)
    n_read = rng.choice((hops, rng.randrange(hops)))
    document: Document = [(chain.question, False)]
    for hop, start in enumerate(chain.entities[:n_read]):
        need = f"I need the {chain.relations[hop]} of {start.name}.", True
        document += [need, result(world, search(rng, world, start))]
    return [*document, box(chain)]


def draw_names(rng: random.Random, n: int) -> list[str]:
    namer = Namer(rng)
    return [rng.choice((namer.person, namer.place, namer.organisation))() for _ in range(n)]


def new_world(rng: random.Random) -> World:
    return World.generate(rng.getrandbits(32), n_train=20, n_eval=0)


def mixed_world(rng: random.Random) -> World:
    """Draw a world with regions two times of three, of 2 to 8 of them; else one as above."""
    if rng.random() < 2 / 3:
        return World.generate(rng.getrandbits(32), rng.randint(2, 8) * REGION_SIZE, 0, correlation=1.0)
    return new_world(rng)


def facts_of(world: World, entities: Sequence[Entity]) -> list[Chain]:
    return [
        Chain((entity, world[target]), (relation,)) for entity in entities for relation, target in entity.facts.items()
    ]


def sentence(fact: Chain) -> str:
    return f"The {fact.relations[0]} of {fact.entities[0].name} is {fact.answer}."


def ask(rng: random.Random, fact: Chain) -> str:
    return rng.choice((fact.question, f"I need the {fact.relations[0]} of {fact.entities[0].name}."))


def search(rng: random.Random, world: World, subject: Entity) -> list[Entity]:
    """Return `subject`, then up to two others, rather those that mention it, as a search for its name ranks them."""
    others = [other for other in rng.sample(world.entities, len(world.entities)) if other != subject]
    others.sort(key=lambda other: subject.id not in other.facts.values())
    return [subject, *others[: rng.randint(0, 2)]]


def result(world: World, entities: list[Entity]) -> tuple[str, bool]:
    return render_result(map(world.passage, entities)), False


def steps_of(chain: Chain) -> Document:
    facts = zip(chain.entities, chain.relations, chain.entities[1:], strict=False)
    steps = [f"The {relation} of {start.name} is {end.name}." for start, relation, end in facts]
    return [*((step, True) for step in steps), box(chain)]


def box(chain: Chain) -> tuple[str, bool]:
    return f"\\boxed{{{chain.answer}}}", True


Task = Callable[[random.Random, Worlds], Document]


@dataclass(frozen=True)
class Stage:
    """Hold `steps` batches of `rows` sequences of `length` tokens, each document of a task drawn by its share."""

    steps: int
    rows: int
    length: int
    shares: dict[Task, float]
    worlds: Worlds = new_world


@dataclass(frozen=True)
class Phase:
    """Hold stages under one learning-rate schedule, with documents of their own seed."""

    seed: int
    learning_rate: float
    stages: tuple[Stage, ...]


CURRICULUM = (
    Phase(
        seed=0,
        learning_rate=5e-3,
        stages=(
            Stage(900, 32, 48, {repeat: 1.0}),
            Stage(600, 28, 80, {repeat: 0.3, mark_up: 0.3, recall: 0.4}),
            Stage(2200, 12, 224, {repeat: 0.1, mark_up: 0.1, recall: 0.2, quiz: 0.4, sift: 0.2}),
            Stage(500, 6, 512, {repeat: 0.05, mark_up: 0.05, recall: 0.1, quiz: 0.5, sift: 0.3}),
        ),
    ),
    Phase(
        seed=2,
        learning_rate=2.5e-3,
        stages=(
            Stage(300, 8, 320, {repeat: 0.06, mark_up: 0.06, recall: 0.08, read: 0.4, study: 0.25, reason: 0.15}),
            Stage(500, 3, 900, {repeat: 0.05, mark_up: 0.05, recall: 0.05, read: 0.5, study: 0.2, reason: 0.15}),
        ),
    ),
)

_REGIONS = {repeat: 0.05, recall: 0.1, read: 0.15, study: 0.1, reason: 0.1, chase: 0.5}
REGIONS_CURRICULUM = (
    Phase(
        seed=3,
        learning_rate=2.5e-3,
        stages=(
            Stage(600, 8, 384, _REGIONS, mixed_world),
            Stage(400, 4, 768, _REGIONS, mixed_world),
        ),
    ),
)


class Batches:
    """Fill token rows with whole documents one after the other, the last one cut at the end of the row."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._rng = random.Random(seed)
        self._end = tokenizer.eos_token_id
        # Pieces never span white space, so a text is the sum of its words.
        self._word = lru_cache(maxsize=100_000)(lambda word: tokenizer(word, add_special_tokens=False)["input_ids"])

    def draw(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw ids and, of the same shape, each token's task by its place in the stage; -1 where none determines it."""
        rows = [self._row(stage) for _ in range(stage.rows)]
        ids, tasks = zip(*rows, strict=True)
        return torch.tensor(ids), torch.tensor(tasks)

    def _row(self, stage: Stage) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        tasks: list[int] = []
        while len(ids) < stage.length:
            index = self._rng.choices(range(len(stage.shares)), list(stage.shares.values()))[0]
            for text, determined in list(stage.shares)[index](self._rng, stage.worlds):
                new = [token for word in text.split() for token in self._word(word)]
                ids += new
                tasks += [index if determined else -1] * len(new)
            ids.append(self._end)
            tasks.append(-1)
        return ids[: stage.length], tasks[: stage.length]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a policy of 0.7 M parameters: four layers, 128 wide."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            initializer_range=0.08,  # 1 / sqrt(128): the default of 0.02 is for wide models and starts too flat
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices, which finds copying in far fewer steps, and AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(phase: Phase) -> Iterator[tuple[int, Stage, float]]:
    """Yield (step, stage, learning rate): 100 steps of warm-up, then a cosine to 2 % over the whole phase."""
    stages = [stage for stage in phase.stages for _ in range(stage.steps)]
    for step, stage in enumerate(stages):
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / len(stages)))
        yield step, stage, phase.learning_rate * min(1.0, (step + 1) / 100) * decay


def train(model: LlamaForCausalLM, batches: Batches, phase: Phase) -> None:
    """Run one phase and print, every 50 steps, the share of each task's determined tokens predicted right."""
    updates = optimizers(model, phase.learning_rate)
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    started = time.perf_counter()
    for step, stage, learning_rate in schedule(phase):
        ids, tasks = batches.draw(stage)
        target, task = ids[:, 1:], tasks[:, 1:]
        logits = model(input_ids=ids[:, :-1]).logits
        weight = torch.where(task >= 0, 1.0, CONTEXT_WEIGHT)
        loss = functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        ((loss * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for update in updates:
            for group in update.param_groups:
                group["lr"] = learning_rate
            update.step()
            update.zero_grad()
        hit = logits.argmax(-1) == target
        for index, name in enumerate(function.__name__ for function in stage.shares):
            right[name] += int(hit[task == index].sum())
            seen[name] += int((task == index).sum())
        if step % 50 == 49:
            accuracy = {name: round(right[name] / total, 4) for name, total in seen.items() if total}
            print(
                json.dumps({"step": step + 1, "seconds": round(time.perf_counter() - started), **accuracy}), flush=True
            )
            right.clear()
            seen.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for weights, config and tokenizer")
    parser.add_argument("--regions", action="store_true", help="go on from hops-tiny, with worlds that have regions")
    args = parser.parse_args()
    # More threads than one do not pay at this size, and make the result depend on the machine.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(args.out)
    model = open_model(EMBEDDED, dtype=torch.float32) if args.regions else build_model(tokenizer)
    for phase in REGIONS_CURRICULUM if args.regions else CURRICULUM:
        train(model, Batches(tokenizer, phase.seed), phase)
        digest = save(model, args.out)
        # The next phase starts from the weights as stored.
        model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    print(f"weights sha256 {digest}", flush=True)


def save(model: LlamaForCausalLM, out: Path) -> str:
    """Write the weights in bfloat16 and return their SHA-256."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
