"""What a step reads off logits: the most probable tokens, how probable they are, entropies, draws."""

from dataclasses import dataclass

from torch import Tensor

from cdlm.model.config import AttentionBackend
from cdlm.model.decoding.logits.confidence import confidence_and_best, entropy, peaks_of_head
from cdlm.model.decoding.logits.draws import replace_drawn
from cdlm.model.decoding.logits.sampling import Filters
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.network.head import LmHead, Peaks
from cdlm.model.row import RowWork
from cdlm.model.uploads import Place

# Logits of so many bytes are held at once on a GPU.
LOGITS_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How the R rows of a step draw their tokens, on the device.

    Attributes:
        drawn: [R] bool, whether a row draws.
        temperatures: [R] fp32, 1 in rows that do not.
        seeds: [R] int64.
        starts: [R] int64, positions of the blocks.
        filters: of the rows; ``None`` if no row has one.
        filtered: [R] bool, whether a row has one.
    """

    drawn: Tensor
    temperatures: Tensor
    seeds: Tensor
    starts: Tensor
    filters: Filters | None
    filtered: Tensor


class LogitReader:
    """With PyTorch's operators, and noise from the host; ``KernelLogitReader`` does the same with a kernel.

    Attributes:
        waits: whether ``draw`` asks the device for values.
    """

    waits = True

    def peaks(self, hidden: Tensor, head: LmHead, mask_token_id: int) -> Peaks:
        """See ``Search``."""
        return peaks_of_head(hidden, head, mask_token_id)

    def statistics(
        self, logits: Tensor, mask_token_id: int, *, needs_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Confidence [rows] fp32, token [rows] int64 and, where it is needed, entropy [rows] fp32.

        The mask token's logits [rows, vocab] become -inf.
        """
        confidence, token = confidence_and_best(logits, mask_token_id)
        return confidence, token, entropy(logits) if needs_entropy else None

    def draw_settings(self, works: list[RowWork], place: Place) -> DrawSettings | None:  # noqa: ARG002
        """Places what ``draw`` needs on the device; ``None`` if that is nothing."""
        return None

    def draw(self, step: Step, settings: DrawSettings | None, block_length: int) -> None:  # noqa: ARG002
        """Replaces the step's most probable tokens by drawn ones, in rows that sample."""
        replace_drawn(step, block_length)


def find_reader(name: AttentionBackend) -> LogitReader:
    """The reader that fits a resolved attention backend."""
    if name != "triton":
        return LogitReader()
    # Triton is there on Linux only.
    from cdlm.model.decoding.logits.kernel_reader import KernelLogitReader

    return KernelLogitReader()
