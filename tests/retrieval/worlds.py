"""A small world to search, and encoders that need no hub."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from a2tgpo.retrieval import Passage

_SYLLABLES = ["or", "el", "va", "sk", "ti", "na", "kol", "mi", "re", "dun", "pa", "sel", "gri", "zo"]
WORDS = sorted({"".join(random.Random(i).choices(_SYLLABLES, k=3)) for i in range(200)})
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def passages(n: int, seed: int = 0) -> list[Passage]:
    """n passages of random words, of a vocabulary small enough for many to share words."""
    choose = random.Random(seed).choices
    return [Passage(f"p{i}", " ".join(choose(WORDS, k=2)), " ".join(choose(WORDS, k=12))) for i in range(n)]


def write_corpus(path: Path, corpus: Iterable[Passage]) -> Path:
    """A corpus file in the form that Search-R1 publishes."""
    rows = ({"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in corpus)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_encoder(folder: Path, *, seed: int = 0, dimension: int = 32, prompts: dict[str, str] | None = None) -> Path:
    """A sentence-transformers model with random weights: one BERT layer over whole words, mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    tokens = [*_SPECIAL, '"', ":", "query", "passage", *WORDS]
    bert = folder.with_name(f"{folder.name}-bert")
    BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}).save_pretrained(bert)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=dimension,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * dimension,
        max_position_embeddings=256,
        initializer_range=1.0,  # weights of the usual size map all texts to nearly one vector
    )
    BertModel(config).save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=256), Pooling(dimension)]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder))
    return folder


def write_static_encoder(folder: Path) -> Path:
    """A model without a transformer and without a limit of length: the mean of random vectors of words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").save(str(folder))
    return folder
