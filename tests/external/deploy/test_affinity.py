"""Where a prompt belongs, and the page of all replicas' metrics."""

import json
from collections import Counter

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client import Counter as Count
from prometheus_client.parser import text_string_to_metric_families

from deploy.ray.affinity import order, preferred, prompt_key
from deploy.ray.metrics import merged

NAMES = [f"replica-{number}" for number in range(10)]


def key(**body: object) -> bytes | None:
    return prompt_key(json.dumps(body).encode())


def test_bodies_with_one_prompt_share_a_key() -> None:
    first = key(prompt="hello", max_tokens=8)
    assert first is not None
    assert key(temperature=1.0, prompt="hello", stream=True) == first
    assert key(prompt="hello!") != first
    assert key(input="hello") != first
    assert key(prompt="hello", suffix="!") != first
    chat = [{"role": "user", "content": "hello"}]
    assert key(messages=chat, model="a") == key(messages=chat, model="b") != key(messages=chat, tools=[{}])


def test_bodies_without_a_prompt_have_no_key() -> None:
    assert [prompt_key(body) for body in (b"", b"{", b"[1]", b"\xff", b'"prompt"', b"{}")] == [None] * 6


def test_prompts_spread_and_few_move_when_a_replica_leaves() -> None:
    keys = [b"prompt %d" % number for number in range(1000)]
    homes = [order(prompt, NAMES)[0] for prompt in keys]
    assert set(Counter(homes)) == set(NAMES)
    assert max(Counter(homes).values()) < 150
    left = [order(prompt, NAMES[:-1])[0] for prompt in keys]
    assert all(old == new for old, new in zip(homes, left, strict=True) if old != NAMES[-1])


def test_a_replica_with_more_than_its_share_comes_last() -> None:
    ordered = order(b"prompt", NAMES)
    loads = dict.fromkeys(NAMES, 10)
    assert preferred(ordered, loads, 1.25) == ordered
    loads[ordered[0]], loads[ordered[3]] = 14, 13  # At most ceil(1.25 * 10.8) = 14 after this one.
    assert preferred(ordered, loads, 1.25) == [*ordered[1:], ordered[0]]
    loads[ordered[3]] = 30
    assert preferred(ordered, loads, 1.25)[-1] == ordered[3]


def test_one_page_has_every_replicas_metrics() -> None:
    pages = {}
    for name, value in (("a", 2.0), ("b", 3.0)):
        registry = CollectorRegistry()
        Count("cdlm_tokens", "Tokens.", ["model_name"], registry=registry).labels("nano").inc(value)
        Gauge("cdlm_up", "Whether.", registry=registry).set(1)
        pages[name] = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(merged(pages).decode())}
    assert families["cdlm_tokens"].type == "counter"
    samples = [sample for sample in families["cdlm_tokens"].samples if sample.name == "cdlm_tokens_total"]
    assert [(sample.labels, sample.value) for sample in samples] == [
        ({"model_name": "nano", "replica": "a"}, 2.0),
        ({"model_name": "nano", "replica": "b"}, 3.0),
    ]
    assert [sample.labels for sample in families["cdlm_up"].samples] == [{"replica": "a"}, {"replica": "b"}]
