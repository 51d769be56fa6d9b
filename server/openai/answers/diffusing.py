"""The block being denoised, as a stream with ``diffusing`` shows it."""

from cdlm.scheduler.messages import BlockCanvas
from cdlm.server.openai.protocol.response import Canvas
from cdlm.server.text import TextCodec


def diffusing(block: int, canvas: BlockCanvas, codec: TextCodec, *, keep_special: bool) -> Canvas:
    """``diffusing`` of a chunk: parallel lists, one entry a position, null where nothing is finalized.

    ``block`` counts from 0; ``steps`` says after which denoise step of the block each token was finalized. A token that
    is a part of a character shows as the replacement character, a special token as "" unless ``keep_special``.
    """
    return Canvas(
        block=block,
        step=canvas.step,
        tokens=[
            None if token is None else codec.decode([token], keep_special=keep_special) for token in canvas.token_ids
        ],
        steps=canvas.steps,
    )
