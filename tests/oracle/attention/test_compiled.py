"""Attention that is compiled here, by a compiler of C++: it takes the longest of all."""

import pytest

from cdlm.model.attention.flex import FlexAttention
from tests.support.attention import check_cuts, check_segments

# What the compiler imports warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.whole
def test_every_segment_sees_its_own_request_up_to_its_end() -> None:
    check_segments(FlexAttention)


def test_a_cut_segment_sees_what_the_whole_saw() -> None:
    check_cuts(FlexAttention)
