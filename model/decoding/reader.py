"""What a step reads off logits: the most probable tokens, how probable they are, entropies, draws."""

from torch import Tensor

from cdlm.model.decoding.confidence import confidence_and_best, confidence_and_best_of_head, entropy
from cdlm.model.decoding.draws import replace_drawn
from cdlm.model.network.head import Head
from cdlm.model.row import RowWork


class LogitReader:
    """With PyTorch's operators; ``KernelLogitReader`` does the same with a kernel."""

    def best_of_head(self, hidden: Tensor, head: Head, mask_token_id: int) -> tuple[Tensor, Tensor]:
        """Of the logits of hidden [rows, hidden_size]: confidence [rows] fp32 and token [rows] int64."""
        return confidence_and_best_of_head(hidden, head, mask_token_id)

    def statistics(
        self, logits: Tensor, mask_token_id: int, *, needs_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Confidence [rows] fp32, token [rows] int64 and, where it is needed, entropy [rows] fp32.

        The mask token's logits [rows, vocab] become -inf.
        """
        confidence, token = confidence_and_best(logits, mask_token_id)
        return confidence, token, entropy(logits) if needs_entropy else None

    def draw(
        self, works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, token: Tensor, block_length: int
    ) -> None:
        """See ``replace_drawn``."""
        replace_drawn(works, counts, chosen, logits, token, block_length)
