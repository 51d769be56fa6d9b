"""Attention that is compiled here, by a compiler of C++, shape by shape: it takes the longest of all.

In the usual run ``test_the_compiled_attention_equals_oracle`` has it, with whole and with cut segments.
"""

import pytest

from cdlm.model.attention.flex import FlexAttention
from tests.support.attention import check_cuts, check_segments

# What the compiler imports warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.whole
def test_every_segment_sees_its_own_request_up_to_its_end() -> None:
    check_segments(FlexAttention)


@pytest.mark.whole
def test_a_cut_segment_sees_what_the_whole_saw() -> None:
    check_cuts(FlexAttention)
