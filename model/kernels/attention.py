"""Attention of segments over pages, in one launch and without a mask.

A program takes a tile of one segment's queries, with all query heads of one key head, and walks through the page table
with an online softmax (Milakov and Gimelshein, 2018, arXiv 1805.02867; Dao et al., 2022, arXiv 2205.14135). If few
queries see many keys, several programs split the keys into parts of a fixed size.
"""

import triton
import triton.language as tl

# Columns of ``segments``.
COLUMNS = ("first", "length", "start", "visible", "causal", "shared")


@triton.jit
def paged_attention(
    out, sums, maxima, totals, query, keys, values, tiles, segments, tables, seen,
    scale, token_stride, slot_stride, table_stride, shared_rows,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PART: tl.constexpr, WIDEN: tl.constexpr, BRANCHED: tl.constexpr,
):  # fmt: skip
    """One tile of queries over one part of the keys: grid (tiles, key heads, parts).

    Args:
        out: [T, heads, head_dim], written for segments whose keys are not shared.
        sums: [parts, shared_rows, head_dim] fp32, for the others: values weighted by exp(score - maximum).
        maxima, totals: [parts, shared_rows] fp32, the maximum and the sum of the weights.
        query: [T, heads, head_dim].
        keys, values: [slots, kv_heads, head_dim].
        tiles: [tiles, 2] int32, the segment and its first query in the tile.
        segments: [segments, 6] int32: first flat token, queries, position of the first query, keys that are seen,
            whether the segment is causal, and its first row of ``sums`` or -1.
        tables: [segments, pages] int32.
        seen: [T, 3] int32, what each query sees (``Segment.sees``); read where a segment has branches.
        GROUP: query heads per key head.
        WIDTH: head_dim, or the next power of two.
        ROWS: queries of a tile times GROUP, or the next power of two.
        KEYS: keys that are read at a time.
        PART: keys of a part.
        BRANCHED: whether some segment has branches.
        WIDEN: multiply bf16 values in fp32, since Triton's interpreter has no bf16 product.
    """
    tile, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    segment = tl.load(tiles + 2 * tile)
    begin = tl.load(tiles + 2 * tile + 1)
    about = segments + 6 * segment
    first = tl.load(about)
    length = tl.load(about + 1)
    start = tl.load(about + 2)
    visible = tl.load(about + 3)
    causal = tl.load(about + 4)
    shared = tl.load(about + 5)
    lowest = tl.where(shared < 0, 0, part * PART)
    end = tl.where(shared < 0, visible, tl.minimum(visible, lowest + PART))
    if (lowest >= end) | ((shared < 0) & (part > 0)):
        return
    row = tl.arange(0, ROWS)
    at = begin + row // GROUP  # Which query of the segment.
    mine = (row < ROWS // GROUP * GROUP) & (at < length)
    sees = tl.where(causal != 0, tl.minimum(visible, start + at + 1), visible)
    if BRANCHED:
        of_query = seen + 3 * (first + at)
        sees = tl.load(of_query, mask=mine, other=1)
        own_first = tl.load(of_query + 1, mask=mine, other=0)
        own_end = tl.load(of_query + 2, mask=mine, other=0)
    dim = tl.arange(0, WIDTH)
    wide = dim < HEAD_DIM
    inside = mine[:, None] & wide[None, :]
    place = (first + at) * token_stride + (head * GROUP + row % GROUP) * HEAD_DIM
    asked = tl.load(query + place[:, None] + dim[None, :], mask=inside, other=0.0)
    if WIDEN:
        asked = asked.to(tl.float32)
    maximum = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    added = tl.zeros([ROWS, WIDTH], tl.float32)
    for at_key in range(lowest, end, KEYS):
        position = at_key + tl.arange(0, KEYS)
        known = position < end
        page = tl.load(tables + segment * table_stride + position // PAGE, mask=known, other=0)
        slot = (page * PAGE + position % PAGE).to(tl.int64) * slot_stride + head * HEAD_DIM
        there = known[:, None] & wide[None, :]
        key = tl.load(keys + slot[:, None] + dim[None, :], mask=there, other=0.0)
        value = tl.load(values + slot[:, None] + dim[None, :], mask=there, other=0.0)
        if WIDEN:
            key = key.to(tl.float32)
        score = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
        visible_here = position[None, :] < sees[:, None]
        if BRANCHED:
            visible_here |= (position[None, :] >= own_first[:, None]) & (position[None, :] < own_end[:, None])
        score = tl.where(known[None, :] & visible_here, score, float("-inf"))
        larger = tl.maximum(maximum, tl.max(score, 1))
        base = tl.where(larger == float("-inf"), 0.0, larger)  # The row has seen no key yet.
        weight = tl.exp(score - base[:, None])
        shrink = tl.exp(maximum - base)
        total = total * shrink + tl.sum(weight, 1)
        rounded = weight.to(value.dtype)
        if WIDEN:
            rounded, value = rounded.to(tl.float32), value.to(tl.float32)
        added = added * shrink[:, None] + tl.dot(rounded, value, input_precision="ieee")
        maximum = larger
    if shared < 0:
        result = added / total[:, None]
        tl.store(out + place[:, None] + dim[None, :], result.to(out.dtype.element_ty), mask=inside)
    else:
        heads = tl.num_programs(1) * GROUP
        line = part * shared_rows + (shared + at) * heads + head * GROUP + row % GROUP
        tl.store(sums + line[:, None] * HEAD_DIM + dim[None, :], added, mask=inside)
        tl.store(maxima + line, maximum, mask=mine)
        tl.store(totals + line, total, mask=mine)


@triton.jit
def join_parts(
    out, sums, maxima, totals, tokens, visible, shared_rows,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Combines the parts of split keys, in order: grid (queries with split keys, heads).

    Args:
        out: [T, heads, head_dim], written for these queries.
        sums, maxima, totals: of ``paged_attention``; parts that a query has not are not read.
        tokens, visible: [queries], the flat token of each, and how many keys its segment sees; 0 leaves ``out`` alone.
    """
    query, head = tl.program_id(0), tl.program_id(1)
    token = tl.load(tokens + query).to(tl.int64)
    parts = tl.cdiv(tl.load(visible + query), PART)
    if parts == 0:
        return
    dim = tl.arange(0, WIDTH)
    wide = dim < HEAD_DIM
    maximum, total = float("-inf"), 0.0
    added = tl.zeros([WIDTH], tl.float32)
    first = tl.zeros([], tl.int64) + query * HEADS + head
    for part in range(0, parts):
        line = first + part * shared_rows
        here = tl.load(maxima + line)
        larger = tl.maximum(maximum, here)
        shrink, weight = tl.exp(maximum - larger), tl.exp(here - larger)
        total = total * shrink + tl.load(totals + line) * weight
        added = added * shrink + tl.load(sums + line * HEAD_DIM + dim, mask=wide, other=0.0) * weight
        maximum = larger
    tl.store(out + (token * HEADS + head) * HEAD_DIM + dim, (added / total).to(out.dtype.element_ty), mask=wide)
