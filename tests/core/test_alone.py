"""The core by itself: torch is all it needs, and it never makes a GPU wait."""

import subprocess
import sys
import textwrap

import pytest
import torch

from a2tgpo import core

from .batches import pack, surrogate_inputs
from .slow import Rollout

BATCH = [
    Rollout(0, (0.5, 0.25, None), 1.0, (2, 3, 1), (1, 1, 1)),
    Rollout(0, (-0.25, None), 0.0, (1, 2), (2, 1)),
    Rollout(1, (None,), 1.0, (4,), (1,)),
]
RULES = [
    core.OutcomeCredit(),
    core.TurnGroupCredit(),
    core.IgpoCredit("joint"),
    core.IgpoCredit("separate"),
    core.GigpoCredit(norm="mean"),
    core.GigpoCredit(norm="std", std="sample"),
    core.ReleaseCredit(),
    core.MicaCredit(),
    core.TreeCredit(),
    core.EntropyCredit(),
]


def test_imports_torch_alone():
    """In a fresh process where everything else is missing, the core imports nothing but torch, and runs."""
    script = """
        import sys

        MISSING = {"accelerate", "bm25s", "datasets", "jaxtyping", "numpy", "transformers", "trl"}

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in MISSING:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())

        import torch

        before = set(sys.modules)
        from a2tgpo import core

        imported = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
        assert imported == {"a2tgpo"}, imported
        credit = core.turn_credit(
            torch.tensor([[0.5, 0.0], [0.25, 0.0]]),
            torch.tensor([[True, False], [True, False]]),
            torch.tensor([1.0, 0.0]),
            torch.tensor([0, 0]),
            n_turns=torch.tensor([2, 2]),
        )
        logp = torch.zeros(2, 3)
        ids = core.turn_ids(torch.tensor([[True, False, True]] * 2))
        print(core.policy_loss(logp, logp, ids, credit.advantage, credit.clip_scale).loss.item())
    """
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(0, abs=1e-6)


def test_reads_no_values():
    """On meta tensors, which hold no values, everything runs: nothing waits to read a device's result."""
    arguments, inputs = pack(BATCH, dtype=torch.float32), surrogate_inputs(BATCH)
    likelihood = torch.rand(3, 4)
    expected = run_everything(arguments, inputs, likelihood)
    on_meta = [{k: v.to("meta") for k, v in tensors.items()} for tensors in (arguments, inputs)]
    actual = run_everything(*on_meta, likelihood.to("meta"))
    assert [(v.shape, v.dtype) for v in actual] == [(v.shape, v.dtype) for v in expected]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_without_synchronisation():
    """On CUDA every function gives the CPU's numbers and none waits for the device."""
    arguments, inputs = pack(BATCH, dtype=torch.float32), surrogate_inputs(BATCH)
    likelihood = torch.rand(3, 4)
    expected = run_everything(arguments, inputs, likelihood)
    on_device = [{k: v.cuda() for k, v in tensors.items()} for tensors in (arguments, inputs)]
    likelihood = likelihood.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = run_everything(*on_device, likelihood)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for value, target in zip(actual, expected, strict=True):
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), target)


def run_everything(arguments, inputs, likelihood) -> list[torch.Tensor]:
    """Every public function, on tensors of one device; forward and backward."""
    results = [core.information_gain(likelihood, arguments["is_process"])]
    for pool in ("turn", "prompt"):
        for baseline in ("survivors", "absorbing", "active"):
            results += core.turn_credit(**arguments, pool=pool, baseline=baseline)
    group, zeros = arguments["group"], torch.zeros_like(arguments["gain"], dtype=torch.long)
    batch = core.TurnBatch(**arguments, state=zeros, tree=group, entropy=arguments["gain"])
    for rule in RULES:
        credit = rule(batch)
        results += credit
        shared, owned = core.count_once(credit, zeros, group)
        results += [*shared, owned]
        results += core.share_turns(credit, zeros, group, n_tokens=arguments["n_turns"])
    results.append(core.overlong_penalty(arguments["n_turns"], max_length=4, buffer=2))
    tokens = inputs["logp"], inputs["old_logp"], inputs["turn_ids"]
    results += [core.turn_ids(tokens[2] >= 0), core.turn_ratio(*tokens), core.kl_penalty(*tokens)]
    for ratio in ("turn", "token", "sequence"):
        for aggregate in ("rollout", "token"):
            logp = inputs["logp"].clone().requires_grad_()
            loss = core.policy_loss(**inputs | {"logp": logp}, ratio=ratio, aggregate=aggregate)
            results += [value.detach() for value in loss]
            results += torch.autograd.grad(loss.loss, logp)
    n_tokens = (inputs["turn_ids"] >= 0).sum()
    owned = inputs["clip_scale"] == 1
    both = {"negative": -inputs["advantage"], "turn_weight": owned.double(), "penalty": -inputs["old_logp"]}
    results += core.policy_loss(**inputs, **both, dual_clip=3.0)
    results += core.policy_loss(**inputs, upper="keep_gradient", aggregate="token", n_tokens=n_tokens, owned=owned)
    return results
