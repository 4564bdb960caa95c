"""The table of methods: what each row says, that it runs, and what cannot be a row."""

import ast
import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from a2tgpo import core, methods
from a2tgpo.methods import METHODS, Method, resolve_method
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Tree

from .core.batches import log_probabilities, model_masks, pack
from .core.slow import Rollout

BATCH = [
    Rollout(0, (0.5, 0.25, None), 1.0, (2, 3, 1), (1, 1, 1)),
    Rollout(0, (-0.25, None), 0.0, (1, 2), (2, 1)),
    Rollout(1, (0.5, None), 1.0, (4, 1), (1, 1)),
    Rollout(1, (None,), 0.0, (4,), (1,)),
]
ONE_GAIN = [(0.5, None), (-0.25, None), (0.5, None), (None,)]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_every_row_learns(method):
    """Credit and loss of each row are finite, and a better rollout's tokens are pushed up against a worse one's."""
    arguments, mask = pack(BATCH), model_masks(BATCH)
    entropy = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double()
    state, tree = torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    credit = method.credit(core.TurnBatch(**arguments, state=state, tree=tree, entropy=entropy))
    logp, _ = log_probabilities(mask, seed=0)
    leaf, turns = logp.clone().requires_grad_(), core.turn_ids(mask)
    advantage, scale, more = credit.advantage, credit.clip_scale, {}
    if method.shares_turns:
        node = torch.arange(12).view(4, 3)
        shared = core.share_turns(credit, node, arguments["group"])
        advantage, scale = shared.positive, shared.clip_scale
        more = {"negative": shared.negative, "turn_weight": shared.weight}
    loss = core.policy_loss(leaf, logp, turns, advantage, scale, **method.loss_options, **more).loss
    (grad,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite() and grad.isfinite().all()
    assert grad[2].sum() < 0 < grad[3].sum()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_row_says_what_it_reads(method):
    """Every row runs on a batch that holds nothing but what `reads` names, and without that it does not run or gives
    other credit: a trainer may leave the rest out, and pays for no signal that is not read."""
    arguments = pack([*BATCH, Rollout(0, (0.1, 0.75, None), 0.0)])
    optional = {
        "state": torch.zeros(5, 3, dtype=torch.long),
        "tree": torch.tensor([0, 1, 0, 0, 0]),
        "entropy": torch.arange(15.0).view(5, 3).double(),
    }
    reads = {name: value for name, value in optional.items() if name in method.credit.reads}
    gain = arguments["gain"] if method.signal else torch.full_like(arguments["gain"], float("nan"))
    advantage = method.credit(core.TurnBatch(**arguments | {"gain": gain}, **reads)).advantage
    assert torch.equal(advantage, method.credit(core.TurnBatch(**arguments, **optional)).advantage)
    for name in reads:
        with pytest.raises(ValueError, match=name):
            method.credit(core.TurnBatch(**arguments, **{k: v for k, v in reads.items() if k != name}))
    if method.signal:
        other = method.credit(core.TurnBatch(**arguments | {"gain": -gain}, **reads)).advantage
        assert not torch.equal(advantage, other)


def test_the_ladder_of_the_ablation():
    """From igpo to a2tgpo each row changes one thing, shown by where it changes nothing: turn groups where every gain
    is of one turn, √n where no rollout has more than one gain, and ratio and clip where they do not touch credit."""

    def advantage(name, batch, **changes):
        row = resolve_method(name, **changes)
        return row.credit(core.TurnBatch(**pack(batch))).advantage

    def same(one, other, batch=BATCH, **changes):
        return torch.allclose(advantage(one, batch, **changes), advantage(other, batch), rtol=0, atol=1e-9)

    one_gain = [Rollout(r.prompt, gains, r.outcome) for r, gains in zip(BATCH, ONE_GAIN, strict=True)]
    searches = [Rollout(r.prompt, gains[:1], r.outcome) for r, gains in zip(BATCH, ONE_GAIN, strict=True)]
    # Where a search is the last turn IGPO's sum is the outcome's and the gain's as well.
    assert same("igpo", "igpo+tg", searches, norm="separate") and not same("igpo", "igpo+tg", norm="separate")
    assert same("igpo+tg", "igpo+tg+sqrt", one_gain) and not same("igpo+tg", "igpo+tg+sqrt")
    assert same("igpo+tg+sqrt", "a2tgpo-fixed-clip") and same("a2tgpo-fixed-clip", "a2tgpo")
    options = {name: METHODS[name].loss_options for name in METHODS}
    assert options["igpo"] == options["igpo+tg"] == options["igpo+tg+sqrt"] != options["a2tgpo-fixed-clip"]
    assert options["a2tgpo-fixed-clip"] == options["a2tgpo"]
    batch = core.TurnBatch(**pack(BATCH))
    assert (METHODS["a2tgpo-fixed-clip"].credit(batch).clip_scale == 1).all()
    assert (METHODS["a2tgpo"].credit(batch).clip_scale != 1).any()


def test_the_table_of_the_docs():
    """docs/methods.md says of every row what the row is, and of no other row."""
    lines = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    names = {
        Independent: "independent",
        DynamicSampling: "dynamic sampling",
        Tree: "trees",
        EntropyBranch: "entropy branches",
    }
    assert [cells[0] for cells in table] == list(METHODS)
    for name, ratio, clip, average, std, kl, likelihood, rollouts in table:
        row = METHODS[name]
        assert (ratio, average) == (row.ratio, row.aggregate + "s")
        assert clip == f"{row.eps_low:g} / {row.eps_high:g}"
        assert std == getattr(row.credit, "std", "population") and float(kl) == row.kl_beta
        assert likelihood == (row.likelihood if row.signal else "–")
        assert rollouts == names[type(row.sampling)]


def test_a2tgpo_is_turn_credit():
    """The row of the paper is `turn_credit` with its defaults."""
    arguments = pack(BATCH)
    assert all(map(torch.equal, METHODS["a2tgpo"].credit(core.TurnBatch(**arguments)), core.turn_credit(**arguments)))


@dataclasses.dataclass(frozen=True)
class Misreading:
    """A credit rule that asks for what there is not."""

    reads: ClassVar[frozenset[str]] = frozenset({"gains"})


CONTRADICTIONS = {
    "tree": (lambda: Method("mine", core.TreeCredit(), "me"), "sampling=Tree"),
    "dynamic sampling": (
        lambda: Method("mine", core.IgpoCredit(), "me", sampling=DynamicSampling()),
        "sampling=Independent",
    ),
    "ratio": (lambda: Method("mine", core.OutcomeCredit(), "me", ratio="word"), "'turn', 'token', 'sequence'"),
    "range": (lambda: Method("mine", core.OutcomeCredit(), "me", eps_low=1.0), r"eps_low in \[0, 1\)"),
    "overlong": (lambda: Method("mine", core.OutcomeCredit(), "me", overlong=2.0), "share above 0"),
    "dual clip": (lambda: Method("mine", core.OutcomeCredit(), "me", dual_clip=1.1), "inside the clip range"),
    "kl": (lambda: Method("mine", core.OutcomeCredit(), "me", kl_beta=-0.1), "pass at least 0"),
    "likelihood": (lambda: Method("mine", core.OutcomeCredit(), "me", likelihood="odds"), "'log_probability'"),
    "similarity": (lambda: Method("mine", core.OutcomeCredit(), "me", state_similarity=0.0), "share above 0"),
    "sequence": (
        lambda: Method("mine", core.TreeCredit(), "me", ratio="sequence", sampling=Tree()),
        "ratio='turn' or 'token'",
    ),
    "a class": (lambda: Method("mine", core.OutcomeCredit, "me"), r"such as core.OutcomeCredit\(\)"),
    "a function": (lambda: Method("mine", lambda batch: batch, "me"), "an instance of a frozen dataclass"),
    "unknown field": (lambda: Method("mine", Misreading(), "me"), "credit reads gains; there are entropy, gain, state"),
    "endless kl": (lambda: Method("mine", core.OutcomeCredit(), "me", kl_beta=float("nan")), "pass at least 0"),
    **{
        f"name {name!r}": (lambda name=name: Method(name, core.OutcomeCredit(), "me"), "name is .*; pass letters")
        for name in ("", "a,b", "a:b", "a/b", "a b", "..", "-a")
    },
    "no row": (lambda: resolve_method("a3tgpo"), "choose one of 'grpo', 'dapo'"),
    "no parameter": (lambda: resolve_method("grpo", alpha=0.3), "no such parameter; it has std, ratio"),
    "not a name": (lambda: resolve_method("grpo", source="me"), "no such parameter"),
    "out of range": (lambda: resolve_method("a2tgpo", gamma=2.0), "gamma is 2.0"),
    "no dynamic sampling": (lambda: DynamicSampling(max_batches=0), "max_batches is 0; pass at least 1"),
    "no tree": (lambda: Tree(branches=0), "branches is 0; pass at least 1"),
    "no beam": (lambda: EntropyBranch(beam=1), "beam is 1; pass at least 2"),
    "damping": (lambda: EntropyBranch(damping=1.5), "damping is 1.5; pass"),
}


@pytest.mark.parametrize("build, remedy", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictions(build, remedy):
    """Parts that contradict each other raise where the method is written, and the message says what to change."""
    with pytest.raises(ValueError, match=remedy):
        build()


def test_parameters_are_changed_by_name():
    """Parameters of row and credit are changed alike, None leaves what the row has, and the table keeps its row."""
    changed = resolve_method("a2tgpo", alpha=0.3, beta=None, eps_high=0.01, aggregate="token", std_floor=None)
    assert changed.credit == dataclasses.replace(METHODS["a2tgpo"].credit, alpha=0.3)
    assert changed == dataclasses.replace(METHODS["a2tgpo"], credit=changed.credit, eps_high=0.01, aggregate="token")
    assert resolve_method("a2tgpo") == METHODS["a2tgpo"] != changed


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
