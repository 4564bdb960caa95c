"""Take secrets out of what a page shows: people mail it."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "‹hidden›"

_SECRET_KEY = re.compile(
    r"(^|[_\-.])(token|api_?key|access_?key|secret|password|passwd|pwd|credentials?|auth|authorization|cookie|key)s?$",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(^|_)(pad|eos|bos|unk|sep|mask|cls|image|stop|end)_token$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9+.\-]*://)[^\s/@:]*:[^\s/@]+@            # user:password in an address
      | (?P<query>[?&;](?:api_?key|key|token|access_token|secret|password|sig|signature)=)[^\s&#"']+
      | (?P<flag>--(?:[a-z]+[_-])*(?:token|api[_-]?key|secret|password)[ =])[^\s"']+
      | (?P<bearer>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/\-]{12,}=*
      | (?P<name>\b[A-Z][A-Z0-9_]*(?:TOKEN|API_?KEY|SECRET|PASSWORD)\s*[=:]\s*["']?)[^\s"',}]{6,}
      | \b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}
           |xox[abprs]-[A-Za-z0-9\-]{10,}|glpat-[A-Za-z0-9_\-]{16,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_\-]{30,})""",
    re.VERBOSE | re.IGNORECASE,
)


def redact_text(text: str) -> str:
    """Return `text` with passwords in addresses, keys in queries and tokens of known services hidden."""
    return _SECRET_VALUE.sub(lambda found: f"{next(filter(None, found.groupdict().values()), '')}{_end(found)}", text)


def _end(found: re.Match[str]) -> str:
    return f"{HIDDEN}@" if found["scheme"] else HIDDEN


def redact_config(value: Any, key: str = "") -> Any:
    """Return a configuration with every value hidden whose key names a secret, and every text redacted."""
    if isinstance(value, dict):
        return {name: redact_config(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_config(item, key) for item in value]
    if not isinstance(value, str):
        return value
    named = _SECRET_KEY.search(key) and not _NO_SECRET.search(key)
    return HIDDEN if named and value.strip() else redact_text(value)
