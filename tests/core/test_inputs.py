"""Bad input names the argument, the value and the remedy."""

import pytest
import torch

from a2tgpo import core

NAN = float("nan")


def credit(**changes):
    arguments = {
        "gain": torch.tensor([[0.5, 0.0], [0.25, 0.0]]),
        "is_process": torch.tensor([[True, False], [True, False]]),
        "outcome": torch.tensor([1.0, 0.0]),
        "group": torch.tensor([0, 0]),
        "n_turns": torch.tensor([2, 2]),
    }
    return core.turn_credit(**arguments | changes)


def loss(**changes):
    arguments = {
        "logp": torch.zeros(1, 3),
        "old_logp": torch.zeros(1, 3),
        "turn_ids": torch.tensor([[0, -1, 1]]),
        "advantage": torch.zeros(1, 2),
        "clip_scale": torch.ones(1, 2),
    }
    return core.policy_loss(**arguments | changes)


def gain(**changes):
    arguments = {"likelihood": torch.zeros(1, 3), "is_process": torch.tensor([[True, False]])}
    return core.information_gain(**arguments | changes)


def rule(kind, **changes):
    arguments = {
        "gain": torch.zeros(2, 1),
        "is_process": torch.zeros(2, 1, dtype=torch.bool),
        "outcome": torch.zeros(2),
        "group": torch.zeros(2, dtype=torch.long),
        "n_turns": torch.ones(2, dtype=torch.long),
        "state": torch.zeros(2, 1, dtype=torch.long),
        "tree": torch.zeros(2, dtype=torch.long),
        "entropy": torch.zeros(2, 1),
    }
    return kind()(core.TurnBatch(**arguments | changes))


def gigpo(**changes):
    return rule(core.GigpoCredit, **changes)


def tree(**changes):
    return rule(core.TreeCredit, **changes)


def entropy(**changes):
    return rule(core.EntropyCredit, **changes)


def shared(**changes):
    batch = {"node": torch.zeros(2, 2, dtype=torch.long), "group": torch.zeros(2, dtype=torch.long)}
    return core.count_once(credit(), **batch | changes)


def leaves(**changes):
    batch = {"node": torch.zeros(2, 2, dtype=torch.long), "group": torch.zeros(2, dtype=torch.long)}
    return core.share_turns(credit(), **batch | changes)


def outcomes(**changes):
    return core.normalize_outcome(**{"outcome": torch.zeros(2), "group": torch.zeros(2).long()} | changes)


def release(**changes):
    return rule(core.ReleaseCredit, **{"is_process": torch.ones(2, 1, dtype=torch.bool)} | changes)


TOKENS = torch.zeros(1, 3)
TURNS = torch.tensor([[0, -1, 1]])


def ratio(**changes):
    return core.turn_ratio(**{"logp": TOKENS, "old_logp": TOKENS, "turn_ids": TURNS} | changes)


def kl(**changes):
    return core.kl_penalty(**{"logp": TOKENS, "ref_logp": TOKENS, "turn_ids": TURNS} | changes)


def kept(**changes):
    return core.keep_turns(**{"turn_ids": TURNS, "kept": torch.ones(1, 2).bool()} | changes)


def mean_of_turns(**changes):
    return core.turn_mean(**{"per_token": TOKENS, "turn_ids": TURNS, "n_turns": 2} | changes)


def mean_of_rollouts(**changes):
    return core.rollout_mean(**{"per_token": TOKENS, "turn_ids": TURNS} | changes)


def overlong(**changes):
    return core.overlong_penalty(**{"length": torch.tensor([5]), "max_length": 20, "buffer": 4} | changes)


