"""What masked rows compute and learn, against plain forwards and the definitions of the losses."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cdlm.model.backbones import BACKBONES
from cdlm.model.loading.adapter import CHAIN_FILE, check_adapter, read_adapter, write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.gate import attach
from cdlm.model.network.product import Product
from cdlm.model.network.transformer import Transformer
from cdlm.training.backbone.config import LoraSection
from cdlm.training.backbone.lora import adapter_weights, add_adapter, trainable
from cdlm.training.batches.attention import RowAttention, causal_mask
from cdlm.training.batches.rows import Example
from cdlm.training.config import LossSection
from cdlm.training.drafts.objective import DraftObjective
from cdlm.training.drafts.rows import DraftRows, draft_rows
from tests.support.drafts import chained_by_hand, random_chain
from tests.support.models.hf_block_checkpoints import build

MASK, WINDOW, LORA = 95, 4, LoraSection(r=4, alpha=8)
EXAMPLES = [Example([*range(3, 8)], [*range(20, 35)]), Example([1, 2], [*range(40, 46)])]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build(tmp_path / "base", "llama", std=0.2)
    return tmp_path / "base"


def load(base: Path) -> Transformer:
    return load_checkpoint(base, device=torch.device("cpu"), dtype=torch.float32).transformer


def adapted(base: Path) -> Transformer:
    torch.manual_seed(0)
    transformer = load(base)
    add_adapter(transformer, LORA)
    for parameter in trainable(transformer).values():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def objective(transformer: Transformer, *, decay: float = 1.0, **weights: float) -> DraftObjective:
    losses = LossSection(**{"distillation": 1.0, "consistency": 0.5, "dlm": 0.25, **weights})
    return DraftObjective(transformer, mask_id=MASK, weights=losses, offset_decay=decay)


def some_rows() -> DraftRows:
    return draft_rows(EXAMPLES, window=WINDOW, groups=6, pad_id=0, rng=random.Random(3))


class FlatAttention:
    """One sequence without an axis of rows, as the engine has it."""

    def __init__(self, mask: Tensor) -> None:
        self._rows = RowAttention(mask[None])

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self._rows(layer, query[None], key[None], value[None])[0]


def test_masked_rows_are_those_of_one_forward_per_group_with_the_served_gate(base: Path, tmp_path: Path) -> None:
    """What is trained is what is served: the adapter is written, read, gated, and each group computed by itself."""
    transformer, rows, backbone = adapted(base), some_rows(), BACKBONES["llama"]
    write_adapter(
        tmp_path / "drafts", adapter_weights(transformer), backbone=backbone, r=LORA.r, alpha=LORA.alpha, base="",
        decoding=AdapterDecoding(drafts=GatedDrafts(mask_token_id=MASK, window=WINDOW)),
    )  # fmt: skip
    with torch.no_grad():
        drafted = objective(transformer).draft(rows)
        served = load(base)
        attach(served, check_adapter(served, read_adapter(tmp_path / "drafts"), backbone), lambda w: Product(w, None))
        gate, expected, plain = served.gate, [], []
        assert gate is not None
        for row, group, offset in rows.asked.nonzero().tolist():
            known = int(rows.known[row, group])
            ids = torch.cat((rows.token_ids[row, : known + 1], torch.full((WINDOW,), MASK)))
            mask = causal_mask(len(ids))[0]
            gate.first = known + 1
            hidden = served(ids, torch.arange(len(ids)), FlatAttention(mask))
            expected.append(served.logits(hidden)[known + 1 + offset])
            gate.first = None
            text = rows.token_ids[row, : known + 2 + offset]
            causal = FlatAttention(causal_mask(len(text))[0])
            plain.append(served.logits(served(text, torch.arange(len(text)), causal))[-1])
    torch.testing.assert_close(drafted.logits, torch.stack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drafted.verified, torch.stack(plain), atol=1e-5, rtol=1e-5)
    assert (drafted.logits - drafted.verified).abs().max() > 0.1


def test_a_chain_adds_to_masked_rows_what_the_token_in_front_of_their_draft_says(base: Path, tmp_path: Path) -> None:
    """Against the slow decoder's chain, which reads the file that serving reads; the text has the tokens in front."""
    transformer, rows = adapted(base), some_rows()
    plain = objective(transformer)
    chained = DraftObjective(
        transformer, mask_id=MASK, weights=plain.weights, offset_decay=1.0, chain=random_chain(32).requires_grad_(False)
    )
    save_file({f"{name}.weight": getattr(chained.chain, name).weight for name in ("down", "up")}, tmp_path / CHAIN_FILE)
    states: list[Tensor] = []
    hook = transformer.norm.register_forward_hook(lambda _module, _inputs, out: states.append(out))
    with torch.no_grad():
        without, with_chain = plain.draft(rows).logits, chained.draft(rows).logits
    hook.remove()
    hidden = states[1][rows.asked.flatten(1)]
    embedding = transformer.embed_tokens.weight
    texts = [example.prompt + example.answer for example in EXAMPLES]
    places = [
        (text, int(position))
        for text, positions, asked in zip(texts, rows.positions, rows.asked, strict=True)
        for position in positions[asked]
    ]
    assert len(places) == len(hidden) > 20
    for line, state, change, (text, position) in zip(without, hidden, with_chain - without, places, strict=True):
        expected = chained_by_hand(tmp_path, embedding, state, text[position], line)
        kept = expected.isfinite()
        torch.testing.assert_close(change[kept], (expected - line)[kept], rtol=1e-4, atol=1e-3)
    assert (with_chain.argmax(-1) != without.argmax(-1)).any()


