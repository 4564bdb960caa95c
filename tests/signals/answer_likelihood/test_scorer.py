import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import distributed
from torch.nn.functional import pad

from a2tgpo.messages import warn_once
from a2tgpo.signals.answer_likelihood import (
    AnswerScaffold,
    AnswerScorer,
    fused_forward,
    plain_forward,
    scorer,
    trajectories,
)

SCAFFOLD = AnswerScaffold("it is ( {answer} )")
BARE = AnswerScaffold("{answer} )")
# Columns of the completion after which an observation ends, for each rollout of the `batch` fixture.
OBSERVATION_ENDS = [[4, 7], [], [6], [2, 7, 9]]


def score(model, batch, answer_scorer, forward=None, **options):
    forward = plain_forward(model) if forward is None else forward
    return answer_scorer.score(forward, model.config, **vars(batch), **options)


@torch.no_grad()
def answer_logp(model, prefix: list[int], suffix) -> float:
    """Mean log-probability of the suffix's answer tokens, from one unpadded row and the definition."""
    ids = torch.tensor([[*prefix, *suffix.ids]])
    logps = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    columns = [len(prefix) + j for j, scored in enumerate(suffix.is_answer) if scored]
    return sum(logps[column - 1, ids[0, column]].item() for column in columns) / len(columns)


def by_hand(model, batch, tokenizer, scaffold, n_aliases: int) -> torch.Tensor:
    """Log-likelihoods from the hand-written boundaries, one row at a time."""
    likelihood = torch.zeros(4, 5)
    for row, ends in enumerate(OBSERVATION_ENDS):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row].bool()].tolist()
        suffixes = [scaffold.encode(tokenizer, answer) for answer in batch.answers[row][:n_aliases]]
        for boundary, end in enumerate([0, *ends]):
            prefix = prompt + batch.completion_ids[row, :end].tolist()
            likelihood[row, boundary] = max(answer_logp(model, prefix, suffix) for suffix in suffixes)
    return likelihood


@pytest.mark.parametrize("scaffold", [SCAFFOLD, BARE], ids=["scaffold", "no prefix"])
@pytest.mark.parametrize("alias", ["first", "best"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "gpt2", "qwen3_moe"])
def test_cached_equals_rows_equals_the_definition(make_model, batch, tokenizer, name, attention, alias, scaffold):
    """Both methods give, to 1e-4, what one unpadded row per boundary and alias gives: on grouped-query
    attention, rotary and learned positions and experts, with left-padded prompts and ragged turns, also when
    the answer's first token is predicted by the prefix itself."""
    model = make_model(name, attention)
    expected = by_hand(model, batch, tokenizer, scaffold, n_aliases=1 if alias == "first" else 3)
    options = {"alias": alias, "likelihood": "log_probability"}
    for method in ("cached", "rows"):
        found = score(model, batch, AnswerScorer(scaffold, tokenizer, method=method, **options))
        torch.testing.assert_close(found.likelihood, expected, atol=1e-4, rtol=0)
    assert expected[3, :4].std() > 0.03  # the boundaries differ, so a wrong one would show


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_log_probability_is_the_logarithm_of_probability(make_model, batch, tokenizer, method):
    """The release's likelihood is the paper's without its exponential, on the boundaries that exist."""
    model = make_model("llama")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, method=method)
    probability = score(model, batch, answer_scorer)
    log = score(model, batch, replace(answer_scorer, likelihood="log_probability"))
    exists = probability.boundaries.exists
    torch.testing.assert_close(log.likelihood[exists], probability.likelihood[exists].log())
    assert (log.likelihood[exists] < 0).all()


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_boundaries_that_do_not_exist_have_likelihood_zero(make_model, batch, tokenizer, method):
    """Missing columns are 0, never NaN; a rollout without process turn keeps the likelihood of its query."""
    found = score(make_model("llama"), batch, AnswerScorer(SCAFFOLD, tokenizer, method=method))
    assert found.boundaries.exists.sum(1).tolist() == [3, 1, 2, 4]
    assert (found.likelihood[~found.boundaries.exists] == 0).all()
    assert (found.likelihood[found.boundaries.exists] > 0).all()


