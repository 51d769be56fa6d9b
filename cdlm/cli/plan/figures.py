"""The figures of a plan as JSON: bytes, seconds, FLOPs and rates, per device."""

from typing import Any

from cdlm.cli.plan.capacity import Capacity, replicas, request_work
from cdlm.cli.plan.inputs import Inputs
from cdlm.cli.plan.step_memory import BATCHED_TOKENS, step_memory
from cdlm.model.network.parameters import active_parameters, count_parameters
from cdlm.model.roofline.accelerators import ACCELERATORS
from cdlm.model.roofline.roof import Work, crossover_batch, ridge_batch
from cdlm.model.roofline.rows import (
    DEFAULT_ROWS,
    UNMEASURED,
    RowChoice,
    fewest,
    rows_by_rates,
    rows_in_pool,
    rows_in_step,
)


def plan_figures(inputs: Inputs) -> dict[str, Any]:
    """All figures of a plan; ``plan_findings`` adds the sentences."""
    cost, roof, decoding = inputs.cost, inputs.roof, inputs.decoding
    student = cost.student_row(decoding, inputs.context)
    other = cost.autoregressive_row(inputs.context)
    memory, rows = _memory(inputs), _auto_rows(inputs)
    return {
        "model": inputs.shape.name,
        "device": inputs.device.name,
        "device_source": inputs.device.source,
        "dtype": inputs.dtype,
        "tensor_parallel": inputs.tensor_parallel,
        "compute_efficiency": inputs.compute_efficiency,
        "memory_efficiency": inputs.memory_efficiency,
        "flops_per_s": roof.flops_per_s,
        "bytes_per_s": roof.bytes_per_s,
        "ridge_flops_per_byte": roof.ridge,
        "parameters": count_parameters(inputs.shape.config).total,
        "active_parameters": active_parameters(inputs.shape.config),
        "experts": 0 if inputs.shape.config.mixture is None else inputs.shape.config.mixture.experts,
        "weight_bytes": cost.weight_bytes,
        "streamed_bytes": cost.streamed_bytes,
        "streamed_s": roof.memory_s(cost.weights),
        "streamed_bytes_one_row": cost.read(student.tokens).bytes,
        "kv_bytes_per_token": cost.kv_bytes_per_token,
        "context": inputs.context,
        "max_model_len": inputs.shape.manifest.max_model_len,
        "block_length": inputs.block_length,
        "tokens_per_forward": inputs.tokens_per_forward,
        "tokens_per_forward_stated": inputs.stated,
        "tokens_per_request": inputs.tokens_per_request,
        "forwards_per_block": decoding.forwards,
        "tokens_computed_per_block": decoding.denoise_tokens * decoding.forwards,
        "tokens_computed_per_commit": inputs.block_length,
        "tokens_computed_per_token": decoding.tokens / decoding.tokens_per_forward,
        "student_ridge_batch": ridge_batch(student, cost.weights, roof),
        "autoregressive_ridge_batch": ridge_batch(other, cost.weights, roof),
        "auto_rows": rows,
        "step_memory": step_memory(inputs, rows["rows"]),
        "crossover_batch": _crossover(inputs, student, other),
        "prefill": _prefill(inputs),
        "memory": memory,
        "batches": [
            {"fits": batch <= memory["requests"], **_batch(inputs, student, other, batch)} for batch in inputs.batches
        ],
        "target_requests_per_s": inputs.requests_per_s,
    }


def _crossover(inputs: Inputs, student: Work, other: Work) -> int | None:
    """``crossover_batch``; none with experts, of which a block reads more than a token: the lead grows first."""
    if inputs.shape.config.mixture is not None:
        return None
    return crossover_batch(student, other, inputs.cost.weights, inputs.tokens_per_forward, inputs.roof)


def _auto_rows(inputs: Inputs) -> dict[str, Any]:
    """What ``--max-num-seqs auto`` takes for these figures, and why."""
    positions = inputs.context + inputs.block_length
    by_rates: RowChoice | None = RowChoice(DEFAULT_ROWS, UNMEASURED)
    if inputs.device.name in ACCELERATORS:
        by_rates = rows_by_rates(inputs.cost, inputs.roof, inputs.decoding, inputs.context, inputs.device.name)
    choice = fewest(
        by_rates,
        rows_in_step(BATCHED_TOKENS, inputs.block_length),
        rows_in_pool(_capacity(inputs).pages, inputs.page_size, positions),
    )
    return {"rows": choice.rows, "reason": choice.reason}


def _capacity(inputs: Inputs) -> Capacity:
    """Memory of one device."""
    cost = inputs.cost
    return Capacity(
        memory_bytes=inputs.device.memory_bytes,
        reserve=inputs.reserve,
        weight_bytes=cost.weight_bytes,
        page_bytes=cost.kv_bytes_per_token * inputs.page_size,
        page_size=inputs.page_size,
    )


def _memory(inputs: Inputs) -> dict[str, Any]:
    room = _capacity(inputs)
    positions = inputs.context + inputs.block_length
    return {
        "memory_bytes": room.memory_bytes,
        "reserve": room.reserve,
        "free_bytes": room.free_bytes,
        "page_size": room.page_size,
        "page_bytes": room.page_bytes,
        "pages": room.pages,
        "positions_per_request": positions,
        "requests": room.requests(positions),
    }


def _prefill_work(inputs: Inputs) -> Work:
    return inputs.cost.prefill(inputs.prompt_length, inputs.shape.manifest.prompt_attention, inputs.block_length)


def _prefill(inputs: Inputs) -> dict[str, Any]:
    cost, roof = inputs.cost, inputs.roof
    work = cost.forward(_prefill_work(inputs), 1)
    return {
        "prompt_length": inputs.prompt_length,
        "flops": work.flops,
        "bytes": work.bytes,
        "seconds": roof.seconds(work),
        "bound": _bound(roof.compute_s(work), roof.memory_s(work)),
    }


def _batch(inputs: Inputs, student: Work, other: Work, batch: int) -> dict[str, Any]:
    cost, roof = inputs.cost, inputs.roof
    work, other_work = cost.forward(student, batch), cost.forward(other, batch)
    seconds, other_seconds = roof.seconds(work), roof.seconds(other_work)
    row: dict[str, Any] = {
        "batch": batch,
        "intensity": work.intensity,
        "bound": _bound(roof.compute_s(work), roof.memory_s(work)),
        "seconds": seconds,
        "forwards_per_s": 1 / seconds,
        "tokens_per_s": batch * inputs.tokens_per_forward / seconds,
        "tokens_per_s_a_request": inputs.tokens_per_forward / seconds,
        "autoregressive_intensity": other_work.intensity,
        "autoregressive_bound": _bound(roof.compute_s(other_work), roof.memory_s(other_work)),
        "autoregressive_tokens_per_s": batch / other_seconds,
        "student_over_autoregressive": inputs.tokens_per_forward * other_seconds / seconds,
    }
    if inputs.requests_per_s is not None:
        prefill, tokens = _prefill_work(inputs), inputs.tokens_per_request
        whole = request_work(cost, prefill, student, tokens, inputs.decoding, batch)
        row["requests_per_s"] = 1 / roof.seconds(whole)
        row["replicas"] = replicas(whole, roof, inputs.requests_per_s)
    return row


def _bound(compute_s: float, memory_s: float) -> str:
    return "compute" if compute_s >= memory_s else "memory"
