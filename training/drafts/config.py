"""Configuration of a draft adapter: one TOML file, validated, unknown keys refused."""

from pathlib import Path

from pydantic import Field

from cdlm.training.backbone.config import NextTokenAdapterConfig
from cdlm.training.config import LossSection


class DraftAdapterConfig(NextTokenAdapterConfig):
    """A LoRA adapter that acts on masked rows only, over a next-token model.

    Attributes:
        adapter: PEFT directory of an adapter that is merged into ``model`` first, such as a task adapter.
        mask_token: the token of the vocabulary that masked rows are embedded as.
        window: masked rows behind a known token.
        groups: how many known tokens of a text have masked rows behind them in one step.
        tasks: configuration of the task adapter whose mixture and files give texts.
        answers: directory with the answers of ``cdlm train task-answers``.
        task_share: share of the texts that are rows of that mixture; the others are the model's own answers.
        longest: longer texts, in tokens, are left out.
        start: a gated adapter; its chain, if it has one of the same width, is begun with too.
        chain: width of the chain's hidden layer (``model/network/chain.py``); 0 trains no chain.
        offset_decay: factor of the loss from one offset in a window to the next; a draft counts only if all before it
            are right.
        losses: distillation from the unmasked rows, consistency between windows, and likelihood of the text (dlm).
    """

    adapter: Path | None = None
    chain: int = Field(default=0, ge=0)
    mask_token: str
    window: int = Field(ge=1)
    groups: int = Field(ge=2, multiple_of=2)
    tasks: Path
    answers: Path
    task_share: float = Field(ge=0, le=1)
    longest: int = Field(default=384, ge=16)
    offset_decay: float = Field(default=1.0, gt=0, le=1)
    losses: LossSection
