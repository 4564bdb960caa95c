"""What tests of the trainer look at: the credit of each batch."""

import pytest

from tests.integrations.parts import Recorded, record_credit


@pytest.fixture
def assigned(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Every call of `assign_credit` by the trainer, batch by batch."""
    return record_credit(monkeypatch)
