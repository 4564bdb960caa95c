"""What the processes of a run have to agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


def any_process(accelerator: Accelerator, here: bool) -> bool:
    """Whether something holds in any process; a collective."""
    return bool(accelerator.reduce(torch.tensor(float(here), device=accelerator.device)) > 0)