BAD_INPUT = {
    "shape": (credit, {"is_process": torch.tensor([[True], [True]])}, "is_process", "(2, 1)", "pad or slice"),
    "rank": (credit, {"outcome": torch.zeros(2, 2)}, "outcome", "(2, 2)", "shape [B]"),
    "empty": (credit, {"gain": torch.zeros(2, 0)}, "gain", "(2, 0)", "pad it"),
    "columns": (gain, {"likelihood": torch.zeros(1, 2)}, "likelihood", "(1, 2)", "[B, T+1] = (1, 3)"),
    "mask": (credit, {"is_process": torch.zeros(2, 2)}, "is_process", "torch.float32", "is_process.bool()"),
    "index": (credit, {"group": torch.zeros(2)}, "group", "torch.float32", "group.long()"),
    "gain": (credit, {"gain": torch.tensor([[0, 0], [NAN, 0]])}, "gain[1, 0]", "nan", "not valid"),
    "outcome": (credit, {"outcome": torch.tensor([1, NAN])}, "outcome[1]", "nan", "fix the reward function"),
    "group high": (credit, {"group": torch.tensor([0, 2])}, "group[1]", "is 2", "from 0 to 1"),
    "group low": (credit, {"group": torch.tensor([-1, 0])}, "group[0]", "is -1", "from 0 to 1"),
    "n_turns": (credit, {"n_turns": torch.tensor([2, 3])}, "n_turns[1]", "is 3", "between 0 and 2"),
    "process": (credit, {"n_turns": torch.tensor([2, 0])}, "is_process[1, 0]", "is True", "unset it"),
    "pool": (credit, {"pool": "batch"}, "pool", "'batch'", "'turn', 'prompt'"),
    "baseline": (credit, {"baseline": "mean"}, "baseline", "'mean'", "'survivors', 'absorbing', 'active'"),
    "gamma": (credit, {"gamma": 1.1}, "gamma", "1.1", "between 0.0 and 1.0"),
    "beta": (credit, {"beta": -0.3}, "beta", "-0.3", "between 0.0 and 1.0"),
    "likelihood": (
        gain,
        {"likelihood": torch.tensor([[NAN, 0, 0]])},
        "likelihood[0, 0]",
        "nan",
        "score them",
    ),
    "empty turn": (
        loss,
        {"turn_ids": torch.tensor([[-1, 0, 2]])},
        "turn_ids[0, 2]",
        "is 2",
        "number the turns",
    ),
    "first turn": (
        loss,
        {"turn_ids": torch.tensor([[1, 1, 1]])},
        "turn_ids[0, 0]",
        "is 1",
        "number the turns",
    ),
    "turn below": (loss, {"turn_ids": torch.tensor([[0, -2, 1]])}, "turn_ids[0, 1]", "is -2", "use -1"),
    "turn above": (
        loss,
        {"advantage": torch.zeros(1, 1), "clip_scale": torch.ones(1, 1)},
        "turn_ids[0, 2]",
        "is 1",
        "give one to",
    ),
    "ratio": (loss, {"ratio": "word"}, "ratio", "'word'", "'turn', 'token', 'sequence'"),
    "aggregate": (loss, {"aggregate": "sum"}, "aggregate", "'sum'", "'rollout', 'token'"),
    "eps_low": (loss, {"eps_low": 2.0}, "eps_low", "2.0", "between 0.0 and 1.0"),
    "upper": (loss, {"upper": "keep"}, "upper", "'keep'", "'clip', 'keep_gradient'"),
    "n_tokens": (loss, {"n_tokens": 3}, "n_tokens", "is 3", "aggregate='token'"),
    "no tokens": (loss, {"n_tokens": 0, "aggregate": "token"}, "n_tokens", "is 0", "between 1"),
    "counted tokens": (
        loss,
        {"n_tokens": torch.tensor(0), "aggregate": "token"},
        "n_tokens[]",
        "is 0",
        "all micro-batches",
    ),
    "owned": (loss, {"owned": torch.ones(1, 3).bool()}, "owned", "(1, 3)", "[B, T] = (1, 2)"),
    "std_floor": (credit, {"std_floor": 0.0}, "std_floor", "0.0", "between 1e-12"),
    "no state": (gigpo, {"state": None}, "state", "is None", "TurnBatch(state=...)"),
    "state": (gigpo, {"state": torch.tensor([[0], [2]])}, "state[1, 0]", "is 2", "from 0 to 1"),
    "tree": (tree, {"tree": torch.tensor([0, -1])}, "tree[1]", "is -1", "from 0 to 1"),
    "entropy": (entropy, {"entropy": torch.tensor([[NAN], [0]])}, "entropy[0, 0]", "nan", "finite mean"),
    "batch": (entropy, {"entropy": torch.zeros(2)}, "entropy", "(2,)", "shape [B, T]"),
    "node": (shared, {"node": torch.tensor([[0, 1], [0, 4]])}, "node[1, 1]", "is 4", "from 0 to 3"),
    "leaves": (leaves, {"n_tokens": torch.ones(3).long()}, "n_tokens", "(3,)", "[B] = (2,)"),
    "node of leaves": (leaves, {"node": torch.tensor([[0, -2], [0, 1]])}, "node[0, 1]", "is -2", "from 0 to 3"),
    "dual clip": (loss, {"dual_clip": 1.001}, "dual_clip", "1.001", "between 1.004"),
    "negative": (loss, {"negative": torch.zeros(1, 3)}, "negative", "(1, 3)", "[B, T] = (1, 2)"),
    "turn weight": (loss, {"turn_weight": torch.tensor([[1.0, -1.0]])}, "turn_weight[0, 1]", "-1.0", "0 leaves it"),
    "penalty": (loss, {"penalty": torch.zeros(1, 2)}, "penalty", "(1, 2)", "[B, L] = (1, 3)"),
    "std": (outcomes, {"std": "robust"}, "std", "'robust'", "'population', 'sample'"),
    "release": (release, {"gain": torch.tensor([[NAN], [0.0]])}, "gain[0, 0]", "nan", "not valid"),
    "buffer": (overlong, {"buffer": 21}, "buffer", "21", "between 1 and 20"),
    "ratio tokens": (ratio, {"old_logp": torch.zeros(1, 2)}, "old_logp", "(1, 2)", "[B, L] = (1, 3)"),
    "ratio turns": (ratio, {"turn_ids": torch.tensor([[0, 2, 1]])}, "turn_ids[0, 1]", "is 2", "number the turns"),
    "reference": (kl, {"ref_logp": torch.zeros(2, 3)}, "ref_logp", "(2, 3)", "[B, L] = (1, 3)"),
    "sampled by": (kl, {"old_logp": torch.zeros(1, 1)}, "old_logp", "(1, 1)", "[B, L] = (1, 3)"),
    "kept": (kept, {"kept": torch.ones(1, 1).bool()}, "turn_ids[0, 2]", "is 1", "give one to"),
    "mean of turns": (mean_of_turns, {"n_turns": 1}, "turn_ids[0, 2]", "is 1", "give one to"),
    "mean of rollouts": (mean_of_rollouts, {"per_token": torch.zeros(3)}, "per_token", "(3,)", "shape [B, L]"),
    "eps_high": (loss, {"eps_high": -1.0}, "eps_high", "-1.0", "between 0.0 and inf"),
}