def test_best_alias_is_never_below_the_first(make_model, batch, tokenizer):
    """The best alias is a maximum that includes the first, and one of these rollouts has a likelier one."""
    model = make_model("llama")
    first = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer)).likelihood
    best = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, alias="best")).likelihood
    assert (best >= first - 1e-6).all()
    assert (best > first + 1e-3).any()


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_old_logps_are_those_of_a_plain_forward(make_model, batch, tokenizer, method):
    """Each policy token's entry is its log-softmax value in an unpadded pass; every other entry is 0."""
    model = make_model("qwen3")
    found = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, method=method)).old_logps
    expected = torch.zeros_like(found)
    for row in range(4):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row].bool()]
        ids = torch.cat([prompt, batch.completion_ids[row][batch.completion_mask[row].bool()]])
        with torch.no_grad():
            logps = torch.log_softmax(model(ids[None]).logits[0], dim=-1)
        for column in batch.model_mask[row].nonzero().flatten().tolist():
            at = len(prompt) + column
            expected[row, column] = logps[at - 1, ids[at]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["cached", "rows"])
def test_keys_alone(make_model, batch, tokenizer, monkeypatch, method, fused):
    """Without old log-probabilities the likelihoods are the same, the trajectories are read up to the last boundary and
    no further (not at all where the answers have rows of their own), the head sees nothing but answers, and the seconds
    are all the likelihoods'."""
    monkeypatch.setattr(trajectories, "ALIGNMENT", 1)
    model, answer_scorer = make_model("llama"), AnswerScorer(SCAFFOLD, tokenizer, method=method)
    if fused:
        pytest.importorskip("trl.trainer.utils").add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    forward = fused_forward(model) if fused else plain_forward(model)
    whole = score(model, batch, answer_scorer, forward)
    widths: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = score(model, batch, answer_scorer, forward, old_logps=False)
    torch.testing.assert_close(found.likelihood, whole.likelihood, atol=1e-5, rtol=0)
    assert found.old_logps is None and found.seconds_logps == 0 < found.seconds_gain
    if method == "rows":
        assert len(widths) == 1
        return
    last = int(found.boundaries.columns.max())
    assert widths[0] == last - int(batch.prompt_mask.int().argmax(1).min()) and len(widths) == 2
    assert last < batch.prompt_ids.shape[1] + batch.completion_ids.shape[1]


@pytest.mark.parametrize("cut_last_result", [False, True])
def test_boundaries_the_caller_knows_are_not_found_again(make_model, batch, tokenizer, monkeypatch, cut_last_result):
    """Scores read at boundaries that are passed in are those read at boundaries found on the way."""
    model = make_model("llama")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, cut_last_result=cut_last_result)
    expected = score(model, batch, answer_scorer)
    monkeypatch.delattr(scorer, "find_boundaries")
    found = score(model, batch, answer_scorer, boundaries=expected.boundaries)
    assert found.likelihood.equal(expected.likelihood)
    assert found.boundaries.columns.equal(expected.boundaries.columns)


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_more_padding_changes_nothing(make_model, batch, tokenizer, method):
    """Five more padding columns on either side leave likelihoods and old log-probabilities alone."""
    model, answer_scorer = make_model("llama"), AnswerScorer(SCAFFOLD, tokenizer, method=method)
    before = score(model, batch, answer_scorer)
    wide = copy.copy(batch)
    wide.prompt_ids, wide.prompt_mask = pad(batch.prompt_ids, (5, 0), value=9), pad(batch.prompt_mask, (5, 0))
    wide.completion_ids = pad(batch.completion_ids, (0, 5), value=9)
    wide.completion_mask = pad(batch.completion_mask, (0, 5))
    wide.model_mask = pad(batch.model_mask, (0, 5), value=1)
    after = score(model, wide, answer_scorer)
    torch.testing.assert_close(after.likelihood, before.likelihood, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.old_logps[:, :13], before.old_logps, atol=1e-5, rtol=0)
    assert (after.old_logps[:, 13:] == 0).all()


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("method", ["cached", "rows"])
def test_micro_batches_change_nothing(make_model, batch, tokenizer, monkeypatch, method, tokens, count_padding):
    """Rollouts scored one at a time or two and three at a time, each micro-batch cut to its own columns on both sides,
    equal the whole batch, in the same order and shapes."""
    model = make_model("llama")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, alias="best", method=method, count_padding=count_padding)
    whole = score(model, batch, answer_scorer)
    monkeypatch.setattr(trajectories, "ALIGNMENT", 1)
    parts = score(model, batch, answer_scorer, tokens_per_batch=tokens)
    torch.testing.assert_close(parts.likelihood, whole.likelihood, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.old_logps, whole.old_logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_in_bfloat16_the_cache_costs_no_precision(make_model, batch, tokenizer, name):
    """Over sixteen random models and prompts of a hundred tokens, cached log-likelihoods in bfloat16 are no further
    from float32 rows of the same weights than bfloat16 rows are, up to the tenth by which two such averages differ by
    chance (one model's alone differ by half)."""
    errors = {"cached": [], "rows": []}
    for seed in range(16):
        model = make_model(name, seed=seed).to(torch.bfloat16)
        batch.prompt_ids = torch.randint(2, 48, (4, 100), generator=torch.Generator().manual_seed(seed))
        batch.prompt_mask = torch.ones_like(batch.prompt_ids)
        rows = AnswerScorer(SCAFFOLD, tokenizer, method="rows", likelihood="log_probability")
        exact = score(copy.deepcopy(model).float(), batch, rows)
        for method, found in errors.items():
            likelihood = score(model, batch, replace(rows, method=method)).likelihood
            found.append((likelihood - exact.likelihood)[exact.boundaries.exists])
    rms = {method: torch.cat(found).square().mean().sqrt().item() for method, found in errors.items()}
    assert rms["cached"] != rms["rows"]
    assert 0 < rms["cached"] < 1.1 * rms["rows"], rms


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_later_tokens_cannot_leak_into_a_boundary(make_model, batch, tokenizer, method):
    """Replacing everything from the last observation on changes only what is read after it."""
    model, answer_scorer = make_model("llama"), AnswerScorer(SCAFFOLD, tokenizer, method=method)
    before = score(model, batch, answer_scorer).likelihood
    changed = copy.copy(batch)
    changed.completion_ids = batch.completion_ids.clone()
    changed.completion_ids[3, 8:12] = 11  # rollout 3: its third observation and its answer
    after = score(model, changed, answer_scorer).likelihood
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-5, rtol=0)
    assert (after[3, 3] - before[3, 3]).abs() > 1e-4


