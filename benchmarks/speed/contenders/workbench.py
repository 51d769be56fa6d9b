"""The contenders of one shape and precision, each made when it is first asked for."""

import gc
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.speed.contenders.baselines import TeacherLoops, TransformersGenerate
from benchmarks.speed.contenders.load import Load, Unavailable
from benchmarks.speed.contenders.offline import Offline
from benchmarks.speed.contenders.served import Served, vllm_server
from benchmarks.speed.contenders.shapes import CONTEXT, Shape
from benchmarks.speed.pace import Pace
from benchmarks.speed.settings import Settings
from cdlm.cli.local_server import local_server
from cdlm.model.device import DTYPES, resolve_device
from cdlm.scheduler.options import EngineOptions


class Workbench:
    """Holds models until ``drop`` or the end of the block, and the server, which is idle meanwhile, until its end.

    Args:
        vllm: a Python with vLLM installed; ``None`` leaves it out.
    """

    def __init__(
        self, shape: Shape, dtype: str, settings: Settings, pace: Pace, cache: Path, vllm: Path | None = None
    ) -> None:
        self.shape, self.dtype, self.settings, self.pace = shape, dtype, settings, pace
        self.cache, self.vllm = cache, vllm
        self.device = resolve_device(settings.device)
        self._held, self._dropped = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        self._held.close()

    def drop(self) -> None:
        """Frees the models in this process, and ends vLLM, which may not be idle without requests."""
        self._dropped.close()
        for name in ("offline", "unpacked", "autoregressive", "loops", "transformers", "vllm_http"):
            self.__dict__.pop(name, None)
        gc.collect()

    def equal_work(self, batch: int, prompt: int) -> Load:
        """One token per forward."""
        return Load.equal(batch, prompt, self.settings.new_tokens)

    def student_pace(self, batch: int, prompt: int) -> Load:
        """The bundled student's number of tokens per forward."""
        return Load.equal(batch, prompt, self.settings.new_tokens, self.pace.steps_per_block)

    def student_streams(self, streams: int, prompt: int) -> Load:
        """Likewise, for as long as each stream has five answers."""
        return Load.steady(streams, prompt, self.settings.new_tokens, self.pace.steps_per_block)

    @cached_property
    def offline(self) -> Offline:
        """The engine with the block-causal model."""
        return Offline(self._options(self.shape.directory(self.cache)))

    @cached_property
    def unpacked(self) -> Offline:
        """The same with its weights as checkpoints store them."""
        options = self._options(self.shape.directory(self.cache))
        return Offline(options.model_copy(update={"pack_weights": False}))

    @cached_property
    def autoregressive(self) -> Offline:
        """The engine with the causal model: blocks of one token."""
        return Offline(self._options(self.shape.autoregressive_directory(self.cache)))

    @cached_property
    def loops(self) -> TeacherLoops:
        """The bidirectional decoders."""
        return TeacherLoops(self.shape.teacher_directory(self.cache), self.device, self.dtype)

    @cached_property
    def transformers(self) -> TransformersGenerate:
        """``generate`` of transformers with the causal model."""
        return TransformersGenerate(self.shape.autoregressive_directory(self.cache), self.device, self.dtype)

    @cached_property
    def http(self) -> Served:
        """``cdlm serve`` of the block-causal model, in processes of its own."""
        options = self._options(directory := self.shape.directory(self.cache))
        flags = ["--dtype", self.dtype, "--device", str(self.device), "--max-num-seqs", str(options.max_num_seqs)]
        flags += ["--kv-cache-memory", str(options.kv_cache_memory)]
        if options.threads is not None:
            flags += ["--threads", str(options.threads)]
        url = self._held.enter_context(local_server(directory, flags=flags))
        return self._client(self._held, url, diffusion=True)

    @cached_property
    def vllm_http(self) -> Served:
        """vLLM's server of the causal model."""
        if self.vllm is None:
            raise Unavailable("vLLM was not measured: no --vllm was given.")
        directory = self.shape.autoregressive_directory(self.cache)
        url = self._dropped.enter_context(vllm_server(self.vllm, directory, self.dtype, CONTEXT))
        return self._client(self._dropped, url, diffusion=False)

    def _client(self, held: ExitStack, url: str, *, diffusion: bool) -> Served:
        client = Served(url, self.shape.transformer().vocab_size, diffusion=diffusion)
        held.callback(client.close)
        return client

    def _options(self, directory: Path) -> EngineOptions:
        return engine_options(directory, self.dtype, self.settings, self._cache_bytes)

    @property
    def _cache_bytes(self) -> int:
        config = self.shape.transformer()
        per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * DTYPES[self.dtype].itemsize
        return self.settings.cache_tokens * per_token


def engine_options(directory: Path, dtype: str, settings: Settings, cache_bytes: int | None = None) -> EngineOptions:
    """The engine's defaults but for memory, precision and threads."""
    return EngineOptions(
        model=str(directory),
        device=settings.device,
        dtype=dtype,
        max_num_seqs=settings.largest_batch,
        kv_cache_memory=cache_bytes,
        threads=settings.threads,
    )
