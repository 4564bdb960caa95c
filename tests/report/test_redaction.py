"""Secrets are hidden, and what looks like one but is not stays."""

from __future__ import annotations

import pytest

from a2tgpo.report.redaction import HIDDEN, redact_config, redact_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://alice:pw@host:80/x answered 500", f"http://{HIDDEN}@host:80/x answered 500"),
        ("postgres://u:p%40@db/x", f"postgres://{HIDDEN}@db/x"),
        ("GET /v1?top=3&api_key=abc123&x=1", f"GET /v1?top=3&api_key={HIDDEN}&x=1"),
        ("a2tgpo serve --api-key s3cret-key --port 1", f"a2tgpo serve --api-key {HIDDEN} --port 1"),
        ("Authorization: Bearer abcdef0123456789", f"Authorization: Bearer {HIDDEN}"),
        ("HF_TOKEN=hf_0123456789abcdefgh", f"HF_TOKEN={HIDDEN}"),
        ("token hf_0123456789abcdefgh is refused", f"token {HIDDEN} is refused"),
        ("OPENAI_API_KEY: 'sk-0123456789abcdef01'", f"OPENAI_API_KEY: '{HIDDEN}'"),
        ("ghp_0123456789abcdefghij and AKIAABCDEFGHIJKLMNOP", f"{HIDDEN} and {HIDDEN}"),
    ],
)
def test_secrets_in_texts(text: str, shown: str) -> None:
    """Passwords in addresses, keys in queries and flags, and tokens of known services."""
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/retrieve",
        "the bearer of this letter",
        "Who is the basic unit of life?",
        "time 12:30, mail a@b.example",
        "key: value, token: 3",
        "sk-learn and hf_hub",
        "https://example.org/a:b@c",
    ],
)
def test_texts_that_hold_no_secret(text: str) -> None:
    """Addresses, words and short names stay letter for letter."""
    assert redact_text(text) == text


def test_secrets_in_a_configuration() -> None:
    """A text whose key names a secret is hidden, in nested values and lists too; numbers and the tokenizer's tokens
    stay."""
    config = {
        "hub_token": "abc",
        "api_key": "abc",
        "env": {"WANDB_API_KEY": "abc", "MODE": "offline"},
        "headers": [{"Authorization": "abc"}, "http://a:b@c"],
        "passwords": ["x", "y"],
        "eos_token": "<|end|>",
        "max_turn_tokens": 48,
        "hub_private_repo": True,
        "hub_token_file": "",
        "report_to": "none",
    }
    assert redact_config(config) == config | {
        "hub_token": HIDDEN,
        "api_key": HIDDEN,
        "env": {"WANDB_API_KEY": HIDDEN, "MODE": "offline"},
        "headers": [{"Authorization": HIDDEN}, f"http://{HIDDEN}@c"],
        "passwords": [HIDDEN, HIDDEN],
    }
