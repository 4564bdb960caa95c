"""Trees computed once against the published way: a loop over leaves, each of which counts its whole path."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo import core

from .batches import padded


class Forest:
    """Random trees of sampled turns: the leaves of two prompts, each a path of nodes from the root on.

    A node has its own tokens, log-probabilities under the old policy and the new one, and gain, which every leaf
    through it shares, as in the rollouts of a tree.
    """

    def __init__(self, seed: int):
        chance = random.Random(seed)
        self.prompts, self.paths = [], []
        tokens: list[int] = []
        for prompt in range(2):
            known: dict[tuple[int, ...], int] = {}
            for _ in range(chance.randint(1, 5)):
                choices = [chance.randint(0, 1) for _ in range(chance.randint(1, 4))]
                path = [
                    known.setdefault(tuple(choices[: t + 1]), len(tokens) + len(known)) for t in range(len(choices))
                ]
                self.prompts.append(prompt)
                self.paths.append(path)
            tokens += [chance.randint(1, 3) for _ in known]
        self.tokens = tokens
        generator = torch.Generator().manual_seed(seed)
        size = (sum(tokens),)
        self.starts = [sum(tokens[:n]) for n in range(len(tokens))]
        self.old = -3 * torch.rand(size, generator=generator, dtype=torch.float64)
        self.new = self.old + 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
        self.reference = self.old + 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
        self.gains = torch.randn(len(tokens), generator=generator, dtype=torch.float64).tolist()
        self.entropies = torch.rand(len(tokens), generator=generator, dtype=torch.float64).tolist()
        self.outcomes = [chance.choice([0.0, 1.0, -1.0]) for _ in self.paths]
        self.valid = [chance.random() < 0.85 for _ in self.paths]

    def places(self, node: int) -> range:
        return range(self.starts[node], self.starts[node] + self.tokens[node])

    def leaf_tokens(self, leaf: int) -> list[tuple[int, int]]:
        """Turn and place of each token of a leaf's path."""
        return [(turn, place) for turn, node in enumerate(self.paths[leaf]) for place in self.places(node)]

    def batch(self) -> core.TurnBatch:
        width = max(map(len, self.paths))
        node = padded(self.paths, width, fill=-1, dtype=torch.long)
        last = torch.tensor([len(path) for path in self.paths])
        group = torch.tensor(self.prompts)
        # A turn that is one leaf's last and another's step on the way is a process turn in both, as in a tree.
        inner = {n for path in self.paths for n in path[:-1]}
        return core.TurnBatch(
            gain=padded([[self.gains[n] for n in path] for path in self.paths], width),
            is_process=padded([[n in inner for n in path] for path in self.paths], width, dtype=torch.bool),
            outcome=torch.tensor(self.outcomes, dtype=torch.float64),
            group=group,
            n_turns=last,
            valid=torch.tensor(self.valid),
            state=(node % 2).masked_fill(node < 0, -1),
            tree=torch.zeros_like(group),
            entropy=padded([[self.entropies[n] for n in path] for path in self.paths], width),
        )

    def nodes(self) -> torch.Tensor:
        """Numbers of the sampled turns, as `share_turns` wants them: from 0 within each prompt."""
        low = {
            q: min(n for p, path in zip(self.prompts, self.paths, strict=True) if p == q for n in path) for q in (0, 1)
        }
        rows = [[n - low[q] for n in path] for q, path in zip(self.prompts, self.paths, strict=True)]
        return padded(rows, max(map(len, rows)), fill=-1, dtype=torch.long)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """A value of every node's tokens in the rows of the leaves, an observation token between turns."""
        width = max(len(self.leaf_tokens(leaf)) + len(path) for leaf, path in enumerate(self.paths))
        places = self.layout(width)
        return torch.where(places >= 0, values[places.clamp(min=0)], torch.nan)

    def layout(self, width: int | None = None) -> torch.Tensor:
        rows = [[x for n in path for x in [*self.places(n), -1]] for path in self.paths]
        return padded(rows, width or max(map(len, rows)), fill=-1, dtype=torch.long)


