import pytest
import torch

from a2tgpo.signals.answer_likelihood import Boundaries, find_boundaries

EOS = 1


def find(*layouts: str, prompt: int = 4, **options) -> Boundaries:
    """Boundaries of rollouts spelt m = policy, o = observation, E = appended EOS, S = the policy's EOS."""
    length = max(map(len, layouts))
    rows = [layout.ljust(length, ".") for layout in layouts]
    completion_ids = torch.tensor([[EOS if kind in "ES." else 5 for kind in row] for row in rows])
    return find_boundaries(
        torch.ones(len(rows), prompt, dtype=torch.bool),
        completion_ids,
        torch.tensor([[kind != "." for kind in row] for row in rows]),
        torch.tensor([[kind in "mS." for kind in row] for row in rows]),  # padding marked as policy, as TRL does
        end_ids=[EOS],
        **options,
    )


def test_hand_written_columns():
    """Prefixes end with the prompt and with each observation; the answer turn has no boundary."""
    found = find("mmoomoommm", "mmmm", "mmmooo", "mom")
    assert found.columns.tolist() == [[4, 8, 11, 4], [4, 4, 4, 4], [4, 10, 4, 4], [4, 6, 4, 4]]
    assert found.is_process.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert found.exists.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert found.n_turns.tolist() == [3, 1, 1, 2]


def test_an_eos_appended_by_the_environment_is_no_observation():
    """ "mmE" has no process turn; after a real observation the EOS stays outside the prefix."""
    found = find("momE", "mmE", "moEE", "moES")
    assert found.is_process.int().tolist() == [[1, 0], [0, 0], [1, 0], [1, 0]]
    assert found.columns[:, 1].tolist() == [6, 4, 6, 7]


def test_without_end_ids_every_foreign_token_is_an_observation():
    """The same rollout has a process turn when nobody says that EOS closes it."""
    completion_ids = torch.tensor([[5, 5, EOS]])
    masks = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    found = find_boundaries(torch.ones(1, 2, dtype=torch.bool), completion_ids, *masks)
    assert found.is_process.tolist() == [[True]]


def test_an_eos_inside_the_rollout_belongs_to_its_observation():
    """Only the completion's tail can be a closing EOS: in the middle it is what the tool said."""
    assert find("mEm").is_process.tolist() == [[True, False]]
    assert find("moEm").columns.tolist() == [[4, 7, 4]]


def test_observation_before_the_first_turn_is_no_turn():
    """Tokens the environment put first belong to no turn and shift nothing."""
    found = find("oomom")
    assert found.n_turns.tolist() == [2]
    assert found.columns.tolist() == [[4, 8, 4]]


def test_cut_last_result_moves_only_the_last_process_turn():
    """The reproduction option ends the last prefix before its observation and leaves the others alone."""
    found = find("mmoomoommm", "mmmm", "mmmooo", cut_last_result=True)
    assert found.columns.tolist() == [[4, 8, 9, 4], [4, 4, 4, 4], [4, 7, 4, 4]]
    assert found.exists.equal(find("mmoomoommm", "mmmm", "mmmooo").exists)


def test_a_batch_without_policy_tokens_keeps_one_turn_column():
    """Shapes stay [B, 1] and [B, 2], with nothing to score after the prompt."""
    found = find("oo", "o")
    assert found.columns.tolist() == [[4, 4], [4, 4]]
    assert not found.is_process.any()
    assert found.n_turns.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_mask": torch.ones(2, 4)}, "model_mask has shape"),
        ({"completion_mask": torch.ones(3, 3)}, "completion_mask has shape"),
        ({"prompt_mask": torch.ones(3, 2)}, "prompt_mask has shape"),
        ({"prompt_mask": torch.tensor([[1, 1], [1, 0]])}, "pad prompts on the left"),
        ({"prompt_mask": torch.ones(2, 0)}, "leave none empty"),
    ],
)
def test_bad_shapes_are_refused(change, message):
    """Each error names the argument."""
    arguments = {
        "prompt_mask": torch.ones(2, 2),
        "completion_ids": torch.ones(2, 3, dtype=torch.long),
        "completion_mask": torch.ones(2, 3),
        "model_mask": torch.ones(2, 3),
    }
    with pytest.raises(ValueError, match=message):
        find_boundaries(**(arguments | change))