def test_the_scaffold_is_context_and_never_scored(make_model, batch, tokenizer):
    """Scoring a token of the scaffold too would change the mean: the result equals the mean over the answer's
    tokens alone, and differs from the mean over the whole suffix."""
    model = make_model("llama")
    found = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, likelihood="log_probability"))
    suffix = SCAFFOLD.encode(tokenizer, "paris")
    prompt = batch.prompt_ids[0][batch.prompt_mask[0].bool()].tolist()
    whole = replace(suffix, is_answer=(True,) * len(suffix.ids))
    value = found.likelihood[0, 0].item()
    assert value == pytest.approx(answer_logp(model, prompt, suffix), abs=1e-4)
    assert abs(value - answer_logp(model, prompt, whole)) > 0.1


def test_cut_last_result_reads_the_last_likelihood_before_its_result(make_model, batch, tokenizer):
    """Only the last process turn's likelihood moves, to the value after the turn itself."""
    model, answer_scorer = make_model("llama"), AnswerScorer(SCAFFOLD, tokenizer)
    whole = score(model, batch, answer_scorer).likelihood
    cut = score(model, batch, replace(answer_scorer, cut_last_result=True)).likelihood
    torch.testing.assert_close(cut[3, :3], whole[3, :3], atol=1e-5, rtol=0)
    prompt = batch.prompt_ids[3][batch.prompt_mask[3].bool()].tolist()
    prefix = prompt + batch.completion_ids[3, :8].tolist()
    expected = torch.tensor(answer_logp(model, prefix, SCAFFOLD.encode(tokenizer, "the city of light"))).exp()
    assert cut[3, 3].item() == pytest.approx(expected.item(), abs=1e-4)
    assert (cut[3, 3] - whole[3, 3]).abs() > 1e-4


