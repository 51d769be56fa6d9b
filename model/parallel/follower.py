"""A follower rank: runs the leader's commands until the leader disconnects."""

from multiprocessing.connection import Connection

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from cdlm.model.attention.backends import find_attention
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.network.head import Search
from cdlm.model.parallel.messages import (
    Attend,
    Clear,
    Command,
    CopyPage,
    FindPeaks,
    OpenPool,
    Predict,
    RunLayers,
    WriteLayer,
)
from cdlm.model.parallel.transformer import RankTransformer


class Follower:
    """A rank other than the leader.

    Args:
        transformer: this rank's share, with loaded weights.
        search: finds the most probable tokens, as on the leader.
    """

    def __init__(self, transformer: RankTransformer, search: Search) -> None:
        transformer.fuse()
        self._transformer, self._search = transformer, search
        weight = transformer.lm_head.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._cache: PagedCache | None = None
        self._factory: type[PagedAttention] | None = None
        self._attention: dict[int, PagedAttention] = {}

    @torch.inference_mode()
    def serve(self, connection: Connection) -> None:
        """Runs commands from ``connection``; returns when the leader closes it."""
        decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
        while True:
            try:
                payload = connection.recv_bytes()
            except (EOFError, ConnectionResetError):
                return
            self._run(decoder.decode(payload))

    def _run(self, command: Command) -> None:
        match command:
            case OpenPool(num_pages=num_pages, page_size=page_size, attention_backend=backend):
                where = {"device": self._device, "dtype": self._dtype, "page_size": page_size}
                self._cache = PagedCache(self._transformer.config, num_pages=num_pages, **where)  # type: ignore[arg-type]
                self._factory = find_attention(backend, device=self._device, page_size=page_size)
            case CopyPage(source=source, target=target):
                assert self._cache is not None
                self._cache.copy_page(source, target)
            case Clear(pages=pages, start=start):
                assert self._cache is not None
                self._cache.clear(pages, start)
            case Attend(number=number, segments=segments, gone=gone):
                assert self._cache is not None
                assert self._factory is not None
                for each in gone:
                    del self._attention[each]
                self._attention[number] = self._factory(self._cache, segments)
            case RunLayers(attention=number, tokens=tokens, first=first, last=last, gated=gated):
                attention = self._attention[number]
                if self._transformer.gate is not None:
                    self._transformer.gate.first = gated
                self._transformer.run_layers(self._receive(tokens), attention.positions, attention, first, last)
            case WriteLayer(attention=number, tokens=tokens, layer=layer):
                attention = self._attention[number]
                self._transformer.write_layer(self._receive(tokens), attention.positions, attention, layer)
            case Predict(rows=rows):
                self._transformer.logits(self._receive(rows))
            case FindPeaks(rows=rows, mask_token_id=mask):
                self._transformer.peaks(self._receive(rows), self._search, mask)

    def _receive(self, rows: int) -> Tensor:
        """Receives hidden states [rows, hidden_size] from the leader."""
        hidden = torch.empty(rows, self._transformer.config.hidden_size, device=self._device, dtype=self._dtype)
        dist.broadcast(hidden, src=0)
        return hidden
