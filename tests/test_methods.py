"""The table of methods: what each row says, that it runs, and what cannot be a row."""

import ast
import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from a2tgpo import core, methods
from a2tgpo.methods import METHODS, Method
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Tree

from .core.batches import log_probabilities, model_masks, pack
from .core.slow import Rollout

BATCH = [
    Rollout(0, (0.5, 0.25, None), 1.0, (2, 3, 1), (1, 1, 1)),
    Rollout(0, (-0.25, None), 0.0, (1, 2), (2, 1)),
    Rollout(1, (0.5, None), 1.0, (4, 1), (1, 1)),
    Rollout(1, (None,), 0.0, (4,), (1,)),
]


def test_rows_of_the_design():
    """Ratio, clip range and aggregation of every published method are those of its paper."""
    rows = {m.name: (m.ratio, m.eps_low, m.eps_high, m.upper, m.aggregate) for m in METHODS.values()}
    plain, turn = ("token", 0.2, 0.2, "clip", "rollout"), ("turn", 3e-3, 4e-3, "clip", "rollout")
    assert rows == {
        **dict.fromkeys(["grpo", "gigpo", "igpo", "mica", "tree-grpo"], plain),
        "dapo": ("token", 0.2, 0.28, "clip", "token"),
        "gspo": ("sequence", 3e-4, 4e-4, "clip", "rollout"),
        "aepo": ("token", 0.2, 0.2, "keep_gradient", "rollout"),
        **dict.fromkeys(["a2tgpo", "igpo+tg", "igpo+tg+sqrt", "a2tgpo-absorbing", "a2tgpo-floor"], turn),
    }


def test_what_a_trainer_asks():
    """Only methods that read gains have them scored, and only trees and branches share turns."""
    gains = {"igpo", "mica", "a2tgpo", "igpo+tg", "igpo+tg+sqrt", "a2tgpo-absorbing", "a2tgpo-floor"}
    assert {m.name for m in METHODS.values() if m.signal} == gains
    assert {m.name for m in METHODS.values() if m.shares_turns} == {"tree-grpo", "aepo"}
    assert Tree(trees=2, branches=3, rounds=1).n_rollouts == 8


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_every_row_learns(method):
    """Credit and loss of each row are finite, and a better rollout's tokens are pushed up against a worse one's."""
    arguments, mask = pack(BATCH), model_masks(BATCH)
    node = torch.arange(12).view(4, 3)
    entropy = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double()
    state, tree = torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    credit = method.credit(core.TurnBatch(**arguments, state=state, tree=tree, entropy=entropy))
    credit, owned = core.count_once(credit, node, arguments["group"])
    logp, _ = log_probabilities(mask, seed=0)
    leaf = logp.clone().requires_grad_()
    loss = core.policy_loss(
        leaf, logp, core.turn_ids(mask), credit.advantage, credit.clip_scale, **method.loss_options, owned=owned
    ).loss
    (grad,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite() and grad.isfinite().all()
    assert grad[2].sum() < 0 < grad[3].sum()


def test_a2tgpo_is_turn_credit():
    """The row of the paper is `turn_credit` with its defaults."""
    arguments = pack(BATCH)
    assert all(map(torch.equal, METHODS["a2tgpo"].credit(core.TurnBatch(**arguments)), core.turn_credit(**arguments)))


CONTRADICTIONS = {
    "tree": (lambda: Method("mine", core.TreeCredit(), "me"), "sampling=Tree"),
    "refill": (lambda: Method("mine", core.IgpoCredit(), "me", sampling=DynamicSampling()), "sampling=Independent"),
    "ratio": (lambda: Method("mine", core.OutcomeCredit(), "me", ratio="word"), "'turn', 'token', 'sequence'"),
    "range": (lambda: Method("mine", core.OutcomeCredit(), "me", eps_low=1.0), r"eps_low in \[0, 1\)"),
    "overlong": (lambda: Method("mine", core.OutcomeCredit(), "me", overlong=2.0), "share above 0"),
    "no refill": (lambda: DynamicSampling(max_batches=0), "max_batches is 0; pass at least 1"),
    "no tree": (lambda: Tree(branches=0), "branches is 0; pass at least 1"),
    "no beam": (lambda: EntropyBranch(beam=1), "beam is 1; pass at least 2"),
    "damping": (lambda: EntropyBranch(damping=1.5), "damping is 1.5; pass"),
}


@pytest.mark.parametrize("build, remedy", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictions(build, remedy):
    """Parts that contradict each other raise where the method is written, and the message says what to change."""
    with pytest.raises(ValueError, match=remedy):
        build()


def test_rows_are_values():
    """A row is changed with `dataclasses.replace`, checked again, and the table itself cannot be changed."""
    assert dataclasses.replace(METHODS["grpo"], ratio="turn").sampling == Independent()
    with pytest.raises(ValueError, match="grows none"):
        dataclasses.replace(METHODS["tree-grpo"], sampling=Independent())
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["grpo"]


def test_imports_core_alone():
    """The table knows nothing of rollouts, trainers or engines."""
    tree = ast.parse(Path(methods.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if module.startswith("a2tgpo")}
    assert all(module == "a2tgpo.rollout.strategies" or module.startswith("a2tgpo.core") for module in ours)


@dataclasses.dataclass(frozen=True)
class RawGain:
    """A credit rule of a user's: the gain as it is."""

    reads: ClassVar[frozenset[str]] = frozenset({"gain"})
    alpha: float = 2.0

    def __call__(self, batch):
        advantage = self.alpha * torch.where(batch.has_gain, batch.gain, 0)
        return core.TurnCredit(advantage, torch.ones_like(advantage), torch.zeros_like(advantage))


@pytest.mark.parametrize("credit", [core.TurnGroupCredit(std_floor=0.1), RawGain()])
def test_a_row_of_ones_own(credit):
    """A registered method is found by its name, by a training configuration too, whose options reach its own credit
    rule; a name that is taken is refused."""
    from a2tgpo import A2TGPOConfig

    mine = Method("mine", credit, "a test", ratio="turn", eps_low=0.01, eps_high=0.02)
    try:
        assert methods.register(mine) is METHODS["mine"]
        assert A2TGPOConfig("x", method="mine", use_cpu=True, bf16=False).resolve_method() == mine
        chosen = A2TGPOConfig("x", method="mine", gain_alpha=0.5, use_cpu=True, bf16=False).resolve_method()
        assert chosen.credit == dataclasses.replace(credit, alpha=0.5) and chosen.signal
        chosen.credit(core.TurnBatch(**pack(BATCH)))
        with pytest.raises(ValueError, match="'mine' has a row already"):
            methods.register(mine)
    finally:
        methods._TABLE.pop("mine")
    assert "mine" not in METHODS
