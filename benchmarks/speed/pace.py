"""Measures the tokens per forward of the bundled student: the pace that random weights are set to."""

from dataclasses import dataclass

from benchmarks.speed.contenders.load import BLOCK
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.training.data.mixture import draw_problems

MAX_TOKENS = 192  # What the recipe gives an answer.
SEED = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run of the student came to.

    Attributes:
        tokens_per_forward: of a request; what follows an end token inside its block does not count.
        denoise_steps_per_block: mean.
        problems: how many it was measured on; 0 when the figure was given.
        threshold: of the student's checkpoint.
    """

    tokens_per_forward: float
    denoise_steps_per_block: float | None = None
    problems: int = 0
    threshold: float | None = None

    @property
    def steps_per_block(self) -> int:
        """Steps that give a block of 32 this pace or, rounded, a slower one."""
        return max(1, -int(-BLOCK // self.tokens_per_forward))


def measure_pace(problems: int, options: EngineOptions) -> Pace:
    """Answers development word problems as the bundled student is served, 16 at a time."""
    llm = OfflineEngine(options)
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    requests = [
        GenerateRequest(
            request_id=str(index),
            prompt_ids=tokenizer.encode(problem.prompt, add_special_tokens=False),
            max_tokens=MAX_TOKENS,
        )
        for index, problem in enumerate(draw_problems("words", problems, SEED, "development"))
    ]
    done = llm.generate(requests)
    return Pace(
        tokens_per_forward=sum(len(one.token_ids) for one in done) / sum(one.forward_passes for one in done),
        denoise_steps_per_block=sum(one.denoise_steps for one in done) / sum(one.blocks for one in done),
        problems=problems,
        threshold=llm.describe().confidence_threshold,
    )
