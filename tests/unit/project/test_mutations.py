"""The faults of ``make mutations`` can be put into the code as it is, and the tests that they name are there."""

import pytest

from tests.mutations import MUTATIONS
from tests.support.places import ROOT


@pytest.mark.parametrize(("name", "old", "new", "tests"), MUTATIONS)
def test_a_fault_can_be_put_into_the_code(name: str, old: str, new: str, tests: str) -> None:
    assert (ROOT / name).read_text().count(old) == 1
    assert old != new
    assert (ROOT / "tests" / tests).exists()