@pytest.mark.parametrize(("tokens", "n_rollouts"), [(None, [4]), (39, [1, 1, 1, 1]), (60, [2, 2])])
def test_cached_runs_the_model_twice_per_micro_batch(make_model, batch, tokenizer, monkeypatch, tokens, n_rollouts):
    """One trajectory forward and one suffix forward, however many turns and aliases there are, each within the budget
    where more than one rollout takes part; the suffix forward feeds no more than the most suffix tokens and a spare."""
    monkeypatch.setattr(trajectories, "ALIGNMENT", 1)
    model = make_model("llama")
    forward, shapes = plain_forward(model), []
    model.model.register_forward_hook(
        lambda module, inputs, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, alias="best", method="cached")
    score(model, batch, answer_scorer, forward, tokens_per_batch=tokens)
    assert [rows for rows, _ in shapes] == [rows for rows in n_rollouts for _ in range(2)]
    if tokens is not None:
        assert all(rows == 1 or rows * columns <= tokens + rows for rows, columns in shapes)
    columns, suffix_tokens = [15, 7, 13, 13], [3 * 4, 1 * (5 + 5), 2 * (4 + 4 + 7), 4 * 7]
    if tokens == 39:
        order = [0, 2, 3, 1]
        assert shapes[0::2] == [(1, columns[rollout]) for rollout in order]
        assert shapes[1::2] == [(1, suffix_tokens[rollout] + 1) for rollout in order]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_query_of_the_suffix_forward_sees_a_key(make_model, batch, tokenizer, attention):
    """No row of the mask is empty, fillers included: some attention kernels answer an empty row with NaN."""
    model = make_model("llama", attention)
    forward, masks = plain_forward(model), []
    model.model.register_forward_hook(
        lambda module, inputs, kwargs, output: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, alias="best", method="cached"), forward)
    visible = masks[1] if attention == "sdpa" else masks[1] == 0
    assert visible.shape == (4, 1, 31, 20 + 31)
    assert visible.any(-1).all()


def test_the_budget_limits_the_rows_of_a_forward(make_model, batch, tokenizer):
    """Ten boundaries, the longest of 20 tokens, take as many forwards as 40 tokens allow, beside the trajectories'
    own, with the same result."""
    model = make_model("llama")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, method="rows")
    expected = score(model, batch, answer_scorer).likelihood
    forward, shapes = plain_forward(model), []
    model.model.register_forward_hook(
        lambda module, inputs, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = score(model, batch, answer_scorer, forward, tokens_per_batch=40).likelihood
    assert shapes[:2] == [(2, 20), (2, 20)]
    assert sum(rows for rows, _ in shapes[2:]) == 10
    assert all(rows * columns <= 40 for rows, columns in shapes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("method", "alone", "beside"), [("cached", 2 * 4, 2 * 7), ("rows", 4 + 10, 7 + 10)])
def test_every_process_runs_as_many_forwards_as_the_busiest(
    make_model, batch, tokenizer, monkeypatch, method, alone, beside
):
    """A sharded model hangs when processes call it unequally often. Here another process needs 7 micro-batches (and
    10 rows) and this one 4: it runs 7 too, and its result stays the same."""
    model = make_model("llama")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, method=method)
    expected = score(model, batch, answer_scorer)
    forward, calls = plain_forward(model), []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        score(model, batch, answer_scorer, forward, tokens_per_batch=1)
        assert len(calls) == alone
        monkeypatch.setattr(distributed, "all_reduce", lambda count, op: count.clamp_(min=7))
        found = score(model, batch, answer_scorer, forward, tokens_per_batch=1)
    finally:
        distributed.destroy_process_group()
    assert len(calls) == alone + beside
    torch.testing.assert_close(found.likelihood, expected.likelihood, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.old_logps, expected.old_logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["cached", "rows"])
def test_no_gradient_and_no_inference_tensors(make_model, batch, tokenizer, method):
    """Scores carry no graph, yet can take part in a loss: inference-mode tensors could not."""
    model = make_model("llama")
    found = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, method=method))
    assert not found.likelihood.requires_grad and not found.old_logps.requires_grad
    weight = torch.ones((), requires_grad=True)
    (weight * found.old_logps * found.likelihood[:, :1]).sum().backward()
    assert weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_trl_fused_head_gives_the_same_scores(make_model, batch, tokenizer, name):
    """Through TRL's patched model, which switches `use_cache` off, both methods still agree with the plain
    forward."""
    trl = pytest.importorskip("trl.trainer.utils")
    model = make_model(name)
    expected = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, method="rows"))
    trl.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    for method in ("cached", "rows"):
        answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, method=method)
        found = score(model, batch, answer_scorer, fused_forward(model))
        torch.testing.assert_close(found.likelihood, expected.likelihood, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.old_logps, expected.old_logps, atol=1e-4, rtol=0)


def test_auto_falls_back_to_rows_and_says_why_once(make_model, batch, tokenizer, caplog):
    """A model that no forward can start from a state: "auto" gives the row result with one warning that names the
    reason, and "cached" refuses with the same reason."""
    warn_once.cache_clear()
    model = make_model("mamba")
    answer_scorer = AnswerScorer(SCAFFOLD, tokenizer, likelihood="log_probability")
    with caplog.at_level(logging.WARNING, logger="a2tgpo.signals.answer_likelihood.scorer"):
        found = score(model, batch, answer_scorer)
        score(model, batch, answer_scorer)
    warnings = [
        record.getMessage() for record in caplog.records if record.name == "a2tgpo.signals.answer_likelihood.scorer"
    ]
    assert len(warnings) == 1 and "separate rows" in warnings[0] and "Mamba-1" in warnings[0]
    expected = by_hand(model, batch, tokenizer, SCAFFOLD, n_aliases=1)
    torch.testing.assert_close(found.likelihood, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"method='cached' cannot score this model: .*Mamba-1"):
        score(model, batch, replace(answer_scorer, method="cached"))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen3_next"])
