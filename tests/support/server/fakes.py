"""An engine without a model, which answers requests with scripted blocks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cdlm.scheduler.messages import (
    BlockOutput,
    EngineReady,
    EngineStats,
    GenerateRequest,
    ScoreRequest,
    TokenLogprob,
)
from cdlm.server.text.template import ChatTemplate

MASK, EOS, USER, ASSISTANT = "<|mask|>", "<|endoftext|>", "<|user|>", "<|assistant|>"
CONTEXT = 64
BLOCK = 4


def make_tokenizer(*, bos: bool = False) -> Tokenizer:
    """A byte-level BPE with a few merges and four special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[MASK, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, hello there"] * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 1)])
    return tokenizer


# A chat template that knows no tools.
TEMPLATE = ChatTemplate(
    "{% for message in messages %}{{ (assistant if message.role == 'assistant' else user) + message.content|trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ assistant }}{% endif %}",
    {"assistant": ASSISTANT, "user": USER},
)


def scores(ids: Sequence[int], start: int, alternatives: int) -> list[TokenLogprob]:
    """Made-up log-probabilities, different at every position; the chosen token is the second best."""
    found = []
    for place, token in enumerate(ids, start):
        tops = [(4 + (token + 7 + rank) % 200, -0.25 * (rank + 1) - place / 64) for rank in range(alternatives)]
        own = -0.5 - place / 64
        tops[1:2] = [(token, own)] if len(tops) > 1 else []
        found.append(TokenLogprob(token, own, place % 3 + 1, [t for t, _ in tops], [value for _, value in tops]))
    return found


class FakeEngine:
    """Implements the engine client's interface. ``script`` gives the answer ids of a request."""

    def __init__(self, script: Callable[[GenerateRequest], Sequence[int]], vocab_size: int) -> None:
        self.script = script
        self.ready: EngineReady | None = EngineReady(
            max_model_len=CONTEXT,
            max_guided_len=CONTEXT // 2,
            block_length=BLOCK,
            can_replace=True,
            confidence_threshold=0.9,
            vocab_size=vocab_size,
            mask_token_id=0,
            stop_token_ids=[1],
            page_size=8,
            num_pages=16,
            max_num_seqs=64,
            device="cpu",
            dtype="float32",
            parameters=1,
        )
        self.failure: str | None = None
        self.restarts = 0
        self.last_step_time = 0.0
        self.quiet_s = 0.0
        self.stats = EngineStats(pages_free=16)
        self.stats_listeners: list[Callable[[EngineStats], None]] = []
        self.in_flight = 0
        self.requests: list[GenerateRequest] = []
        self.scored: list[ScoreRequest] = []
        self.aborted: list[str] = []
        self.fail_after: tuple[int, Exception] | None = None
        self.hold_after: int | None = None
        self.held = asyncio.Event()

    async def generate(self, request: GenerateRequest | ScoreRequest) -> AsyncIterator[BlockOutput]:
        if isinstance(request, ScoreRequest):
            async for scored in self._score(request):
                yield scored
            return
        self.requests.append(request)
        ids = list(self.script(request))
        natural = len(ids) < request.max_tokens
        ids = ids[: request.max_tokens]
        finished = False
        try:
            for count, start in enumerate(range(0, max(len(ids), 1), BLOCK)):
                await asyncio.sleep(0)
                if self.fail_after is not None and count >= self.fail_after[0]:
                    raise self.fail_after[1]
                if self.hold_after is not None and count >= self.hold_after:
                    self.held.set()
                    await asyncio.Event().wait()
                last = start + BLOCK >= len(ids)
                finished = last
                block = ids[start : start + BLOCK]
                logprobs = None
                if request.logprobs is not None:
                    logprobs = scores(block + [1] * (last and natural), start, request.logprobs)
                steps = [place % 3 + 1 for place in range(start, start + len(block))]
                yield BlockOutput(
                    request_id=request.request_id,
                    token_ids=block,
                    step_map=steps if request.step_map else None,
                    logprobs=logprobs,
                    denoise_steps=2,
                    forward_passes=3,
                    finish_reason=("stop" if natural else "length") if last else None,
                )
        finally:
            if not finished:
                self.aborted.append(request.request_id)

    async def _score(self, request: ScoreRequest) -> AsyncIterator[BlockOutput]:
        self.scored.append(request)
        if self.fail_after is not None and len(self.scored) > self.fail_after[0]:
            raise self.fail_after[1]
        if self.hold_after is not None and len(self.scored) > self.hold_after:
            self.held.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        wanted = [token for slot in request.slots for token in slot.candidates] or request.prompt_ids[request.start :]
        known = scores(wanted, request.start, request.logprobs)
        yield BlockOutput(
            request_id=request.request_id,
            token_ids=[],
            cached_tokens=8,
            logprobs=[msgspec.structs.replace(entry, step=0) for entry in known],
            finish_reason="length",
        )
