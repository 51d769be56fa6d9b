"""``cdlm plan``: computes the best that a model can do on an accelerator."""

import json
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from cdlm.cli.plan.inputs import (
    MODELS,
    Inputs,
    PlanError,
    check_tensor_parallel,
    read_batches,
    read_block_length,
    read_shape,
    read_tokens_per_forward,
)
from cdlm.model.roofline.accelerators import ACCELERATORS, UnknownAcceleratorError, find_accelerator

Dtype = Literal["bfloat16", "float16", "float32", "int8", "int4"]
WEIGHT_ONLY = ("int8", "int4")


def plan(
    model: Annotated[str, typer.Option(help=f"Checkpoint directory (config.json is read), or {', '.join(MODELS)}.")],
    device: Annotated[str, typer.Option(help=f"{', '.join(ACCELERATORS)}, or cpu with --measure.")],
    dtype: Annotated[
        Dtype | None, typer.Option(help="int8 and int4 are weight-only. [bfloat16; float32 on a cpu]")
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens a request has cached when its forward runs.")] = 1024,
    prompt_length: Annotated[int, typer.Option(min=1, help="Tokens of a prefill.")] = 512,
    block_length: Annotated[int | None, typer.Option(min=1, help="Tokens denoised together. [checkpoint's]")] = None,
    tokens_per_forward: Annotated[
        float | None,
        typer.Option(help="Tokens that a forward finalizes per request, from 'cdlm bench'. [an eighth of the block]"),
    ] = None,
    tokens_per_request: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 256,
    batch: Annotated[str, typer.Option(help="Requests per forward, comma-separated.")] = "1,2,4,8,16,32,64,128,256",
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Devices that share weights, cache and FLOPs; communication is ignored.")
    ] = 1,
    compute_efficiency: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak FLOP/s that is reached; 1 is the bound.")
    ] = 1.0,
    memory_efficiency: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak bandwidth that is reached; 1 is the bound.")
    ] = 1.0,
    memory_reserve: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the memory kept free of weights and cache.")
    ] = 0.1,
    page_size: Annotated[int, typer.Option(min=1, help="Tokens per KV cache page.")] = 32,
    target_tokens_per_s: Annotated[
        float | None, typer.Option(min=1e-6, help="Load to serve; prints the replicas it needs.")
    ] = None,
    target_requests_per_s: Annotated[
        float | None, typer.Option(min=1e-6, help="The same load, counted in requests.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --device cpu: measure this machine and check the bound on it.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Roofline, capacity and replicas for a model on an accelerator: bounds, computed and not measured."""
    from cdlm.cli.plan.figures import plan_figures
    from cdlm.cli.plan.findings import plan_findings
    from cdlm.cli.plan.output import print_plan

    try:
        if target_tokens_per_s is not None and target_requests_per_s is not None:
            raise PlanError("--target-tokens-per-s and --target-requests-per-s are the same load: give one")
        if (device.lower() == "cpu") != measure:
            raise PlanError("--device cpu and --measure need each other: a processor has no data sheet to plan from")
        chosen = dtype or ("float32" if measure else "bfloat16")
        if measure and (chosen in WEIGHT_ONLY or tensor_parallel > 1):
            raise PlanError("--measure runs on one processor, in bfloat16, float16 or float32")
        batches = read_batches(batch)
        accelerator = None if measure else find_accelerator(device)
        shape = read_shape(model)
        check_tensor_parallel(shape, tensor_parallel)
        block = read_block_length(shape, block_length)
        tokens = read_tokens_per_forward(shape, block, tokens_per_forward)
        if accelerator is None:
            from cdlm.cli.plan.measure import measure_processor

            accelerator = measure_processor(shape, block, chosen)
    except UnknownAcceleratorError as error:
        _refuse(f"--device: {error}")
    except PlanError as error:
        _refuse(str(error))
    inputs = Inputs(
        shape=shape,
        block_length=block,
        device=accelerator,
        dtype=chosen,
        context=context,
        prompt_length=prompt_length,
        tokens_per_forward=tokens,
        stated=tokens_per_forward is not None,
        tokens_per_request=tokens_per_request,
        batches=batches,
        tensor_parallel=tensor_parallel,
        compute_efficiency=compute_efficiency,
        memory_efficiency=memory_efficiency,
        reserve=memory_reserve,
        page_size=page_size,
        target_tokens_per_s=target_tokens_per_s,
        target_requests_per_s=target_requests_per_s,
    )
    result = plan_figures(inputs)
    if measure:
        from cdlm.cli.plan.measure import measure_forwards

        result["measured"] = measure_forwards(inputs)
    result["findings"] = plan_findings(result)
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            _refuse(f"--json: {error}")
    print_plan(result)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"cdlm plan: {message}", err=True)
    raise typer.Exit(2)
