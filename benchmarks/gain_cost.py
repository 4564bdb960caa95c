"""Time what information gain costs on top of the old log-probabilities.

A²TGPO reads the gold answer's likelihood at every turn boundary. Its reference, and the way everybody else pays, is one
row of tokens for every rollout and boundary. Ours feeds only the suffixes (scaffold and answer), which read the KV
cache that the old-log-probability pass has just filled. This measures, in seconds and relative to that pass alone:

- old log-probabilities: one pass over the trajectories through TRL's fused head, as in the trainer;
- the same, filling the cache;
- gain, KV cache: the suffixes' forwards;
- gain, separate rows: the rows' forwards.

Both ways must agree before anything is timed. In float32: to 1e-4 in log-probability, relative to it below −1 (random
tokens are unlikely, and rounding grows with the logits). In bfloat16: those from the cache may be no further from
float32 rows than bfloat16 rows are, but for chance. A size's rollouts have evenly spread lengths, from half its tokens
to all of them.

Shapes differ in what their layers keep: all keys, those of a window, or a state. An attention without masks, such as
FlashAttention, reads the trajectories where `--attention` says so; on the CPU a stand-in takes its place.

    python benchmarks/gain_cost.py --device cpu
    python benchmarks/gain_cost.py --device cpu --model hybrid
    python benchmarks/gain_cost.py --device cpu --attention stand-in
    python benchmarks/gain_cost.py --device cuda --json results/gain_cost_cuda.json
"""

from __future__ import annotations

import argparse
import copy
import operator
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _measure import SMOLLM2, Case, bandwidth, measure, print_cases, write_json
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
    Qwen3Config,
)
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from trl.trainer.utils import add_fused_lm_head

from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, Scores, fused_forward
from a2tgpo.signals.answer_likelihood.model_support import layers_of

PASS, FILL = "old log-probabilities", "the same, filling the cache"
CACHED, ROWS = "gain, KV cache", "gain, separate rows"
ANSWER_TOKENS = 3
SHAPES: dict[str, Any] = {
    "tiny": LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=512
    ),
    "smollm2": LlamaConfig(**SMOLLM2, max_position_embeddings=8192, tie_word_embeddings=True),
    # Of the build of Gemma 3, Qwen3.5 and LFM2, with the vocabulary of smollm2.
    "sliding": Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=256,
        vocab_size=49152,
    ),
    "hybrid": Qwen3_5TextConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "convolutions": Lfm2Config(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=2,
        vocab_size=49152,
        block_auto_adjust_ff_dim=False,
        layer_types=["conv", "conv", "full_attention"] * 4,
    ),
    "qwen3-4b": Qwen3Config(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
}


class Size(NamedTuple):
    """Hold the longest rollout's tokens, process turns, tokens of a suffix, and rollouts."""

    tokens: int
    turns: int
    suffix: int
    rollouts: int

    @classmethod
    def parse(cls, text: str) -> Size:
        return cls(*map(int, text.split(",")))

    def __str__(self) -> str:
        lengths = f"{self.tokens // 2:,} to {self.tokens:,}" if self.rollouts > 1 else f"{self.tokens:,}"
        return f"{self.rollouts} x {lengths} tokens, {self.turns} turns, suffixes of {self.suffix}"


DEFAULTS = {
    "cpu": ("smollm2", [Size(800, 4, 25, 2)]),
    "cuda": ("qwen3-4b", [Size(2200, 4, 30, 16), Size(4000, 6, 30, 16), Size(8000, 6, 30, 8)]),
}


def rollouts(size: Size, vocabulary: int, device: torch.device) -> dict[str, Tensor]:
    """Draw random tokens: left-padded prompts, turns of 2/5 policy and 3/5 observation, a short answer."""
    lengths = torch.linspace(size.tokens / 2, size.tokens, size.rollouts).long() if size.rollouts > 1 else [size.tokens]
    n_prompt = size.tokens // 8
    n_completion = size.tokens - n_prompt
    ids = torch.randint(10, vocabulary, (size.rollouts, size.tokens), generator=torch.Generator().manual_seed(0))
    prompt_mask = torch.ones(size.rollouts, n_prompt, dtype=torch.long)
    completion_mask = torch.zeros(size.rollouts, n_completion, dtype=torch.long)
    model_mask = torch.zeros_like(completion_mask)
    for row, length in enumerate(int(n) for n in lengths):
        shorter = row % 4 * n_prompt // 8
        prompt_mask[row, :shorter] = 0
        end = min(length - n_prompt + shorter, n_completion)
        completion_mask[row, :end] = 1
        turn = int(end * 0.95) // size.turns
        column = torch.arange(end)
        model_mask[row, :end] = (column % turn < 0.4 * turn) | (column >= turn * size.turns)
    masks = {"prompt_mask": prompt_mask, "completion_mask": completion_mask, "model_mask": model_mask}
    batch = {"prompt_ids": ids[:, :n_prompt], "completion_ids": ids[:, n_prompt:], **masks}
    return {name: tensor.to(device) for name, tensor in batch.items()}


