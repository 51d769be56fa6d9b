"""No search for garbage while modules are imported."""

import gc

import pytest

from cdlm import garbage


@garbage.ignored()
def failing_import() -> None:
    assert not gc.isenabled()
    raise ImportError


def test_the_collector_rests_and_leaves_alone_what_was_made() -> None:
    before = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError):
            failing_import()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