def test_auto_uses_the_cache_silently_where_it_can(make_model, batch, tokenizer, caplog, name):
    """On full attention, behind windows and past recurrent layers "auto" is "cached", without a warning of ours."""
    model = make_model(name)
    with caplog.at_level(logging.WARNING, logger="a2tgpo.signals.answer_likelihood.scorer"):
        found = score(model, batch, AnswerScorer(SCAFFOLD, tokenizer))
    assert not [record for record in caplog.records if record.name.startswith("a2tgpo")]
    assert found.likelihood.equal(score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, method="cached")).likelihood)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_a_cache_left_empty_is_an_error_not_a_wrong_number(make_model, batch, tokenizer):
    """Gradient checkpointing in training mode drops the cache silently; scoring stops and says so."""
    model = make_model("llama").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing off"):
        score(model, batch, AnswerScorer(SCAFFOLD, tokenizer, method="cached"))


def test_time_is_split_between_old_logps_and_gain(make_model, batch, tokenizer):
    """Both parts are measured, in seconds."""
    found = score(make_model("llama"), batch, AnswerScorer(SCAFFOLD, tokenizer))
    assert 0 < found.seconds_logps < 60
    assert 0 < found.seconds_gain < 60


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([["paris"]] * 3, "answers has 3 entries for 4 rollouts"),
        ([["paris"], [], ["rome"], ["rome"]], r"answers\[1\] is \[\]"),
        ([["paris"], "paris", ["rome"], ["rome"]], r"answers\[1\] is 'paris'"),
        ([["paris"], [" "], ["rome"], ["rome"]], "answer ' ' is blank"),
    ],
)
def test_bad_answers_are_refused(make_model, batch, tokenizer, answers, message):
    """Missing rows, missing aliases, a bare string and a blank answer each name themselves."""
    batch.answers = answers
    with pytest.raises(ValueError, match=message):
        score(make_model("llama"), batch, AnswerScorer(SCAFFOLD, tokenizer))


@pytest.mark.parametrize("option", [{"likelihood": "odds"}, {"alias": "all"}, {"method": "fast"}])
def test_unknown_options_are_refused(tokenizer, option):
    """The error names the option and its value."""
    (name,) = option
    with pytest.raises(ValueError, match=f"{name} is "):
        AnswerScorer(SCAFFOLD, tokenizer, **option)


def test_the_budget_must_be_positive(make_model, batch, tokenizer):
    """A budget without a token is a mistake, and says what None does."""
    with pytest.raises(ValueError, match="tokens_per_batch is 0"):
        score(make_model("llama"), batch, AnswerScorer(SCAFFOLD, tokenizer), tokens_per_batch=0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_counted_padding_repeats_a_forward_without_positions(make_model, batch, tokenizer, name):
    """With `count_padding` the old log-probabilities are exactly those of a forward that gets no `position_ids`,
    in bfloat16 too, and on rotary models the likelihoods do not move."""
    model = make_model(name).to(torch.bfloat16)
    scorer = AnswerScorer(SCAFFOLD, tokenizer, count_padding=True)
    found = score(model, batch, scorer).old_logps
    ids = torch.cat([batch.prompt_ids, batch.completion_ids], dim=1)
    mask = torch.cat([batch.prompt_mask, batch.completion_mask], dim=1).long()
    written = batch.model_mask.bool() & batch.completion_mask.bool()
    labels = torch.cat([torch.full_like(batch.prompt_ids, -100), batch.completion_ids.masked_fill(~written, -100)], 1)
    with torch.no_grad():
        expected = plain_forward(model)(ids, labels, attention_mask=mask)[:, batch.prompt_ids.shape[1] :]
    assert torch.equal(found, expected)
    if name == "llama":
        model = make_model(name)
        moved = score(model, batch, scorer).likelihood
        torch.testing.assert_close(
            moved, score(model, batch, replace(scorer, count_padding=False)).likelihood, atol=1e-5, rtol=0
        )
