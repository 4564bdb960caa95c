"""Read gold answers: the one reader of the trainer, the loader of questions, the rewards and the report."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from a2tgpo.errors import DataError
from a2tgpo.files import whole_text

_MAPPINGS = (("value", "aliases"), ("text",), ("target",))
"""Keys of answers that come as an object: TriviaQA's, SQuAD's, and Search-R1's ground truth."""


def gold_aliases(value: object, place: str) -> list[str]:
    """Return the accepted answers that `value` states, the canonical one first, each once; at least one.

    `value` is a text, a number, a list of those, or an object with `value` and `aliases` (TriviaQA), `text` (SQuAD) or
    `target` (Search-R1). 12 and 12.0 become "12". What is missing is left out: None, NaN, infinity and blank text. The
    text of a list, which a table of comma-separated values leaves behind, is refused: its quotes can be read in more
    than one way. Where brackets belong to an answer, as in the interval `[2, 5]`, put it into a list.

    Args:
        value: a cell of the column of answers, plain or NumPy's.
        place: where it stands, for the message: "questions.jsonl, line 3".

    Raises:
        DataError: no answer is left, or one is neither text nor a number; the message begins with `place`.
    """
    if aliases := read_aliases(value, place):
        return aliases
    raise DataError(f"{place}: the answers {value!r} are empty; give at least one, or remove the row")


def read_aliases(value: object, place: str) -> list[str]:
    """Return what `gold_aliases` returns, or an empty list where no answer is left."""
    value = plain_value(value)
    if isinstance(value, Mapping):
        value = _parts(value, place)
    if isinstance(value, (list, tuple)):
        texts = [_text(plain_value(item), place, alone=False) for item in value]
    else:
        texts = [_text(value, place, alone=True)]
    return list(dict.fromkeys(text for text in texts if text))


def plain_value(value: Any) -> Any:
    """Turn NumPy arrays and scalars, as parquet and formatted data sets hold them, into plain Python values."""
    return value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value


def is_missing(value: object) -> bool:
    """Tell None, NaN and infinity, by which columns of numbers mark a gap."""
    return value is None or (isinstance(value, (float, Decimal)) and not math.isfinite(value))


def _parts(value: Mapping[Any, Any], place: str) -> list[Any]:
    for names in _MAPPINGS:
        if names[0] in value:
            found = [plain_value(value[name]) for name in names if name in value]
            return [item for part in found for item in (part if isinstance(part, list) else [part])]
    raise DataError(
        f"{place}: the answer is an object with the keys {sorted(map(str, value))}; give a text, a list of texts, or "
        'an object with "value" and "aliases"'
    )


def _text(value: object, place: str, *, alone: bool) -> str:
    """Return one answer as text, empty where it is missing; `alone`: it is the whole cell, not an item of a list."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        text = whole_text(value).strip()
        if _reads_as_list(text, alone):
            raise DataError(
                f"{place}: the answer {text!r} is the text of a list; write a list. Where the brackets belong to the "
                'answer, put it into one: ["[2, 5]"]'
            )
        return text
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps is stored as floats
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{place}: the answer {value!r} is neither text nor a number; write it as text")


def _reads_as_list(text: str, alone: bool) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    if text[1:].lstrip()[:1] in ("'", '"', "]"):  # NumPy leaves the commas away: ['Paris' 'Lutetia']
        return True
    for parse in (json.loads, ast.literal_eval):
        try:
            items = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        numbers = all(isinstance(item, (int, float)) for item in items)
        return isinstance(items, list) and (alone or not numbers)
    return False
