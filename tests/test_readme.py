"""What README.md shows runs: its script against TRL as printed, its commands and the files that it points to."""

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
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)[^)]*\)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    """Every relative link of the page is a file of the repository."""
    assert (ROOT / link).exists()


def test_it_is_short() -> None:
    """A page of at most 150 lines."""
    assert len(TEXT.splitlines()) <= 150


def test_the_worked_turn_group_of_the_glossary() -> None:
    """Its numbers are the core's."""
    from a2tgpo.core import accumulate, clip_scale, normalize_turn_groups

    gain = torch.tensor([[0.0, 0.1], [0.0, 0.4], [0.0, 0.1], [0.0, 0.0]], dtype=torch.float64)
    process = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    scores = normalize_turn_groups(gain, process, torch.zeros(4, dtype=torch.long))[:, 1]
    assert scores.tolist() == pytest.approx([-0.707, 1.414, -0.707, 0.0], abs=1e-3)
    normalized = torch.tensor([[0.5, scores[1]]], dtype=torch.float64)
    credit = accumulate(normalized, torch.ones(1, 2, dtype=torch.bool))
    assert credit[0].tolist() == pytest.approx([1.354, 1.414], abs=1e-3)
    scale = clip_scale(normalized, torch.ones(1, 2, dtype=torch.bool))[0, 1].item()
    assert (1 - 3e-3 * scale, 1 + 4e-3 * scale) == (pytest.approx(0.9965, abs=1e-4), pytest.approx(1.0047, abs=1e-4))
    for number in ("−.707, 1.414 and −.707", "1.354", "1.183", ".9965", "1.0047"):
        assert number in GLOSSARY
