"""A run directory as a run would leave it, small and invented, with its credit from core."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from a2tgpo.core import clip_scale, information_gain, turn_credit
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.pipeline.rollout_log import updates_file
from a2tgpo.report.figures import SECTIONS

HOSTILE = (
    '<script>document.title = "owned"</script> </script><!-- <img src=x onerror="document.title=1"> '
    "</result> \"quoted\" 'single' & &amp; \u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd {{ 7 * 7 }} \u2028"
    " \\u0000"
)
"""What a model or a passage may say, all of it text."""

RECIPE: dict[str, Any] = {"model_name_or_path": "tiny", "max_steps": 8, "steps_per_generation": 2}


FIGURES = [id for ids in SECTIONS.values() for id in ids if id != "solved"]
"""The figures of a run that has everything but an environment, which alone says what is solved."""


@dataclass
class Spoken:
    """Texts of a rollout: what each process turn said and read, and how it closed."""

    searches: Sequence[tuple[str, str]]
    last: str


def speak(question: int, rollout: int, n_process: int) -> Spoken:
    """A rollout of `n_process` searches."""
    searches = [
        (f"<think> part {turn} </think> <search> term{rollout % 2} {turn} </search>", f"<result> fact {turn} </result>")
        for turn in range(n_process)
    ]
    return Spoken(searches, f"<think> done </think> <answer> \\boxed{{gold{question}}} </answer>")


def write_run(
    path: Path,
    *,
    batches: int = 3,
    questions: int = 2,
    rollouts: int = 4,
    say: Callable[[int, int, int], Spoken] = speak,
    updates: bool = True,
    seed: int = 0,
    **recipe: Any,
) -> Path:
    """A run of `batches` generation batches, two updates each."""
    generator = random.Random(seed)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(RECIPE | {"seed": seed} | recipe))
    (path / "rollouts").mkdir()
    for batch in range(batches):
        records = [
            record
            for question in range(questions)
            for record in _group(generator, 2 * batch, question, rollouts, say, recipe.get("gain_alpha", 1.0))
        ]
        stem = path / "rollouts" / f"step_{2 * batch:06d}"
        _write_lines(stem.with_suffix(".jsonl"), records)
        if updates:
            lines = [_update(generator, 2 * batch + 1, row, record) for row, record in enumerate(records)]
            _write_lines(updates_file(stem.with_suffix(".jsonl")), lines)
    _write_lines(path / "metrics.jsonl", [_metrics(generator, step) for step in range(1, 2 * batches + 1)])
    return path


def write_evaluation(path: Path, name: str, correct: Sequence[bool], text: str = "said") -> None:
    """An evaluation of one question for each of `correct`."""
    (path / "eval").mkdir(parents=True, exist_ok=True)
    outcomes = [
        Outcome(
            id=str(number),
            question=f"question {number}?",
            answer=["gold"],
            hops=1 + number % 2,
            dataset="made",
            prediction="gold" if right else "lead",
            correct=right,
            f1=float(right),
            contains=right,
            termination="answered",
            reason="",
            searches=1,
            queries=["term"],
            policy_tokens=9,
            total_tokens=40,
            text=f"{text} {number}",
        )
        for number, right in enumerate(correct)
    ]
    _write_lines(path / "eval" / f"{name}.jsonl", [asdict(outcome) for outcome in outcomes])


def write_episodes(path: Path, name: str, rewards: Sequence[float], *, solved: bool) -> None:
    """An evaluation of an episode for each of `rewards`, of an environment that knows no answer; where it says what is
    `solved`, those with a reward above 0 are."""
    write_evaluation(path, name, [reward > 0 for reward in rewards])
    file = path / "eval" / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row, reward in zip(rows, rewards, strict=True):
        row |= {"answer": [], "hops": None, "prediction": None, "termination": "environment_done", "reward": reward}
        row |= {"question": "Play.", "success": reward > 0 if solved else None, "correct": solved and reward > 0}
        row |= {"text": "<move> down </move> <result> H </result>", "queries": ["down"]}
    _write_lines(file, rows)


def save_tokenizer(path: Path) -> dict[int, str]:
    """Give a run the generated world's tokenizer and rollouts of its tokens, the first of each segment excepted, which
    it does not know; its texts."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path / "model")
    for file in (path / "rollouts").glob("step_??????.jsonl"):
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for segment in (segment for record in records for segment in record["segments"]):
            first, *others = segment["ids"]
            segment["ids"] = [len(tokenizer) + first, *(token % len(tokenizer) for token in others)]
        _write_lines(file, records)
    return {token: text for text, token in tokenizer.get_vocab().items()}


