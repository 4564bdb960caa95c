"""Take secrets out of whatever is written or shown: settings, error texts, pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "***"
"""Stands where a secret was."""

_NAMES = re.compile(
    r"(^|[_-])(token|(api|access|private|secret)[_-]?key|secret|password|passwd|passphrase|credentials?|authorization)$",
    re.IGNORECASE,
)
_NOT_SECRET = {"pad_token", "eos_token", "bos_token", "unk_token", "reasoning_end_token"}
_URL_LOGIN = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#'\"]+@")
_URL_KEY = re.compile(r"(?P<name>[?&](?:[\w-]*(?:token|key|secret|password|signature))=)[^&\s'\"#]+", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16})\b"
)
_FLAG = re.compile(
    r"(?P<name>(?<![\w-])--?(?:[\w-]*[-_])?(?:token|(?:api|access|private|secret)[-_]?key|secret|password|passwd|"
    r"passphrase|credentials?)(?:=| +(?!-)))\S+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
_LEFT_OUT = re.compile(r"\A\*{3}\Z|://\*{3}@|\w[= ]\*{3}(?!\S)|=\*{3}&")
"""A text out of which `redact_settings` took a secret."""
_SHORTEST = 6
"""Characters: a remembered value that is shorter would be cut out of ordinary words."""

_known: set[str] = set()


def remember_secrets(values: Iterable[str]) -> None:
    """Have `redact` hide `values` wherever they turn up from now on in this process, whatever their shape."""
    _known.update(value for value in values if len(value) >= _SHORTEST)


def redact(text: str) -> str:
    """Return `text` without remembered secrets, logins and keys in URLs, and tokens of well-known shapes."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _URL_LOGIN.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _URL_KEY.sub(rf"\g<name>{HIDDEN}", text)
    text = _HEADER.sub(rf"\g<name>{HIDDEN}", text)
    text = _FLAG.sub(rf"\g<name>{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def is_secret(name: str) -> bool:
    """Tell whether a setting of this name holds a secret: `hub_token`, `api_key`, `WANDB_API_KEY`, `password`."""
    return name not in _NOT_SECRET and _NAMES.search(name) is not None


def secrets_in(settings: Any) -> list[str]:
    """Return the secret values of `settings`, those of mappings and lists inside it among them: what stands under the
    name of a secret, and after such a flag in the words of a command."""
    if isinstance(settings, list | tuple):
        behind = [word for word, hidden in _words(settings) if hidden]
        return behind + [value for item in settings for value in secrets_in(item)]
    if not isinstance(settings, Mapping):
        return []
    found = [value for name, value in settings.items() if is_secret(str(name)) and isinstance(value, str)]
    return found + [value for nested in settings.values() for value in secrets_in(nested)]


def redact_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` for a file or a page: secrets hidden under their names, texts redacted, the rest as it is."""
    return {
        name: HIDDEN if is_secret(str(name)) and value is not None else _redact_value(value)
        for name, value in settings.items()
    }


def left_out(settings: Any, name: str = "") -> Iterator[str]:
    """Yield the places, such as `tools.0.environment.API_KEY`, where `redact_settings` took a secret out."""
    if isinstance(settings, str):
        if _LEFT_OUT.search(settings):
            yield name
    elif isinstance(settings, Mapping | list | tuple):
        parts = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
        for key, value in parts:
            yield from left_out(value, f"{name}.{key}" if name else str(key))


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return redact_settings(value)
    if isinstance(value, list | tuple):
        return [HIDDEN if hidden else _redact_value(item) for item, hidden in _words(value)]
    return value


def _words(items: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield the items, each with whether it is the value of a secret's flag before it: `--api-key`, then the key."""
    flag = ""
    for item in items:
        yield item, bool(flag) and isinstance(item, str) and is_secret(flag.lstrip("-").replace("-", "_"))
        flag = item if isinstance(item, str) and item.startswith("-") else ""
