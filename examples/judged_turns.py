"""Turns scored by another model with a rubric. `python judged_turns.py MODEL JUDGE_URL JUDGE_MODEL`"""

import sys

from datasets import Dataset

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.signals import Judge

NOTES = {"Kelo": "Kelo is led by Mitu.", "Mitu": "Mitu was born in Bora."}


def look_up(name: str) -> str:
    """Look a name up.

    Args:
        name: Whom to look up.
    """
    return NOTES.get(name, "No such name.")


model, url, judge_model = sys.argv[1:]
judge = Judge(url, judge_model, "A good turn looks up a name that the question or an earlier note gave.")
config = A2TGPOConfig("out", max_steps=2, num_generations=4, per_device_train_batch_size=4, bf16=False)
question = {"prompt": [{"role": "user", "content": "Where was Kelo's leader born?"}]}
data = Dataset.from_list([question] * 16)


def right(completions, **_):
    return [float("Bora" in completion[-1]["content"]) for completion in completions]


A2TGPOTrainer(model, right, config, data, tools=[look_up], turn_signal=judge).train()
