"""Where verl is installed and there is no GPU, it finds the stand-ins of these tests when it is first imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

if find_spec("verl") is not None and not torch.cuda.is_available():
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "tests.verl.stand_in")
