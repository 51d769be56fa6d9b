"""Baselines of the same shape: a bidirectional teacher's loops, and transformers' ``generate``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.speed.contenders.load import Load, Prompts, Sample, sample
from cdlm.model.device import resolve_dtype
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.decoding.block_caches import DualCacheDecoder, PrefixCacheDecoder
from cdlm.training.decoding.decoder import FullDecoder, TeacherDecoder
from cdlm.training.decoding.rules import EngineRule

LoopName = Literal["naive", "prefix_cache", "dual_cache"]
_LOOPS: dict[LoopName, Callable[..., TeacherDecoder]] = {
    "naive": FullDecoder,
    "prefix_cache": PrefixCacheDecoder,
    "dual_cache": DualCacheDecoder,
}


class TeacherLoops:
    """The decoders of ``training/decoding`` over one model.

    Each runs the whole canvas, prompt and all new tokens, without an early stop.
    """

    def __init__(self, directory: Path, device: torch.device, dtype: str) -> None:
        checkpoint = load_checkpoint(directory, device=device, dtype=resolve_dtype(dtype, device))
        self.model, self.manifest = checkpoint.transformer, checkpoint.manifest
        self.model.fuse()  # As the engine does: what differs is how they decode.
        self.prompts = Prompts(self.model.config.vocab_size)

    def run(self, name: LoopName, load: Load) -> Sample:
        """Decodes a batch of prompts of one length; a step finalizes ``load.tokens_per_step`` tokens per prompt."""
        decode = _LOOPS[name](
            self.model,
            self.manifest,
            generation_length=load.new_tokens[0],
            early_stop=False,
            rule=EngineRule("fixed_steps", at_least=load.tokens_per_step),
        )
        prompts = self.prompts.draw_all(load)
        started = time.perf_counter()
        done = decode(prompts)
        seconds = time.perf_counter() - started
        if any(decoding.filled != load.new_tokens[0] for decoding in done):
            raise RuntimeError(f"{name} filled another number of tokens than it was asked for")
        return sample(seconds, load.tokens, max(decoding.steps for decoding in done))


class TransformersGenerate:
    """``generate`` of transformers on the causal twin: greedy, with its key-value cache."""

    def __init__(self, directory: Path, device: torch.device, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        torch_dtype = resolve_dtype(dtype, device)
        model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch_dtype, local_files_only=True)
        self.model = model.to(device).eval()
        self.device, self.prompts = device, Prompts(model.config.vocab_size)

    @torch.inference_mode()
    def run(self, load: Load) -> Sample:
        """Decodes a batch of prompts of one length, one token per forward."""
        ids = torch.tensor(self.prompts.draw_all(load), device=self.device)
        count = load.new_tokens[0]
        started = time.perf_counter()
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        ).tolist()
        seconds = time.perf_counter() - started
        if any(len(row) != ids.shape[1] + count for row in out):
            raise RuntimeError("generate returned another number of tokens than it was asked for")
        return sample(seconds, load.tokens, count)