def test_the_adapter_changes_masked_rows_and_no_other(base: Path) -> None:
    transformer, rows = adapted(base), some_rows()
    with torch.no_grad():
        first = objective(transformer).draft(rows)
        for parameter in trainable(transformer).values():
            torch.nn.init.normal_(parameter, std=0.3)
        second = objective(transformer).draft(rows)
    assert torch.equal(first.verified, second.verified)
    assert (first.logits - second.logits).abs().max() > 0.1


def test_losses_are_those_of_their_definitions(base: Path) -> None:
    transformer, rows = adapted(base), some_rows()
    with torch.no_grad():
        drafted = objective(transformer).draft(rows)
        _, figures = objective(transformer, decay=0.5)(rows)
    places = {tuple(place): number for number, place in enumerate(rows.asked.nonzero().tolist())}
    student, teacher = drafted.logits.softmax(-1), drafted.verified.softmax(-1)
    sums, counts = {"distillation": 0.0, "consistency": 0.0, "dlm": 0.0}, {"consistency": 0.0, "all": 0.0}
    right = [[0.0, 0.0] for _ in range(WINDOW)]
    for (row, group, offset), number in places.items():
        weight, p, q = 0.5**offset, teacher[number], student[number]
        position = int(rows.known[row, group]) + 1 + offset
        sums["distillation"] += weight * float((p * (p / q).log()).sum())
        sums["dlm"] -= weight * float(q[rows.token_ids[row, position + 1]].log())
        counts["all"] += weight
        right[offset][0] += float(p.argmax() == q.argmax())
        right[offset][1] += 1
        shift = int(rows.known[row, group + 1] - rows.known[row, group]) if group % 2 == 0 else 0
        better = places.get((row, group + 1, offset - shift)) if group % 2 == 0 else None
        if better is not None:
            sums["consistency"] += weight * float((student[better] * (student[better] / q).log()).sum())
            counts["consistency"] += weight
    assert counts["consistency"] > 2
    assert figures["distillation"] == pytest.approx(sums["distillation"] / counts["all"], rel=1e-4)
    assert figures["dlm"] == pytest.approx(sums["dlm"] / counts["all"], rel=1e-4)
    assert figures["consistency"] == pytest.approx(sums["consistency"] / counts["consistency"], rel=1e-4)
    for offset, (hits, count) in enumerate(right, 1):
        assert figures[f"agreement_{offset}"] == pytest.approx(hits / count)


def test_weights_leave_losses_out_and_the_better_state_gets_no_gradient(base: Path) -> None:
    transformer, rows = adapted(base), some_rows()
    whole, figures = objective(transformer)(rows)
    assert float(whole.detach()) == pytest.approx(
        figures["distillation"] + 0.5 * figures["consistency"] + 0.25 * figures["dlm"], rel=1e-5
    )
    alone, figures = objective(transformer, distillation=0.0, dlm=0.0)(rows)
    assert set(figures) == {"consistency", *(f"agreement_{offset}" for offset in range(1, WINDOW + 1))}
    # Were y* not detached, the gradient of the mean of both directions' KL would differ from this one.
    parameter = next(value for name, value in trainable(transformer).items() if "lora_B" in name)
    (found,) = torch.autograd.grad(alone, parameter)
    first, second = rows.pairs()
    order = rows.asked.flatten().cumsum(0) - 1
    logits = objective(transformer).draft(rows).logits.log_softmax(-1)
    target = logits[order[second]].detach()
    by_hand = 0.5 * (target.exp() * (target - logits[order[first]])).sum(-1).mean()
    (expected,) = torch.autograd.grad(by_hand, parameter)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_tokens_per_draft_count_what_is_right_from_the_start(base: Path) -> None:
    transformer, rows = adapted(base), some_rows()
    figures = objective(transformer).measure(rows)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        drafted = objective(transformer).draft(rows)
    same = iter((drafted.logits.argmax(-1) == drafted.verified.argmax(-1)).tolist())
    lengths = []
    for row in range(rows.asked.shape[0]):
        for group in range(rows.asked.shape[1]):
            hits = [next(same) for _ in range(int(rows.asked[row, group].sum()))]
            if len(hits) == WINDOW:
                lengths.append(1 + ([*hits, False].index(False)))
    assert figures["kept_tokens"] == pytest.approx(sum(lengths) / len(lengths))
