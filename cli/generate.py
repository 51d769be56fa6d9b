"""``cdlm generate``: one prompt in this process, with the canvas shown after every denoise step if wanted."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from model.assets import BUNDLED_STUDENT
from model.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR, RuleName

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.config import Manifest
    from model.row import RowResult
    from scheduler.sequence import Sequence

MASK_SIGN, END_SIGN = "░", "∎"


def generate(
    prompt: Annotated[str, typer.Argument(help="What to complete.")],
    model: Annotated[Path | None, typer.Option(help="Checkpoint directory. Default: the bundled cdlm-nano.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="PEFT LoRA adapter to merge into --model.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to generate.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the most probable tokens.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Chooses the noise of a sampled answer.")] = 0,
    confidence_threshold: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="Finalise tokens surer than this. [checkpoint's]")
    ] = None,
    decoding: Annotated[RuleName, typer.Option(help="Which tokens a step finalises.")] = "threshold",
    decoding_factor: Annotated[float, typer.Option(min=0.001, help="Number of factor.")] = DEFAULT_FACTOR,
    entropy_bound: Annotated[float, typer.Option(min=0, help="Number of entropy_bound, in nats.")] = (
        DEFAULT_ENTROPY_BOUND
    ),
    steps_per_block: Annotated[
        int | None, typer.Option(min=1, help="Number of fixed_steps. [one step a token]")
    ] = None,
    guidance_scale: Annotated[float, typer.Option(min=0, max=100, help="Classifier-free guidance; 0 is none.")] = 0.0,
    show_steps: Annotated[bool, typer.Option("--show-steps", help="Print the canvas after every step.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Answer one prompt without a server."""
    from scheduler.child import waiting_variables

    os.environ.update(waiting_variables())  # Before torch is loaded.
    from model.config import CheckpointError
    from model.tokenizer import load_tokenizer
    from scheduler.errors import EngineError, RequestError
    from scheduler.llm import LLM
    from scheduler.messages import DecodingParams, GenerateRequest
    from scheduler.options import EngineOptions

    console = Console(highlight=False, soft_wrap=True)
    if adapter and not model:
        typer.echo(f"cdlm generate: --adapter {adapter} needs --model, the checkpoint that it was trained on", err=True)
        raise typer.Exit(2)
    directory = model or BUNDLED_STUDENT
    options = EngineOptions(
        model=str(directory), adapter=str(adapter) if adapter else None, device=device, max_num_seqs=1
    )
    try:
        tokenizer = load_tokenizer(directory)
        printer = StepPrinter(console, tokenizer) if show_steps else None
        llm = LLM(options, printer)
        manifest = llm.engine.manifest
        if printer:
            printer.manifest = manifest
        params = DecodingParams(
            temperature=temperature,
            seed=seed,
            decoding=decoding,
            confidence_threshold=confidence_threshold,
            decoding_factor=decoding_factor,
            entropy_bound=entropy_bound,
            steps_per_block=steps_per_block,
            guidance_scale=guidance_scale,
        )
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        length = max(1, min(max_tokens, manifest.max_model_len - len(prompt_ids)))
        [done] = llm.generate(
            [GenerateRequest(request_id="0", prompt_ids=prompt_ids, max_tokens=length, params=params)]
        )
    except (CheckpointError, EngineError, RequestError) as error:
        typer.echo(f"cdlm generate: {error}", err=True)
        raise typer.Exit(1) from None
    console.print(Text(str(tokenizer.decode(done.token_ids))))
    if show_steps:
        tokens, steps = len(done.token_ids), done.denoise_steps
        figures = f"{tokens} tokens in {done.blocks} blocks and {steps} steps: {tokens / max(1, steps):.1f} a step"
        console.print(Text(figures, style="dim"))


class StepPrinter:
    """Prints a row's block after each step: new tokens bright, masks as shades.

    ``manifest`` must be set before the first step: not every tokenizer knows its mask token.
    """

    def __init__(self, console: Console, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.console = console
        self.tokenizer = tokenizer
        self.manifest: Manifest | None = None
        self._before: list[int] = []

    def __call__(self, sequence: "Sequence", result: "RowResult") -> None:
        """Called by the engine after every step."""
        assert self.manifest is not None
        mask = self.manifest.mask_token_id
        if result.steps == 1:
            block = (sequence.block_start - sequence.prompt_length) // len(result.tokens)
            self.console.print(Text(f"block {block + 1}", style="bold"))
            self._before = [mask] * len(result.tokens)
        line = Text(f"  step {result.steps:2d} +{result.finalised:2d}  ", style="dim")
        for before, token in zip(self._before, result.tokens, strict=True):
            if token == mask:
                line.append(MASK_SIGN, style="not dim blue")
                continue
            text = str(self.tokenizer.decode([token])).replace("\n", "⏎")
            if token in self.manifest.stop_token_ids:
                text = END_SIGN
            line.append(text, style="not dim bold green" if before == mask else "not dim")
        self._before = result.tokens
        self.console.print(line)
