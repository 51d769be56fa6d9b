"""The table of fields has every field that requests to other servers have: their sources are read for it."""

from collections.abc import Callable

import pytest

from cdlm.server.openai.fields.row import LLAMA, SGLANG, VLLM
from cdlm.server.openai.fields.table import rows_of
from tests.external.clients.peer_sources import Fields, llama_fields, sglang_fields, vllm_fields

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("peer", "read"), [(VLLM, vllm_fields), (SGLANG, sglang_fields), (LLAMA, llama_fields)], ids=str
)
def test_the_table_has_every_field(peer: str, read: Callable[[], Fields]) -> None:
    found = read()
    assert all(len(names) > 1 for names in found.values())
    for route, names in found.items():
        rows = rows_of(route)
        assert names <= rows.keys(), (route, names - rows.keys())
        said = {name for name, row in rows.items() if peer in row.peers}
        assert names <= said, (route, names - said)
    # A row may hold for several routes; that the peer has the field on one of them is enough.
    every = set().union(*found.values())
    claimed = {name for route in found for name, row in rows_of(route).items() if peer in row.peers}
    if peer != SGLANG:  # Its repository is ahead of its releases, and the table follows it.
        assert claimed <= every, claimed - every