def loop_over_leaves(forest: Forest, credit: core.TurnCredit, new: torch.Tensor, aggregate, kl_beta, **options):
    """The published loss: each valid leaf counts its whole path, tokens of shared turns again in every leaf."""
    leaves = [leaf for leaf in range(len(forest.paths)) if forest.valid[leaf]]
    n_tokens = sum(len(forest.leaf_tokens(leaf)) for leaf in leaves)
    total = new.new_zeros(())
    for leaf in leaves:
        tokens, value = forest.leaf_tokens(leaf), new.new_zeros(())
        for turn, place in tokens:
            objective = token_objective(forest, credit, new, leaf, turn, place, **options)
            r = forest.reference[place] - new[place]
            value = value - objective + kl_beta * (r.exp() - r - 1)
        total = total + value / (n_tokens if aggregate == "token" else len(tokens) * len(forest.paths))
    return total


def token_objective(forest, credit, new, leaf, turn, place, *, ratio, eps_low, eps_high, upper, dual_clip):
    advantage, scale = credit.advantage[leaf, turn].item(), credit.clip_scale[leaf, turn].item()
    same = [place] if ratio == "token" else list(forest.places(forest.paths[leaf][turn]))
    log_s = sum(new[p] - forest.old[p] for p in same) / len(same)
    s, low, high = log_s.exp(), 1 - scale * eps_low, 1 + scale * eps_high
    if advantage >= 0:
        above = high * (log_s - log_s.detach()).exp() if upper == "keep_gradient" else new.new_tensor(high)
        return advantage * (above if s > high else s)
    if dual_clip is not None and s > dual_clip:
        return new.new_tensor(advantage * dual_clip)
    return advantage * (new.new_tensor(low) if s < low else s)


def computed_once(forest: Forest, credit: core.TurnCredit, new: torch.Tensor, aggregate, kl_beta, rows=None, **options):
    """Ours: every sampled turn in one row. `rows` picks the rows of a micro-batch, in any order."""
    valid = torch.tensor(forest.valid)
    turns = core.turn_ids(forest.layout() >= 0).masked_fill(~valid[:, None], -1)
    group = torch.tensor(forest.prompts)
    lengths = (turns >= 0).sum(dim=1) if aggregate == "rollout" else None
    shared = core.share_turns(credit, forest.nodes(), group, valid, n_tokens=lengths)
    weight = torch.where(turns >= 0, shared.weight.gather(1, turns.clamp(min=0)), 0)
    rows = torch.arange(len(turns)) if rows is None else rows
    logp, ids = forest.rows(new)[rows], turns[rows]
    return core.policy_loss(
        logp,
        forest.rows(forest.old)[rows],
        ids,
        shared.positive[rows],
        shared.clip_scale[rows],
        negative=shared.negative[rows],
        turn_weight=shared.weight[rows],
        penalty=kl_beta * core.kl_penalty(logp, forest.rows(forest.reference)[rows], ids),
        aggregate=aggregate,
        n_tokens=weight.sum().clamp(min=1) if aggregate == "token" else None,
        **options,
    ).loss


RULES = [core.TreeCredit(std="sample"), core.EntropyCredit(), core.TurnGroupCredit(), core.OutcomeCredit()]
variants = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from(["token", "turn"]),
        "aggregate": st.sampled_from(["token", "rollout"]),
        "upper": st.sampled_from(["clip", "keep_gradient"]),
        "dual_clip": st.sampled_from([None, 1.4]),
        "kl_beta": st.sampled_from([0.0, 0.1]),
    }
)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), rule=st.sampled_from(RULES), variant=variants)
def test_equals_a_loop_over_leaves(seed, rule, variant):
    """Loss and gradient by every sampled token are those of the published loop over leaves, to 1e-9, at token and turn
    ratio, per token and per rollout, with either clip, dual clip, KL penalty and rollouts left out."""
    forest = Forest(seed)
    credit = rule(forest.batch())
    results = []
    for loss in (loop_over_leaves, computed_once):
        new = forest.new.clone().requires_grad_()
        value = loss(forest, credit, new, eps_low=0.1, eps_high=0.2, **variant)
        gradient = torch.autograd.grad(value, new)[0] if value.requires_grad else torch.zeros_like(new)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), variant=variants)
