"""Write docs/models.md, and the list of families whose cache is trusted, from what tiny random models do.

python scripts/model_table.py
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import warnings
from pathlib import Path

import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.signals.answer_likelihood.families import (  # noqa: E402
    NOT_BUILT,
    describe,
    families,
    rollouts_of_four,
    tiny_model,
    word_tokenizer,
)

from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer  # noqa: E402

TRUSTED = ROOT / "src" / "a2tgpo" / "signals" / "answer_likelihood" / "tested_families.py"
DOCUMENT = ROOT / "docs" / "models.md"


def main() -> None:
    """Score four rollouts with every family."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    scorer = AnswerScorer(
        AnswerScaffold("it is ( {answer} )"), word_tokenizer(), "log_probability", alias="best", method="cached"
    )
    rollouts = rollouts_of_four()
    found = [describe(tiny_model(family), family, scorer, rollouts) for family in families()]
    cached = [row for row, scores in found if scores is not None]
    others = [row for row, scores in found if scores is None]

    header = "| family | layers | answers scored from | generation |\n|---|---|---|---|\n"
    document = DOCUMENT.read_text(encoding="utf-8")
    tables = {
        "cached": header + "\n".join(map(str, cached)),
        "rows": header + "\n".join(map(str, others)),
        "not built": "| family | why |\n|---|---|\n" + "\n".join(f"| {n} | {why} |" for n, why in NOT_BUILT.items()),
        "counts": f"transformers {transformers.__version__}: {len(cached)} families from the cache, {len(others)} by "
        f"rows or not at all, {len(NOT_BUILT)} not built.",
    }
    for name, table in tables.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        document = block.sub(lambda match, table=table: match[1] + table + "\n" + match[2], document)
    DOCUMENT.write_text(document, encoding="utf-8")

    names = textwrap.fill(" ".join(row.family for row in cached), 112, break_on_hyphens=False)
    before, _, _ = TRUSTED.read_text(encoding="utf-8").partition("_NAMES")
    trusted = f'_NAMES = """\n{names}\n"""\nTESTED = frozenset(_NAMES.split())\n'
    TRUSTED.write_text(before + trusted, encoding="utf-8")


if __name__ == "__main__":
    main()
