"""Pre-train the two throw-away policies of the guessing games (`a2tgpo/assets/guess-number`, `mastermind`).

    python scripts/pretrain_games.py guess-number --out src/a2tgpo/assets/guess-number
    python scripts/pretrain_games.py mastermind --out src/a2tgpo/assets/mastermind

Every document is a game under TextArena's rules: some guesses, then the secret in the words of the scorer's scaffold.
A guess is one that fits what the game has said so far, or, as often as `CARELESS`, any: the policy plays weakly.
Whether to guess or to answer is not learned (the first token of the answer carries no loss), so it always guesses.

Each sentence of a game is one token, so that a rollout is short. Games are drawn afresh for every step, so what is
printed is held out: the correlation of the policy's gains with the true ones, by turn.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import random
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from a2tgpo.data.guessing_games import CodeGame, GuessingGame, NumberGame, Secret, true_gains
from a2tgpo.data.tokenizer import EOS, PAD, ROLE_TOKENS, UNKNOWN, wrap_tokenizer

TAGS = tuple(f"<{slash}{tag}>" for tag in ("think", "guess", "result", "answer") for slash in ("", "/"))
SENTENCES = (
    (r"You are Player 0\. You are playing Guess The Number\.[\s\S]*?Enter your guess\.", "rules"),
    (r"You are playing Mastermind\.[\s\S]*?turns to guess the code\.", "rules"),
    (r"The target number is higher\.", "higher"),
    (r"The target number is lower\.", "lower"),
    (r"Submitted \[[\d ]*\]\. Feedback:", ""),
    (r"black peg\(s\),", "black"),
    (r"white peg\(s\)\.", "white"),
    (r"Congratulations! You guessed the correct number\.", "correct"),
    (r"You have cracked the code, solving \d+ out of \d+ pegs correctly", "correct"),
    (r"You attempted an invalid move\.[\s\S]*?avoid penalties\.", "invalid"),
    (r"Invalid Move: .*", "invalid"),
    (r"(The turn limit has been reached|Turn limit reached)\..*", "over"),
    (r"I now know the answer\.", "ready"),
)
"""Give each sentence of the games and the scaffold the word that is its one token."""

GAMES: dict[str, GuessingGame] = {"guess-number": NumberGame(64), "mastermind": CodeGame(2, 8)}
GUESSES = 6
CARELESS, REFUSED = 0.4, 0.03
"""Shares of guesses that may be any, and of those that the game refuses."""
GUESS_WEIGHT, FORM_WEIGHT = 0.3, 0.1
"""Of a guess's numbers, and of what is around them, beside 1 for the answer's."""


def build_tokenizer(game: GuessingGame) -> PreTrainedTokenizerFast:
    """Build a tokenizer of a token for each number, tag and sentence."""
    words = dict.fromkeys(word for _, word in SENTENCES if word)
    numbers = [str(number) for number in range(max(map(max, game.secrets)) + 1)]
    vocabulary = [PAD, EOS, UNKNOWN, *ROLE_TOKENS, *TAGS, "\\boxed{", "}", "play", *words, *numbers]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(said), f" {word} ") for said, word in SENTENCES]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("}", "isolated")]
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return wrap_tokenizer(backend, (*TAGS, "\\boxed{"))


@dataclass(frozen=True)
class Game:
    """Hold a game played: the secret, each guess with the words that answer it, the secrets left from the start."""

    secret: Secret
    turns: tuple[tuple[Secret, str], ...]
    counts: tuple[int, ...]


class Player:
    """Play games as the documents show them."""

    def __init__(self, game: GuessingGame, seed: int) -> None:
        self.game, self._rng = game, random.Random(seed)
        self._feedback = lru_cache(maxsize=None)(game.feedback)

    def play(self, guesses: int) -> Game:
        """Play `guesses` guesses, fewer where the secret is hit."""
        secret = self._rng.choice(self.game.secrets)
        possible, turns, counts = list(self.game.secrets), [], [len(self.game.secrets)]
        made: set[Secret] = set()
        while len(turns) < guesses and secret not in made:
            if made and self._rng.random() < REFUSED:
                turns.append((self._rng.choice(sorted(made)), "invalid"))
            else:
                open_ = [other for other in self.game.secrets if other not in made]
                guess = self._rng.choice(open_ if self._rng.random() < CARELESS else possible)
                made.add(guess)
                said = self._feedback(guess, secret)
                possible = [other for other in possible if self._feedback(guess, other) == said]
                turns.append((guess, said if isinstance(said, str) else _pegs(said, secret)))
            counts.append(len(possible))
        return Game(secret, tuple(turns), tuple(counts))


def _pegs(said: tuple[int, int], secret: Secret) -> str:
    black, white = said
    return "correct" if black == len(secret) else f"{black} black {white} white"


Pieces = list[tuple[str, float]]
"""Text with the weight of its tokens in the loss."""


def document(game: Game) -> Pieces:
    """Write a game and its answer."""
    pieces: Pieces = [("<|user|> play rules <|assistant|>", 0.0)]
    for guess, said in game.turns:
        pieces += [("<guess>", FORM_WEIGHT), (_join(guess), GUESS_WEIGHT if said != "invalid" else 0.0)]
        pieces += [("</guess>", FORM_WEIGHT), (f"<result> {said} </result>", 0.0)]
    return [*pieces, ("<think>", 0.0), ("ready </think> <answer> \\boxed{", FORM_WEIGHT), (_join(game.secret), 1.0)]


def _join(numbers: Secret) -> str:
    return " ".join(map(str, numbers))


class Encoder:
    """Turn documents into padded rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._ids = lru_cache(maxsize=None)(
            lambda text: tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        )

    def __call__(self, documents: list[Pieces]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and weights, [B, L]; padding weighs 0."""
        rows = [[(token, weight) for text, weight in pieces for token in self._ids(text)] for pieces in documents]
        length = max(map(len, rows))
        padded = torch.tensor([row + [(0, 0.0)] * (length - len(row)) for row in rows], dtype=torch.float64)
        return padded[..., 0].long(), padded[..., 1].float()


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """Make a policy of some 0.2 M parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            initializer_range=1 / math.sqrt(width),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(model: LlamaForCausalLM, encode: Encoder, player: Player, steps: int, rows: int, peak: float) -> None:
    """Train on `rows` new games a step: 100 steps of warm-up, then a cosine to 2 % of `peak`."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    updates = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rng, started = random.Random(1), time.perf_counter()
    losses: list[float] = []
    for step in range(steps):
        rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        ids, weights = encode([document(player.play(rng.randint(0, GUESSES))) for _ in range(rows)])
        logits = model(input_ids=ids[:, :-1]).logits
        loss = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        weight = weights[:, 1:]
        mean = (loss * weight).sum() / weight.sum()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for update in updates:
            for group in update.param_groups:
                group["lr"] = rate
            update.step()
            update.zero_grad()
        losses.append(float((loss.detach() * (weight == 1)).sum() / (weight == 1).sum()))
        if step % 250 == 249 or step == steps - 1:
            shown = {"step": step + 1, "seconds": round(time.perf_counter() - started)}
            shown |= {"answer_loss": round(float(np.mean(losses[-250:])), 4)}
            print(json.dumps(shown | correlations(model, encode, player.game)), flush=True)


@torch.no_grad()
def correlations(
    model: LlamaForCausalLM, encode: Encoder, game: GuessingGame, games: int = 400
) -> dict[str, list[float]]:
    """Return the correlation of the policy's gains with the true ones by turn, of both forms, over new games."""
    player = Player(game, seed=10**6)
    played = [player.play(GUESSES) for _ in range(games)]
    length = len(game.secrets[0])
    values = []
    for turns in range(GUESSES + 1):
        cut = [Game(one.secret, one.turns[:turns], one.counts[: turns + 1]) for one in played]
        ids, weights = encode([document(one) for one in cut])
        logps = model(input_ids=ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        values.append(((logps * (weights[:, 1:] == 1)).sum(1) / length).tolist())
    found: dict[str, list[float]] = {}
    for form in ("probability", "log_probability"):
        found[form] = []
        for turn in range(GUESSES):
            pairs = []
            for k, one in enumerate(played):
                if turn < len(one.turns):
                    before, after = values[turn][k], values[turn + 1][k]
                    ours = after - before if form == "log_probability" else math.exp(after) - math.exp(before)
                    pairs.append((ours, true_gains(one.counts, length, form)[turn]))
            found[form].append(round(float(np.corrcoef(np.array(pairs).T)[0, 1]), 3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", choices=sorted(GAMES))
    parser.add_argument("--out", type=Path, required=True, help="directory for weights, config and tokenizer")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    game = GAMES[args.game]
    tokenizer = build_tokenizer(game)
    model = build_model(tokenizer, args.width, args.layers)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, {len(game.secrets)} secrets", flush=True)
    train(model, Encoder(tokenizer), Player(game, seed=0), args.steps, args.rows, args.learning_rate)
    tokenizer.save_pretrained(args.out)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(args.out)
    print(f"weights sha256 {hashlib.sha256((args.out / 'model.safetensors').read_bytes()).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
