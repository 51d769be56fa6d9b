"""``cdlm generate``: one answer in this process, optionally with the canvas after each denoise step."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cdlm.cli.commands import one_line
from cdlm.cli.engine_flags import with_engine_flags
from cdlm.model.decoding.params import DecodingParams

if TYPE_CHECKING:
    from cdlm.model.config import Manifest
    from cdlm.model.row import RowResult
    from cdlm.scheduler.sequence import Sequence
    from cdlm.server.text import TextCodec

MASK_SIGN, END_SIGN = "░", "∎"


@with_engine_flags
def generate(
    loading: list[str],
    params: DecodingParams,
    prompt: Annotated[str, typer.Argument(help="What to answer, or with --raw to complete.")],
    system: Annotated[str | None, typer.Option(help="A system message in front of the prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the prompt as it is, without a chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 256,
    show_steps: Annotated[bool, typer.Option("--show-steps", help="Print the canvas after every step.")] = False,
) -> None:
    """Answer one prompt without a server, through the checkpoint's chat template.

    Without a chat template the prompt is completed. Flags that load the model are those of cdlm serve.
    """
    from cdlm.scheduler.child import waiting_variables

    os.environ.update(waiting_variables())  # Before torch is loaded.
    from cdlm.model.config import CheckpointError
    from cdlm.scheduler.errors import EngineError, RequestError
    from cdlm.scheduler.messages import GenerateRequest
    from cdlm.scheduler.offline import OfflineEngine
    from cdlm.server.command_line import SettingsError, parse_settings
    from cdlm.server.errors import ApiError
    from cdlm.server.text import TextCodec, TextError

    console = Console(highlight=False, soft_wrap=True)
    with one_line(
        "generate", CheckpointError, TextError, EngineError, RequestError, ApiError, bad_flags=(SettingsError,)
    ):
        settings = parse_settings(loading).fetched()
        if not prompt:
            raise SettingsError("the prompt is empty")
        if system is not None and raw:
            raise SettingsError("--system is a message of a chat, and --raw sends none")
        codec = TextCodec.load(Path(settings.model), settings.chat_template)
        prompt_ids = _prompt_ids(codec, prompt, system, raw=raw)
        printer = StepPrinter(console, codec) if show_steps else None
        options = settings.model_copy(update={"max_num_seqs": 1, "enable_prefix_caching": False}).engine_options()
        llm = OfflineEngine(options, printer)
        manifest = llm.manifest
        if printer:
            printer.manifest = manifest
        length = max(1, min(max_tokens, manifest.max_model_len - len(prompt_ids)))
        [done] = llm.generate(
            [GenerateRequest(request_id="0", prompt_ids=prompt_ids, max_tokens=length, params=params)]
        )
    detokenizer = codec.detokenizer(prompt_ids)
    console.print(Text(detokenizer.feed(done.token_ids) + detokenizer.flush()))
    if show_steps:
        tokens, steps = len(done.token_ids), done.denoise_steps
        figures = f"{tokens} tokens in {done.blocks} blocks and {steps} steps: {tokens / max(1, steps):.1f} per step"
        console.print(Text(figures, style="dim"))


def _prompt_ids(codec: "TextCodec", prompt: str, system: str | None, *, raw: bool) -> list[int]:
    """Token ids of the prompt as a chat or as raw text; raises ``ApiError`` if a chat cannot be rendered."""
    from cdlm.server.text import Chat

    if raw or (not codec.has_template and system is None):
        return codec.prompt_ids(prompt)
    first = [] if system is None else [{"role": "system", "content": system}]
    return codec.chat_ids(Chat([*first, {"role": "user", "content": prompt}]))


class StepPrinter:
    """Prints a row's block after each step: new tokens bright, masks as shades.

    ``manifest`` must be set before the first step: not every tokenizer knows its mask token.
    """

    def __init__(self, console: Console, codec: "TextCodec") -> None:
        self.console = console
        self.codec = codec
        self.manifest: Manifest | None = None
        self._before: list[int] = []

    def __call__(self, sequence: "Sequence", result: "RowResult") -> None:
        """Prints the block of ``sequence``; the engine calls it after every step."""
        assert self.manifest is not None
        mask = self.manifest.mask_token_id
        if result.steps == 1:
            block = (sequence.block_start - sequence.prompt_length) // len(result.tokens)
            self.console.print(Text(f"block {block + 1}", style="bold"))
            self._before = [mask] * len(result.tokens)
        line = Text(f"  step {result.steps:2d} +{result.finalized:2d}  ", style="dim")
        for before, token in zip(self._before, result.tokens, strict=True):
            if token == mask:
                line.append(MASK_SIGN, style="not dim blue")
                continue
            text = self.codec.token_bytes(token).decode(errors="replace").replace("\n", "⏎")
            if token in self.manifest.stop_token_ids:
                text = END_SIGN
            line.append(text, style="not dim bold green" if before == mask else "not dim")
        self._before = result.tokens
        self.console.print(line)
