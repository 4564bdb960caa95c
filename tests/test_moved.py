"""Scripts written for 0.1 import the very objects of today, with one warning that names the new place."""

import importlib
import sys

import pytest

from a2tgpo._moved import MOVED


@pytest.mark.parametrize("old, new", MOVED.items())
def test_an_old_name_is_the_new_module(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        assert importlib.import_module(old) is importlib.import_module(new)
    assert importlib.import_module(new).__spec__.name == new


def test_modules_of_a_moved_package_are_not_loaded_twice():
    from a2tgpo.scoring.boundaries import Boundaries as old
    from a2tgpo.signals.answer_likelihood.boundaries import Boundaries as new

    assert old is new


def test_what_scripts_import_from_the_package():
    import a2tgpo
    from a2tgpo.integrations.trl_rollout import TagRollout

    assert a2tgpo.TagRollout is TagRollout
    assert set(a2tgpo.__all__) == {"A2TGPOConfig", "A2TGPOTrainer", "TagRollout"}