def tokenize(text: str) -> list[int]:
    """An id per word, the same in every process."""
    return [sum(word.encode()) * 31 % 50021 for word in text.split()]


def _group(
    generator: random.Random, step: int, question: int, n: int, say: Callable[[int, int, int], Spoken], alpha: float
) -> list[dict[str, Any]]:
    n_process = [1 + rollout % 3 for rollout in range(n)]
    width = max(n_process) + 1
    is_process = torch.arange(width) < torch.tensor(n_process)[:, None]
    likelihood = torch.tensor([[generator.random() for _ in range(width + 1)] for _ in range(n)])
    reward = torch.tensor([float(rollout % 2 == 0) for rollout in range(n)])
    gain = information_gain(likelihood, is_process)
    n_turns = torch.tensor(n_process) + 1
    credit = turn_credit(gain, is_process, reward, torch.zeros(n, dtype=torch.long), alpha=alpha, n_turns=n_turns)
    scale = clip_scale(credit.normalized_gain, is_process)
    records = []
    for i, (process, turns) in enumerate(zip(n_process, n_turns.tolist(), strict=True)):
        spoken = say(question, i, process)
        texts = [*((t, text) for t, pair in enumerate(spoken.searches) for t, text in ((t, pair[0]), (-1, pair[1])))]
        segments = [*texts, (process, spoken.last), (-1, "<|end|>")]
        right = bool(reward[i])
        records.append(
            {
                "step": step,
                "group": question,
                "id": f"q{question}",
                "hops": 1 + question,
                "prompt": f"question {question} of step {step}?",
                "answer": [f"gold{question}"],
                "segments": [{"turn": turn, "text": text, "ids": tokenize(text)} for turn, text in segments],
                "termination": "answered" if right or i % 4 == 1 else "malformed",
                "reason": "" if right or i % 4 == 1 else "expected another tag",
                "prediction": f"gold{question}" if right else "lead" if i % 4 == 1 else None,
                "calls": [{"query": f"term {turn}", "passage_ids": ["p"]} for turn in range(process)],
                "reward": reward[i].item(),
                "valid": True,
                "likelihood": likelihood[i, : process + 1].tolist(),
                "gain": gain[i, :process].tolist(),
                "normalized_gain": credit.normalized_gain[i, :process].tolist(),
                "advantage": credit.advantage[i, :turns].tolist(),
                "clip_low": (1 - 0.02 * scale[i, :turns]).tolist(),
                "clip_high": (1 + 0.05 * scale[i, :turns]).tolist(),
            }
        )
    return records


def _update(generator: random.Random, step: int, row: int, record: dict[str, Any]) -> dict[str, Any]:
    written = [len(segment["ids"]) for segment in record["segments"] if segment["turn"] >= 0]
    log_ratio = [[generator.gauss(0, 0.05) for _ in range(n)] for n in written]
    ratio = [math.exp(sum(turn) / len(turn)) for turn in log_ratio]
    return {
        "row": row,
        "step": step,
        "ratio": ratio,
        "clipped": [abs(s - 1) > 0.02 for s in ratio],
        "log_ratio": [value for turn in log_ratio for value in turn],
    }


def _metrics(generator: random.Random, step: int) -> dict[str, Any]:
    update = {
        "step": step,
        "loss": generator.gauss(0, 0.1),
        "grad_norm": 1.0,
        "entropy": 1 / step,
        "loss/clipped_low": 0.1,
        "loss/clipped_high": 0.2,
        "loss/approx_kl": 0.001,
        "step_time": 1.5 if step % 2 == 0 else 4.0,
        "seconds/update": 1.0,
        "seconds/optimizer": 0.25,
    }
    if step % 2 == 0:
        return update
    batch = {"reward": step / 10, "rollout/searches": 2.0, "rollout/format_rate": 0.9}
    seconds = {"seconds/generation": 2.0, "seconds/old_logps": 0.5, "seconds/gain": 0.25}
    return update | batch | seconds | {"likelihood/before": 0.1, "likelihood/after": 0.4}


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
