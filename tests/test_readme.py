"""What README.md shows runs: its script against TRL as printed, and its commands (its links: tests/docs)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from a2tgpo.cli import main
from tests.integrations.parts import qwen_tokenizer, tiny_llama

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_script_trains_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python block, word for word but for the size of the run, trains a tiny model that stands in its model's
    place; the report's command makes a page of what it left."""
    monkeypatch.chdir(tmp_path)
    tokenizer = qwen_tokenizer()
    tiny_llama(tokenizer).save_pretrained("Qwen/Qwen3-0.6B")
    tokenizer.save_pretrained("Qwen/Qwen3-0.6B")
    rows = [{"prompt": [{"role": "user", "content": f"Who is {n}?"}], "answer": "Bora"} for n in range(8)]
    Path("questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    small = "use_cpu=True, bf16=False, max_steps=1, logging_steps=1, max_completion_length=24, report_to='none', "
    changed = script.replace("A2TGPOConfig(output_dir", f"A2TGPOConfig({small}output_dir")
    torch.manual_seed(0)
    exec(compile(changed, "README.md", "exec"), {})
    assert main(["report", "runs/mine", "-o", "report.html"]) == 0
    assert (Path("report.html")).stat().st_size > 50_000 and len(Path("runs/mine/metrics.jsonl").read_text()) > 100


def test_it_is_short() -> None:
    """A page of at most 150 lines."""
    assert len(TEXT.splitlines()) <= 150
