"""The pre-trained policies that ship with the package: what their model cards claim."""

from __future__ import annotations

import hashlib
import random
import re
from itertools import pairwise
from pathlib import Path
from statistics import correlation, fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from a2tgpo.data.ideal_reader import IdealReader
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.data.world import World
from a2tgpo.pretrained import EMBEDDED, EMBEDDED_REGIONS, resolve
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.rollout.protocol import render_result

_N = 64


@pytest.fixture(scope="module", params=[EMBEDDED, EMBEDDED_REGIONS])
def folder(request: pytest.FixtureRequest) -> Path:
    return Path(resolve(request.param))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@torch.no_grad()
def _greedy_matches(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, context: str, answer: str) -> bool:
    """Whether greedy decoding after `context` would write `answer` and close the box."""
    prefix, wanted = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, f"{answer}}}"))
    logits = model(input_ids=torch.tensor([prefix + wanted])).logits[0]
    return logits[len(prefix) - 1 : -1].argmax(-1).tolist() == wanted


def test_the_card_names_these_weights(folder: Path, model: LlamaForCausalLM) -> None:
    """The SHA-256 and the number of parameters in the card are those of the files beside it."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card
    claimed = re.search(r"([\d,]+) parameters", card)
    assert claimed is not None
    assert int(claimed[1].replace(",", "")) == model.num_parameters()


def test_the_tokenizer_is_the_built_one(tokenizer: PreTrainedTokenizerBase, model: LlamaForCausalLM) -> None:
    """The shipped tokenizer has the vocabulary the code builds, and the model an embedding for each entry."""
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_it_copies_unseen_names(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """A fact on never-seen names, stated among others, is repeated word for word."""
    right = 0
    for seed in range(_N):
        world, rng = World.generate(50_000 + seed, 20, 0), random.Random(seed)
        facts = [
            (f"The {relation} of {entity.name} is", world[target].name)
            for entity in rng.sample(world.entities, 3)
            for relation, target in entity.facts.items()
        ]
        start, name = rng.choice(facts)
        context = " ".join(f"{said} {of}." for said, of in facts) + f" {start}"
        prefix, wanted = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, name))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prefix + wanted])).logits[0]
        right += logits[len(prefix) - 1 : -1].argmax(-1).tolist() == wanted
    assert right / _N > 0.9


def test_it_reads_search_results(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Given a question of one hop and what BM25 returns for its name, greedy decoding boxes the whole answer."""
    right = 0
    for seed in range(_N):
        world = World.generate(60_000 + seed, 40, 0)
        (row,) = world.questions(hops=(1,), n=1, seed=seed)
        retriever = BM25Retriever.from_passages(world.passages, title_weight=3)
        (hits,) = retriever.search([world[row["supporting_ids"][0]].name], 3)
        context = f"{row['question']} {render_result(hit.passage for hit in hits)} \\boxed{{"
        right += _greedy_matches(model, tokenizer, context, row["answer"][0])
    assert right / _N > 0.8


def test_it_is_no_agent_yet(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Asked a question, it does not begin a turn of the protocol: that is for the warm start to teach."""
    prompts = [row["question"] for row in World.generate(7, 40, 0).questions(n=8)]
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.size(1) :]
        assert "<search>" not in tokenizer.decode(written)


@pytest.mark.parametrize("folder", [EMBEDDED_REGIONS], indirect=True)
def test_it_knows_what_is_still_possible(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """In worlds with regions its likelihood of the answer after so many right passages follows the true one: the
    correlation over 48 chains of three hops is above .8, and passages before the last are worth .05 and more."""
    true, believed = [], []
    for seed in range(_N * 3 // 4):
        world = World.generate(70_000 + seed, 324, 0, correlation=1.0)
        reader = IdealReader(world)
        (chain,) = world.chains(random.Random(seed), "train", (3,), 1)
        context = chain.question
        for n_read, (entity, relation) in enumerate(zip(chain.entities, [*chain.relations, ""], strict=True)):
            true.append(reader.likelihood(chain, n_read))
            believed.append(_likelihood(model, tokenizer, f"{context} \\boxed{{", chain.answer))
            context += f" I need the {relation} of {entity.name}. {render_result([world.passage(entity)])}"
    assert correlation(true, believed) > 0.8
    by_turn = [fmean(believed[turn::4]) for turn in range(4)]
    assert all(after - before > 0.05 for before, after in pairwise(by_turn))


@torch.no_grad()
def _likelihood(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, context: str, answer: str) -> float:
    """exp(mean log p) of the tokens of `answer`."""
    prefix, wanted = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, answer))
    logps = model(input_ids=torch.tensor([prefix + wanted])).logits[0].log_softmax(-1)
    return float(logps[range(len(prefix) - 1, len(prefix + wanted) - 1), wanted].mean().exp())
