"""The reference's log-probabilities, which a KL penalty is to, are those of TRL's own pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from tests.integrations.parts import add_head, tiny_llama
from tests.integrations.test_kept_answers import trainer


@pytest.mark.parametrize("several_updates", [False, True])
@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_the_reference_is_read_as_by_trl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, several_updates: bool
) -> None:
    """A reference of its own, with other weights, and the base under an adapter, under gradient checkpointing; with old
    log-probabilities beside and without. Of every token of the policy both passes say the same, to 1e-5, and it is not
    what the policy says; the seconds are told apart."""
    peft_config = None
    if kind == "adapter":
        peft = pytest.importorskip("peft")
        peft_config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = trainer(
        tmp_path, peft_config, beta=0.1, gradient_checkpointing=True, steps_per_generation=2 if several_updates else 1
    )
    if kind == "model":
        made.ref_model = tiny_llama(made._tokenizer, seed=1)
        add_head(made.ref_model)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    theirs: list[torch.Tensor] = []
    ours = type(made)._get_per_token_logps_and_entropies

    def both(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = ours(self, *args, **kwargs)
        theirs.append(GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)[0])
        return found

    monkeypatch.setattr(type(made), "_get_per_token_logps_and_entropies", both)
    output = made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])
    assert len(theirs) == 1 + several_updates
    written = (output["turn_ids"] >= 0) & output["completion_mask"].bool()
    assert written.sum() > 50
    torch.testing.assert_close(output["ref_per_token_logps"][written], theirs[-1][written], atol=1e-5, rtol=0)
    if several_updates:
        old = output["old_per_token_logps"][written]
        assert (output["ref_per_token_logps"][written] - old).abs().max() > 1e-3
    assert made._clock.take("train")["seconds/reference"][0] > 0