class Bench:
    """Score one model and one size both ways."""

    def __init__(self, model: Any, size: Size, tokens_per_batch: int) -> None:
        self.model, self.size, self.tokens_per_batch = model, size, tokens_per_batch
        self.batch = rollouts(size, model.config.vocab_size, model.device)
        words = Tokenizer(models.WordLevel({"<pad>": 0, "is": 1, "yes": 2}, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
        self.scaffold = AnswerScaffold(" ".join(["is"] * (size.suffix - ANSWER_TOKENS)) + " {answer}")

    def score(self, method: Any, model: Any = None) -> Scores:
        model = self.model if model is None else model
        scorer = AnswerScorer(self.scaffold, self.tokenizer, "log_probability", method=method, count_padding=True)
        answers = [[" ".join(["yes"] * ANSWER_TOKENS)]] * self.size.rollouts
        return scorer.score(
            fused_forward(model), model.config, answers=answers, tokens_per_batch=self.tokens_per_batch, **self.batch
        )

    def check(self) -> dict[str, float]:
        """Return root mean square and largest differences; ends the program where the two ways do not agree."""
        cached, rows = self.score("cached").likelihood, self.score("rows").likelihood
        if self.model.dtype == torch.float32:
            worst = ((cached - rows).abs() / rows.abs().clamp(min=1)).max().item()
            if worst > 1e-4:
                raise SystemExit(f"KV cache and separate rows differ by {worst:.1e} > 1e-4: not timed")
            return {"cached to rows, largest": worst}
        exact = self.score("rows", copy.deepcopy(self.model).float()).likelihood
        rms = [(found - exact).square().mean().sqrt().item() for found in (cached, rows)]
        if rms[0] > 1.5 * rms[1]:  # two such averages over tens of readings of one model differ by so much by chance
            raise SystemExit(
                f"scores from the KV cache are {rms[0]:.1e} from float32 rows, {self.model.dtype} rows {rms[1]:.1e}: "
                "not timed"
            )
        return {"cached to float32 rows, rms": rms[0], "rows to float32 rows, rms": rms[1]}

    def run(self, repeats: int) -> Case:
        facts: dict[str, Any] = {"errors": self.check(), "dtype": str(self.model.dtype), **self.size._asdict()}
        facts["tokens_per_batch"] = self.tokens_per_batch

        def rows() -> dict[str, float]:
            scores = self.score("rows")
            return {PASS: scores.seconds_logps, ROWS: scores.seconds_gain}

        def cached() -> dict[str, float]:
            scores = self.score("cached")
            return {FILL: scores.seconds_logps, CACHED: scores.seconds_gain}

        seconds = measure({"rows": rows, "cached": cached}, self.model.device, repeats=repeats, warmup=0)
        seconds = {name: seconds[name] for name in (PASS, FILL, CACHED, ROWS)}
        share, flops, n_bytes = self.floors()
        bound = n_bytes / bandwidth(self.model.device)
        ratio = statistics.median(map(operator.truediv, seconds[CACHED], seconds[PASS]))  # repeat by repeat
        floors = {
            "suffixes' share of tokens": f"ratio {share:.3f}; cached gain is {ratio / share:.2f} x it",
            "fewest FLOPs of the gain": f"ratio {flops:.3f}",
            "fewest bytes of the gain": f"{bound:.4f} ({n_bytes / 1e9:.2f} GB)",
        }
        return Case(str(self.size), seconds, PASS, floors, facts)

    def floors(self) -> tuple[float, float, float]:
        """Return the gain's tokens and FLOPs over the pass's, and the bytes of weights, keys and values read once.

        FLOPs: two for each weight (embeddings apart) and token; four for each token, key it sees and channel of the
        heads, nothing for updating states; the output head only where a token is read.
        """
        config, found = self.model.config, self.score("cached").boundaries
        embeddings = self.model.get_input_embeddings().weight.numel()
        weights = sum(parameter.numel() for parameter in self.model.base_model.parameters()) - embeddings
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        windows = [layer.window or self.size.tokens for layer in layers_of(config) if layer.attends]
        channels = config.num_attention_heads * head_dim
        vocabulary = config.hidden_size * config.vocab_size
        masks = self.batch["prompt_mask"], self.batch["completion_mask"]
        attended = torch.cat(masks, dim=1).cumsum(1)
        n = attended[:, -1].double()
        prefixes = attended.gather(1, found.columns - 1)[found.exists].double()
        suffix_tokens = len(prefixes) * self.size.suffix

        def flops(tokens: float, keys: Tensor, read: float) -> Tensor:
            seen = torch.stack([keys.clamp(max=window).sum() for window in windows]).sum()
            return 2 * weights * tokens + 4 * channels * seen + 2 * vocabulary * read

        keys = (prefixes[:, None].cpu() + torch.arange(1, self.size.suffix + 1)).flatten()
        gain = flops(suffix_tokens, keys, len(prefixes) * ANSWER_TOKENS)
        each = torch.cat([torch.arange(1, int(length) + 1).double() for length in n])
        trajectory = flops(float(n.sum()), each, float(self.batch["model_mask"].sum()))
        cache = 2 * n.sum() * len(windows) * config.num_key_value_heads * head_dim
        n_bytes = (weights + vocabulary + cache) * self.model.dtype.itemsize
        return suffix_tokens / float(n.sum()), float(gain / trajectory), float(n_bytes)


def shrink(config: Any) -> None:
    """Leave four layers, few words, and narrow where heads allow it."""
    config.num_hidden_layers, config.vocab_size = min(4, config.num_hidden_layers), 512
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    if config.model_type in ("qwen3", "gemma3_text", "qwen3_5_text"):
        config.hidden_size, config.intermediate_size = 64, 128


def load(model: str, device: torch.device, attention: str | None = None) -> Any:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    if model in SHAPES:
        with torch.device(device):
            found = AutoModelForCausalLM.from_config(SHAPES[model], dtype=dtype, attn_implementation=attention)
    else:
        found = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation=attention).to(device)
    add_fused_lm_head(found)
    return found.eval()


def unmasked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attend causally within each row's real tokens, from a 2D mask or none, as FlashAttention does on a GPU."""
    assert attention_mask is None or attention_mask.ndim == 2, "an attention without masks was given one"
    found = torch.zeros_like(query)
    for row in range(len(query)):
        real = torch.arange(query.shape[2]) if attention_mask is None else attention_mask[row].nonzero()[:, 0]
        parts = (x[row : row + 1, :, real] for x in (query, key, value))
        attended = scaled_dot_product_attention(*parts, is_causal=True, scale=scaling, enable_gqa=True)
        found[row, :, real] = attended[0]
    return found.transpose(1, 2), None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", help=f"one of {', '.join(SHAPES)} with random weights, or a model's folder")
    parser.add_argument("--attention", help="the trajectories': stand-in (CPU), flash_attention_2, … (the model's own)")
    parser.add_argument(
        "--size", type=Size.parse, action="append", help="tokens,turns,suffix,rollouts; may be repeated"
    )
    parser.add_argument("--tokens-per-batch", type=int, help="tokens of a forward (4,096; on a GPU 36,864)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--smoke", action="store_true", help="the smallest size, once")
    options = parser.parse_args(arguments)

    model, sizes = DEFAULTS[options.device]
    if options.smoke:
        model, options.size, options.repeats = "tiny", [Size(160, 2, 10, 3)], 1
        if options.model in SHAPES:
            shrink(SHAPES[options.model])
    if options.attention == "stand-in":
        AttentionInterface.register("stand-in", unmasked)
        AttentionMaskInterface.register("stand-in", flash_attention_mask)
    policy = load(options.model or model, torch.device(options.device), options.attention)
    tokens = options.tokens_per_batch or (4096 if options.device == "cpu" else 36864)
    cases = [Bench(policy, size, tokens).run(options.repeats) for size in options.size or sizes]
    name = ", ".join(filter(None, [options.model or model, options.attention]))
    title = f"Cost of information gain, {name}, {str(policy.dtype).removeprefix('torch.')}"
    print_cases(title, cases)
    if options.json is not None:
        write_json(options.json, title, cases)


if __name__ == "__main__":
    main()
