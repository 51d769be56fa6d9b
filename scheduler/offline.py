"""Generation without a server: requests in, completions out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineError
from cdlm.scheduler.messages import EngineStats, FinishReason, GenerateRequest, TokenLogprob


@dataclass(slots=True)
class Completion:
    """The result of one request.

    ``logprobs``, if requested, has one entry per token in ``token_ids``, and one for the stop token if one ended the
    request; ``step_map``, if requested, has the denoise step that finalized each token in ``token_ids``.
    ``denoise_steps`` and ``forward_passes`` are sums over ``blocks``; ``finish_reason`` is ``stop`` or ``length``.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    step_map: list[int] = field(default_factory=list)
    denoise_steps: int = 0
    forward_passes: int = 0
    blocks: int = 0
    finish_reason: FinishReason | None = None


class OfflineEngine(Engine):
    """An engine in the caller's process, for scripts and measurements.

        engine = OfflineEngine(EngineOptions(model="model/assets/cdlm-nano"))
        [done] = engine.generate([GenerateRequest(request_id="0", prompt_ids=[5, 6, 7], max_tokens=96)])

    Beyond what an ``Engine`` does, it runs requests to their end.
    """

    def generate(
        self, requests: Iterable[GenerateRequest], on_step: Callable[[EngineStats], None] | None = None
    ) -> list[Completion]:
        """Runs all requests in one batch; returns completions in their order.

        Args:
            requests: with distinct ids.
            on_step: called with the figures of each step.

        Raises:
            RequestError: one request can never be served; none runs.
            EngineError: a step failed. All requests are dropped; the engine remains usable.
        """
        completions: dict[str, Completion] = {}
        try:
            for request in requests:
                self.add(request)
                completions[request.request_id] = Completion()
            while self.busy:
                report = self.step()
                if on_step is not None:
                    on_step(report.stats)
                for output in report.outputs:
                    if output.error is not None:
                        raise EngineError(f"request {output.request_id}: {output.error}")
                    done = completions[output.request_id]
                    done.token_ids += output.token_ids
                    done.logprobs += output.logprobs or []
                    done.step_map += output.step_map or []
                    done.denoise_steps += output.denoise_steps
                    done.forward_passes += output.forward_passes
                    done.blocks += not output.partial
                    done.finish_reason = output.finish_reason
        finally:
            for request_id in completions:
                self.abort(request_id)  # Finished requests are unknown, which is fine.
        return list(completions.values())
