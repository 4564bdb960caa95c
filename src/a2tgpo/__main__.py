"""Run `python -m a2tgpo`, which launchers can start: `torchrun --nproc_per_node 2 -m a2tgpo train RECIPE`."""

from __future__ import annotations

import sys

from a2tgpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