def test_rows_in_any_order_and_micro_batch(seed, variant):
    """Rows shuffled and cut into micro-batches give the same sum: a shared turn carries its weight with its row."""
    forest = Forest(seed)
    credit = core.TreeCredit()(forest.batch())
    options = variant | {"eps_low": 0.1, "eps_high": 0.2}
    whole = computed_once(forest, credit, forest.new, **options)
    order = torch.tensor(random.Random(seed).sample(range(len(forest.paths)), len(forest.paths)))
    parts = [rows for rows in order.split(2) if len(rows)]
    sums = [computed_once(forest, credit, forest.new, rows=rows, **options) for rows in parts]
    share = [len(rows) / len(order) if variant["aggregate"] == "rollout" else 1 for rows in parts]
    assert sum(w * part.item() for w, part in zip(share, sums, strict=True)) == pytest.approx(whole.item(), abs=1e-9)


@given(seed=st.integers(0, 10_000))
def test_leaves_agree_on_the_clip_scale(seed):
    """A2TGPO's clip scale depends on a turn and what is before it, so that every leaf through it has the same, and the
    mean that `share_turns` takes is no compromise."""
    forest = Forest(seed)
    credit = core.TurnGroupCredit()(forest.batch())
    shared = core.share_turns(credit, forest.nodes(), torch.tensor(forest.prompts), torch.tensor(forest.valid))
    own = shared.weight > 0
    torch.testing.assert_close(shared.clip_scale[own], credit.clip_scale[own], rtol=0, atol=1e-12)


@pytest.mark.parametrize("aggregate", ["token", "rollout"])
def test_weights_by_hand(aggregate):
    """Of two leaves that share four of five ten-token turns, a shared token weighs .02 and the others .01: what the
    gradient of the loss at ratio 1 and equal advantages is."""
    node = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]])
    credit = core.TurnCredit(torch.ones(2, 5), torch.ones(2, 5), torch.zeros(2, 5))
    mask = torch.tensor([([True] * 10 + [False]) * 5] * 2)
    logp = torch.zeros(2, 55, requires_grad=True)
    lengths = torch.tensor([50, 50]) if aggregate == "rollout" else None
    shared = core.share_turns(credit, node, torch.zeros(2, dtype=torch.long), n_tokens=lengths)
    turns = core.turn_ids(mask)
    loss = core.policy_loss(
        logp,
        logp.detach(),
        turns,
        shared.positive,
        shared.clip_scale,
        negative=shared.negative,
        turn_weight=shared.weight,
        ratio="token",
        aggregate=aggregate,
    ).loss
    (gradient,) = torch.autograd.grad(loss, logp)
    by_turn = core.turn_mean(gradient, turns, 5)
    expected = torch.tensor([[-0.02] * 4 + [-0.01], [0.0] * 4 + [-0.01]])
    torch.testing.assert_close(by_turn, expected)


def test_unlike_lengths_by_hand():
    """Per rollout, a leaf of 2 tokens beside one of 4 gives a shared token 1/2 + 1/4, in the row of either."""
    node, group = torch.tensor([[0, 1], [0, 2]]), torch.zeros(2, dtype=torch.long)
    credit = core.TurnCredit(torch.tensor([[1.0, 1.0], [-2.0, -2.0]]), torch.ones(2, 2), torch.zeros(2, 2))
    shared = core.share_turns(credit, node, group, n_tokens=torch.tensor([4, 2]))
    assert shared.weight.tolist() == [[3, 1], [0, 1]]  # over 4 tokens, the row's own: 3/4 = 1/4 + 1/2
    assert shared.positive.tolist() == [[1, 1], [0, 0]] and shared.negative.tolist() == [[-4, 0], [0, -2]]
    lost = core.share_turns(credit, node, group, torch.tensor([False, True]))
    assert lost.weight.tolist() == [[0, 0], [1, 1]] and math.isclose(lost.negative.sum().item(), -4)
