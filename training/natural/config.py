"""Configuration of the task adapter: one TOML file, validated, unknown keys refused."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from cdlm.training.backbone.config import NextTokenAdapterConfig
from cdlm.training.config import AdapterDescentSection, Section

Source = Literal["words", "sums", "gsm8k", "functions", "references"]


class AnswersSection(Section):
    """The model's own answers: ``draws`` of each request for a function, and one of each of ``chat`` prompts.

    The base answers, or with ``adapter`` the model that this PEFT directory makes of it. The prompts come from
    directories of Debian's packages ``wordnet-base``, ``manpages`` and ``fortunes``.
    """

    wordnet: Path = Path("/usr/share/wordnet")
    manual: Path = Path("/usr/share/man")
    fortunes: Path = Path("/usr/share/games/fortunes")
    adapter: Path | None = None
    chat: int = Field(ge=1)
    draws: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.7, ge=0)
    max_tokens: int = Field(default=160, ge=16)
    concurrency: int = Field(default=24, ge=1)


class FilesSection(Section):
    """Files of public problem sets; relative paths start at the working directory.

    ``gsm8k`` is GSM8K's training file. Rows that overlap one of ``measured`` are left out.
    """

    gsm8k: Path | None = None
    measured: dict[Literal["svamp", "mbpp", "humaneval"], Path] = {}


class CompiledDescentSection(AdapterDescentSection):
    """Optimization of an adapter over rows of any length.

    ``compile`` compiles the layers with ``torch.compile``: it takes a C++ compiler and two minutes, and makes a step on
    a CPU about 1.7 times as fast.
    """

    compile: bool = False


class TaskAdapterConfig(NextTokenAdapterConfig):
    """A LoRA adapter that teaches a next-token model word problems and functions without changing its chat.

    Attributes:
        mixture: source -> its share of the rows.
        bare_share: share of the rows without the chat template's system turn.
        chat_tokens: how many of ``tokens_per_batch`` are for chat.
        chat_every: chat is part of one in this many steps.
        divergence: weight of KL(base || adapted) over chat answers, beside the cross-entropy of the other rows.
    """

    answers: AnswersSection
    files: FilesSection = FilesSection()
    mixture: dict[Source, float] = Field(min_length=1)
    bare_share: float = Field(default=0.0, ge=0, le=1)
    chat_tokens: int = Field(ge=64)
    chat_every: int = Field(default=1, ge=1)
    divergence: float = Field(gt=0)
    optimization: CompiledDescentSection

    @field_validator("mixture")
    @classmethod
    def _positive(cls, value: dict[Source, float]) -> dict[Source, float]:
        if min(value.values()) < 0 or not any(value.values()):
            raise ValueError("shares must not be negative, nor all 0")
        return value
