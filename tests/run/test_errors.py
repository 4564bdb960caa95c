"""A missing optional package is an error with a remedy; other faults of an import are left as they are."""

from __future__ import annotations

import pytest

from a2tgpo.errors import A2TGPOError, MissingExtra, needs_extra


def test_a_missing_package_names_its_extra() -> None:
    """The message has what asked, what is missing and the command; it is an ImportError and one of ours."""
    with (
        pytest.raises(
            MissingExtra, match=r"the plot needs no_such_package_x.*pip install 'a2tgpo\[report\]'"
        ) as caught,
        needs_extra("report", "the plot"),
    ):
        import no_such_package_x.part  # type: ignore[import-not-found]  # noqa: F401
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, A2TGPOError)


@pytest.mark.parametrize("code", ["import a2tgpo.no_such_module", "from json import no_such_name"])
def test_other_faults_of_an_import_pass(code: str) -> None:
    """A module of ours that is missing, and a name that an installed package lacks, are no question of extras."""
    with pytest.raises(ImportError) as caught, needs_extra("report", "the plot"):
        exec(code)
    assert not isinstance(caught.value, MissingExtra)
