"""Explains the figures of a plan in sentences."""

from typing import Any

from cdlm.cli.display import quantity
from cdlm.model.roofline.roof import whole_batch

BUSY = 0.9  # Below this share of the processor, other processes distort a measured time.


def plan_findings(plan: dict[str, Any]) -> list[str]:
    """The findings, the most general first."""
    return [
        _weights(plan),
        _ridge("The student", plan["student_ridge_batch"], plan),
        _ridge("An autoregressive model of this shape", plan["autoregressive_ridge_batch"], plan),
        _auto_rows(plan),
        _crossover(plan),
        _commit(plan),
        _prefill(plan),
        _memory(plan),
        *_step_memory(plan),
        *_load(plan),
        *_measured(plan),
        *_caveats(plan),
    ]


def _weights(plan: dict[str, Any]) -> str:
    whole, read = quantity(plan["weight_bytes"], "B"), quantity(plan["streamed_bytes"], "B")
    each = " a device" if plan["tensor_parallel"] > 1 else ""
    few = ""
    if plan["experts"]:
        few = (
            f"A token uses {plan['active_parameters'] / plan['parameters']:.0%} of the parameters; a forward of one row"
            f" reads about {quantity(plan['streamed_bytes_one_row'], 'B')}, if its tokens choose evenly among"
            f" {plan['experts']} experts. "
        )
    return (
        f"{few}Weights take {whole}{each} in {plan['dtype']}; a forward"
        f"{' of many rows' if few else ''} reads {read} of them, which alone takes "
        f"{quantity(plan['streamed_s'], 's')}. A cached token takes {quantity(plan['kv_bytes_per_token'], 'B')}{each}."
    )


def _ridge(who: str, batch: float | None, plan: dict[str, Any]) -> str:
    ridge = f"{plan['ridge_flops_per_byte']:.0f} FLOP/byte"
    border = whole_batch(batch)
    if border is None:
        return (
            f"{who} is memory-bound at any batch: over {plan['context']} cached positions, reading a row's keys and "
            f"values takes longer than its arithmetic (ridge {ridge})."
        )
    if border == 1:
        return f"{who} is compute-bound at any batch (ridge {ridge})."
    fits = plan["memory"]["requests"]
    reach = f" Only {fits} requests fit, so it stays memory-bound." if border > fits else ""
    return f"{who} is memory-bound below batch {border} and compute-bound from there (ridge {ridge}).{reach}"


def _auto_rows(plan: dict[str, Any]) -> str:
    chosen = plan["auto_rows"]
    return f"'cdlm serve --max-num-seqs auto' takes {chosen['rows']} rows: {chosen['reason']}."


def _crossover(plan: dict[str, Any]) -> str:
    if plan["block_length"] == 1:
        return "Blocks have one token: this is an autoregressive model, and both columns are the same but for rounding."
    if plan["experts"]:
        behind = [str(row["batch"]) for row in plan["batches"] if row["student_over_autoregressive"] < 1]
        found = (
            f"behind an autoregressive model at {', '.join(behind)}" if behind else "ahead of an autoregressive model"
        )
        return f"A block's tokens read more experts than one token: of the batches above, the student is {found}."
    border, computed = plan["crossover_batch"], plan["tokens_computed_per_token"]
    kept = f"{plan['tokens_per_forward']:g}"
    if border is None:
        return (
            f"The student is ahead at any batch: it reads weights and cache once for {kept} tokens, and even where "
            f"its arithmetic binds, {computed:.1f} tokens computed for each one kept cost less than those readings."
        )
    if border == 1:
        return (
            f"An autoregressive model makes as many tokens/s at batch 1 already: the student computes {computed:.1f} "
            f"tokens for each one it keeps, which costs what {kept} tokens per forward save."
        )
    why = (
        f"the student reads weights and cache once for {kept} tokens, but computes {computed:.1f} tokens for each one "
        "it keeps, and arithmetic binds it first"
    )
    fits = plan["memory"]["requests"]
    reach = f" Only {fits} requests fit, so this batch is not reached." if border > fits else ""
    return f"An autoregressive model overtakes at batch {border}: {why}.{reach}"


