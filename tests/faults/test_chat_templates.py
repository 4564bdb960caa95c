"""A chat template that cannot say what the recipe wants said is an error of one line, not a traceback or silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import PreTrainedTokenizerBase

from a2tgpo.cli import main
from a2tgpo.errors import RecipeError
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.pretrained import check_chat_template, open_tokenizer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from tests.integrations.parts import config, questions, qwen_tokenizer, tiny_llama
from tests.run.parts import save_policy, write_recipe

GEMMA = (Path(trl.__file__).parent / "chat_templates" / "gemma.jinja").read_text(encoding="utf-8")
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
DROPS = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
REFUSES_ALL = "{{ raise_exception('no conversation here') }}"


def tokenizer_with(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def agent_with(template: str | None, system_prompt: str | None = "Search first.") -> SearchAgent:
    return SearchAgent(tokenizer_with(template), lambda q: [[] for _ in q], RolloutLimits(), system_prompt)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GEMMA, r"refuses a system message .*--system_prompt ''"),
        (None, "has no chat template"),
        (REFUSES_ALL, "refuses system, user messages: no conversation here"),
        ("{{ messages[0].content.nothing.there }}", "refuses system, user messages"),
    ],
)
def test_a_prompt_that_cannot_be_made_says_why(template: str | None, message: str) -> None:
    """Whatever the template objects to, the error is ours and names the way out where there is one."""
    with pytest.raises(RecipeError, match=message):
        agent_with(template).encode_prompt("Who?")


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_system_prompt_is_none(empty: str | None) -> None:
    """What the message recommends works: a template without a system role reads a question alone."""
    agent = agent_with(GEMMA, empty)
    assert "Who?" in agent.tokenizer.decode(agent.encode_prompt("Who?"))


def test_a_system_message_left_out_without_a_word_is_refused() -> None:
    """A template that skips system messages would train a policy that never reads the instruction."""
    with pytest.raises(RecipeError, match="leaves system messages out"):
        check_chat_template(tokenizer_with(DROPS), "Search first.")
    check_chat_template(tokenizer_with(DROPS), None)
    check_chat_template(tokenizer_with(PLAIN), "Search first.")


def spoil_policy(folder: Path, spoil: str) -> Path:
    """A policy whose tokenizer lacks its template, its system role or its EOS token."""
    policy = save_policy(folder)
    tokenizer = open_tokenizer(str(policy))
    if spoil == "eos":
        tokenizer.eos_token = None
    else:
        tokenizer.chat_template = None if spoil == "template" else GEMMA
        (policy / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(policy)
    return policy


@pytest.mark.parametrize(
    ("spoil", "message"), [("template", "no chat template"), ("system", "--system_prompt ''"), ("eos", "no EOS token")]
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_command_line_says_it_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, spoil: str, message: str
) -> None:
    """`a2tgpo train` and `a2tgpo eval` of such a model exit 2 with one line, and begin no run."""
    policy = spoil_policy(tmp_path / "policy", spoil)
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, system_prompt="Search first.")
    capsys.readouterr()
    assert main([command, str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("thinking", [True, False])
def test_template_variables_reach_every_prompt(tmp_path: Path, thinking: bool) -> None:
    """`chat_template_kwargs` of the training arguments give TagRollout's prompts exactly what the tokenizer itself
    makes of them, and so do an agent's own."""
    from a2tgpo import A2TGPOTrainer

    tokenizer = qwen_tokenizer()
    messages = [{"role": "user", "content": "Who?"}]
    wanted: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=thinking
    )
    limits = RolloutLimits(max_completion_tokens=40, max_turn_tokens=10)
    agent = SearchAgent(tokenizer, lambda queries: [[] for _ in queries], limits)
    trainer = A2TGPOTrainer(
        tiny_llama(tokenizer),
        lambda completions, **_: [0.0] * len(completions),
        config(tmp_path, chat_template_kwargs={"enable_thinking": thinking}, max_completion_length=40),
        train_dataset=questions(),
        processing_class=tokenizer,
        rollout_func=TagRollout(agent),
    )
    columns = TagRollout(agent)([messages] * 4, trainer)
    assert columns["prompt_ids"] == [wanted] * 4
    own = SearchAgent(tokenizer, agent.search, limits, chat_template_kwargs={"enable_thinking": thinking})
    assert own.encode_prompt("Who?") == wanted