@pytest.mark.parametrize("function, changes, name, value, remedy", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(function, changes, name, value, remedy):
    """The message starts with the argument and holds the offending value and what to do."""
    function()
    with pytest.raises(ValueError) as error:
        function(**changes)
    message = str(error.value)
    assert message.startswith(f"{name} ") and value in message and remedy in message


def test_ignored_values_may_be_anything():
    """Gains off process turns are not read, so they need no cleaning."""
    dirty = credit(gain=torch.tensor([[0.5, NAN], [0.25, float("inf")]]))
    assert all(map(torch.equal, dirty, credit()))


@pytest.mark.parametrize(
    "kind, options, name",
    [
        (core.TurnGroupCredit, {"gamma": 2.0}, "gamma"),
        (core.TurnGroupCredit, {"baseline": "mean"}, "baseline"),
        (core.IgpoCredit, {"norm": "both"}, "norm"),
        (core.GigpoCredit, {"weight": -1.0}, "weight"),
        (core.MicaCredit, {"weight": 1.5}, "weight"),
        (core.EntropyCredit, {"weight": float("nan")}, "weight"),
        (core.OutcomeCredit, {"std": "both"}, "std"),
        (core.TreeCredit, {"std": "both"}, "std"),
        (core.ReleaseCredit, {"alpha": -0.3}, "alpha"),
        (core.TurnGroupCredit, {"alpha": float("inf")}, "alpha"),
        (core.ReturnCredit, {"alpha": float("inf")}, "alpha"),
        (core.ReleaseCredit, {"alpha": float("nan")}, "alpha"),
        (core.GigpoCredit, {"weight": float("inf")}, "weight"),
        (core.EntropyCredit, {"weight": float("inf")}, "weight"),
    ],
)
def test_rules_check_their_parameters(kind, options, name):
    """A rule with a parameter outside its range cannot be built."""
    with pytest.raises(ValueError, match=f"^{name} is"):
        kind(**options)