def _commit(plan: dict[str, Any]) -> str:
    denoised, clean = plan["tokens_computed_per_block"], plan["tokens_computed_per_commit"]
    return (
        f"A block of {plan['block_length']} takes {plan['forwards_per_block']:.3g} forwards: {denoised:.4g} tokens are "
        f"denoised and {clean} clean ones committed ({clean / (denoised + clean):.0%}); the last of a request's blocks "
        "is not committed."
    )


def _prefill(plan: dict[str, Any]) -> str:
    prefill = plan["prefill"]
    return (
        f"A prefill of {prefill['prompt_length']} tokens is {quantity(prefill['flops'], 'FLOP')} and takes "
        f"{quantity(prefill['seconds'], 's')} alone ({prefill['bound']}-bound), as long as "
        f"{prefill['seconds'] / plan['streamed_s']:,.1f} readings of the weights."
    )


def _memory(plan: dict[str, Any]) -> str:
    memory = plan["memory"]
    room = f"{quantity(memory['memory_bytes'], 'B')} less a reserve of {memory['reserve']:.0%}"
    if memory["free_bytes"] <= 0:
        return f"The weights do not fit: {quantity(plan['weight_bytes'], 'B')} into {room}."
    return (
        f"{room} and weights leaves {quantity(memory['free_bytes'], 'B')}, {memory['pages']} pages of "
        f"{memory['page_size']} tokens: {memory['requests']} requests of {memory['positions_per_request']} positions "
        f"({plan['context']} cached and a block) at once."
    )


def _step_memory(plan: dict[str, Any]) -> list[str]:
    if "measured" in plan:
        return []
    own, memory = plan["step_memory"], plan["memory"]
    told = {name: quantity(size, "B") for name, size in own.items()}
    share = sum(size for name, size in own.items() if name != "uploads") / memory["memory_bytes"]
    return [
        f"Beside weights and pages, the largest step takes about {told['activations']} of activations and "
        f"{told['logits']} of logits, what describes recorded steps {told['graphs']}, and libraries are left "
        f"{told['kept']}: {share:.1%} of the memory. What graphs keep is not computed; the engine measures the step at "
        f"its start. Uploads take {told['uploads']} of the host's memory."
    ]


def _load(plan: dict[str, Any]) -> list[str]:
    if plan["target_requests_per_s"] is None:
        return []
    wanted = (
        f"{plan['target_requests_per_s']:.4g} requests/s of {plan['prefill']['prompt_length']} prompt tokens and "
        f"{plan['tokens_per_request']} of answer"
    )
    possible = [row for row in plan["batches"] if row["fits"]]
    if not possible:
        return [f"No listed batch fits, so no number of replicas serves {wanted}."]
    best = min(possible, key=lambda row: (row["replicas"], row["batch"]))
    devices = best["replicas"] * plan["tensor_parallel"]
    return [
        f"{wanted} need at least {best['replicas']} replicas ({devices} devices) with {best['batch']} requests at a "
        "time in each; prefill included, no idle time, no headroom."
    ]


def _measured(plan: dict[str, Any]) -> list[str]:
    if "measured" not in plan:
        return []
    forwards = plan["measured"]["forwards"]
    ratios = [row["measured_over_predicted"] for row in forwards]
    line = f"Forwards measured here take {min(ratios):.2g} to {max(ratios):.2g} times their bound."
    share = min(row["processor_share"] for row in forwards)
    if share < BUSY:
        line += f" Other work left {share:.0%} of the processor to one of them: on an idle machine the ratio is lower."
    return [line]


def _caveats(plan: dict[str, Any]) -> list[str]:
    lines = []
    if plan["memory"]["positions_per_request"] > plan["max_model_len"]:
        lines.append(
            f"{plan['memory']['positions_per_request']} positions are more than the {plan['max_model_len']} that this "
            "checkpoint is served with: 'cdlm serve' would refuse such a request."
        )
    if not plan["tokens_per_forward_stated"]:
        lines.append(
            f"{plan['tokens_per_forward']:g} tokens per forward is the default, an eighth of the block, and no "
            "measurement: 'cdlm bench' gives this model's, --tokens-per-forward takes it."
        )
    if plan["tensor_parallel"] > 1:
        lines.append(
            f"{plan['tensor_parallel']} devices share weights, cache and FLOPs; their communication is not "
            "counted, so the times are too short."
        )
    if plan["compute_efficiency"] == plan["memory_efficiency"] == 1.0:
        lines.append("Every time is a bound at the device's peaks: no implementation is faster, real ones are slower.")
    return lines
