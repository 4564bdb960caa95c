"""A rollout server for machines without a GPU; it imports verl only once it is asked, so that it unpickles alone."""

from __future__ import annotations

from typing import Any

import torch

LONGEST = 2048
"""Tokens that the server's model may read."""


class Server:
    """A rollout server around `generate`, one request at a time."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.step: int | None = None

    async def load(self, weights: dict[str, torch.Tensor], step: int) -> None:
        found = self.model.load_state_dict(weights, strict=False)
        assert not found.unexpected_keys, found
        self.step = step
        norm = sum(float(weight.double().square().sum()) for weight in weights.values()) ** 0.5
        print(f"stand-in server: weights of step {step}, norm {norm:.9f}", flush=True)

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        ids = torch.tensor([list(prompt_ids)])
        if "prompt_logprobs" in sampling_params:
            return TokenOutput(token_ids=[0], stop_reason="completed", extra_fields=self._read(ids))
        temperature = sampling_params.get("temperature", 1.0)
        stops = {"stop_strings": sampling_params.get("stop"), "tokenizer": self.tokenizer}
        ends = [self.tokenizer.eos_token_id, *(sampling_params.get("stop_token_ids") or ())]
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_k=0,
            max_new_tokens=min(sampling_params.get("max_tokens", 48), LONGEST - ids.size(1)),
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=ends,
            **(stops if "stop" in sampling_params else {}),
        )
        new = output.sequences[0, ids.size(1) :].tolist()
        logps = [float(row[0].float().log_softmax(-1)[id]) for row, id in zip(output.logits, new, strict=True)]
        return TokenOutput(
            token_ids=new, log_probs=logps, stop_reason="completed", extra_fields={"global_steps": self.step}
        )

    def _read(self, ids: torch.Tensor) -> dict[str, Any]:
        """Log-probabilities of a prompt as vLLM's server gives them: entry i is of token i + 1, the last of none."""
        with torch.no_grad():
            logps = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        read = logps.gather(-1, ids[0, 1:, None]).tolist()
        return {"global_steps": self.step, "prompt_logprobs": [*read, [0.0]]}

    async def wake_up(self, *_: Any, **__: Any) -> None: ...

    async def sleep(self, *_: Any, **__: Any) -> None: ...

    async def clear_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def release_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def resume_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def abort_all_requests(self, **_: Any) -> None: ...

    async def resume_generation(self, **_: Any) -> None: ...
