"""Every kernel compiles for GPUs that are not here, A100 and H100, within the shared memory of an RTX 4090."""

import os
import subprocess
import sys

import pytest

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cdlm.model.kernels.attention import join_parts, paged_attention
from cdlm.model.kernels.grouped import _grouped_product
from cdlm.model.kernels.norm import _add_rms_norm
from cdlm.model.kernels.rotary import _rotate_and_write
from cdlm.model.kernels.statistics import _row_statistics
from cdlm.model.kernels.swiglu import _swiglu

def made(arch, kernel, constants, kinds, warps=4, stages=2):
    kinds = kinds | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {"num_stages": stages, "num_warps": warps}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    print(arch, kernel.__name__, len(compiled.asm["cubin"]) > 0, compiled.metadata.shared <= 99 * 1024)

def kinds(**names):
    return {name: kind for kind, listed in names.items() for name in listed.split()}

def pointers(kind, names):
    return {name: "*" + kind for name in names.split()}

for arch, kind, group, dim, page in ((80, "fp16", 1, 96, 16), (90, "bf16", 7, 128, 32)):
    parts = pointers("fp32", "sums maxima totals")
    for branched in (False, True):
        made(
            arch, paged_attention,
            dict(GROUP=group, HEAD_DIM=dim, WIDTH=128, PAGE=page, ROWS=64, KEYS=64, PART=1024, WIDEN=False,
                 BRANCHED=branched),
            pointers(kind, "out query keys values") | parts | pointers("i32", "tiles segments tables seen")
            | {"scale": "fp32"} | kinds(i32="token_stride slot_stride table_stride shared_rows"),
        )
    made(
        arch, join_parts, dict(HEADS=28, HEAD_DIM=dim, WIDTH=128, PART=1024),
        pointers(kind, "out") | parts | pointers("i32", "tokens visible") | {"shared_rows": "i32"}, warps=1,
    )
    made(
        arch, _add_rms_norm, dict(SIZE=3584, WIDTH=4096, ADD=True),
        pointers(kind, "normed summed x delta weight") | {"eps": "fp32"}, warps=8,
    )
    for scaled in (False, True):
        made(
            arch, _rotate_and_write,
            dict(HEADS=4 * group, KV_HEADS=4, DIM=dim, TURNED=dim // 2, WIDTH=128, TILE=4, NORM=True, SCALED=scaled),
            pointers(kind, "query keys values projected weight") | pointers("fp32", "cosines sines scales")
            | pointers("i64", "positions slots") | {"eps": "fp32"},
        )
    for rows in (16, 64):
        made(
            arch, _grouped_product,
            dict(GROUPS=250, LINES=256, IN=2048, OUT=1024, ROWS=rows, COLUMNS=64, DEPTH=64, WIDEN=False),
            pointers(kind, "out rows weights") | pointers("i64", "ends"),
        )
    made(arch, _swiglu, dict(SIZE=18944, COLUMNS=1024), pointers(kind, "out both"))
    for draw in (False, True):
        made(
            arch, _row_statistics, dict(ENTROPY=True, DRAW=draw, GROUPS=128),
            pointers("i64", "token drawn seeds positions")
            | pointers("fp32", "confidence top_logit entropy temperatures") | pointers(kind, "logits")
            | kinds(i32="row_stride vocab mask_token"), warps=8,
        )
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_gpus_that_are_not_here() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 22, done.stderr
    assert all(line.endswith(" True True") for line in lines), lines
