"""TRL's own tools= with per-turn credit: the script is TRL's, the trainer ours. `python trl_tools.py MODEL`"""

import sys

from datasets import Dataset

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.rewards import exact_match_reward


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a * b


def row(a: int, b: int) -> dict:
    return {"prompt": [{"role": "user", "content": f"What is {a} times {b}?"}], "answer": str(a * b)}


config = A2TGPOConfig("out", max_steps=2, num_generations=4, per_device_train_batch_size=4, bf16=False)
model = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3-0.6B"
data = Dataset.from_list([row(a, b) for a in range(12, 20) for b in range(12, 20)])
A2TGPOTrainer(model, exact_match_reward, config, data, tools=[multiply]).train()
