"""One choice of a response, while it is generated."""

from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.server.openai.answers.text import AnswerText, TextRules
from cdlm.server.openai.protocol.response import VoteResult
from cdlm.server.text import TextCodec
from cdlm.server.text.update import Finish, PlacedToken, StopReason, Update


class Choice:
    """One choice of a response: its request to the engine, and the text and tokens so far.

    ``start`` is the number of characters before it in the returned text.
    """

    def __init__(self, index: int, request: GenerateRequest, codec: TextCodec, rules: TextRules, start: int) -> None:
        self.index = index
        self.request = request
        self.text = ""
        self.token_ids: list[int] = []
        self.finish_reason: Finish | None = None
        self.stop_reason: StopReason = None
        self.denoise_steps = 0
        self.forward_passes = 0
        self.cached_tokens = 0
        self.blocks = 0
        self.queue_seconds = 0.0
        self.delivered = 0
        self.discarded = 0
        self.logprobs: list[PlacedToken] = []
        self.step_map: list[int] = []
        self.vote: VoteResult | None = None  # Of the vote that elected it.
        self._text = AnswerText(codec, request.prompt_ids, rules, start)

    def take(self, block: BlockOutput) -> Update:
        """Adds a block or a part of one; a stop string ends the choice and drops the tokens after it."""
        self.denoise_steps += block.denoise_steps
        self.forward_passes += block.forward_passes
        self.cached_tokens = block.cached_tokens
        self.queue_seconds = block.queue_seconds
        number = self.blocks
        self.blocks += not block.partial
        text, kept, placed = self._text.take(block)
        if self._text.stop is not None:
            self.finish_reason, self.stop_reason = "stop", self._text.stop
        elif block.finish_reason in ("stop", "length"):
            self.finish_reason, self.stop_reason = block.finish_reason, block.stop_token_id
        self.discarded = len(block.token_ids) - kept
        self.text += text
        self.token_ids += block.token_ids[:kept]
        self.logprobs += placed
        steps = (block.step_map or [])[:kept]
        self.step_map += steps
        ids, canvas = block.token_ids[:kept], block.canvas
        return Update(
            self.index, text, ids, self.finish_reason, placed, number, canvas, steps, self.cut, self.stop_reason
        )

    @property
    def cut(self) -> bool:
        """Whether length or a stop string, not an end token, ended the answer."""
        return self.finish_reason == "length" or self._text.stop is not None

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of its tokens, end token included; 0 without tokens."""
        scores = [token.score.logprob for token in self.logprobs if token.score is not None]
        return sum(scores) / len(scores) if scores else 0.0
