"""Train in an environment of your own: guess a number; every turn has its reward. `python own_environment.py MODEL`"""

import sys

from datasets import Dataset
from transformers import AutoTokenizer

from a2tgpo import A2TGPOConfig, A2TGPOTrainer, TagRollout
from a2tgpo.environments import Action, EnvironmentPool, StepResult, Tool
from a2tgpo.rewards import environment_reward
from a2tgpo.rollout.agent import Agent, RolloutLimits


class GuessTheNumber:
    tools = (Tool("guess", "Guess a number."),)

    def reset(self, row):
        self.secret = row["secret"]
        return " It lies between 1 and 9."

    def step(self, action: Action) -> StepResult:
        if not action.text.isdigit():
            return StepResult("That is no number.", reward=-1.0)
        away = abs(self.secret - int(action.text))
        return StepResult("Right!" if away == 0 else f"{away} away.", reward=1 - away / 9, done=away == 0)


model = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3-0.6B"
words = "In each turn think inside <think> and </think>, then guess inside <guess> and </guess>."
tokenizer = AutoTokenizer.from_pretrained(model)
agent = Agent(tokenizer, EnvironmentPool(GuessTheNumber), RolloutLimits(max_searches=5, max_turn_tokens=96), words)
config = A2TGPOConfig(
    "out", process_signal="environment", max_steps=2, num_generations=4, per_device_train_batch_size=4, bf16=False
)
data = Dataset.from_list([{"prompt": "Guess my number.", "secret": number} for number in range(1, 10)])
A2TGPOTrainer(
    model, environment_reward, config, data, processing_class=tokenizer, rollout_func=TagRollout(agent)
).train()
