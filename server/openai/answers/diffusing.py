"""The field ``diffusing`` of stream chunks: the block being denoised."""

from cdlm.scheduler.messages import BlockCanvas
from cdlm.server.openai.protocol.response import Canvas
from cdlm.server.text import TextCodec


def diffusing(block: int, canvas: BlockCanvas, codec: TextCodec, *, keep_special: bool) -> Canvas:
    """Builds ``diffusing``: parallel lists with one entry per position, null at masked positions.

    ``block`` counts from 0; ``steps`` has the denoise step that wrote each token last. Part of a character is shown as
    the replacement character, a special token as "" unless ``keep_special``.
    """
    return Canvas(
        block=block,
        step=canvas.step,
        tokens=[
            None if token is None else codec.decode([token], keep_special=keep_special) for token in canvas.token_ids
        ],
        steps=canvas.steps,
        final=canvas.final,
    )
