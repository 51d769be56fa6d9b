"""``--threshold-under-load`` of a real server: answers are those of their thresholds, whatever ran beside."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.server.served import running_server

FIELDS: dict[str, Any] = {"max_tokens": 96, "ignore_eos": True, "return_token_ids": True}
OWN = 0.995  # Of cdlm-nano.


def test_waiting_requests_lower_the_threshold(tmp_path: Path) -> None:
    flags = ("--max-num-seqs", "2", "--threshold-under-load", "0.4", "--load-full-at", "6")
    with running_server(tmp_path / "log", *flags) as server:

        def ask(number: int, **more: Any) -> tuple[float, list[int]]:
            answer = server.complete(prompt=f"Tom has {number} apples and buys 3.", **FIELDS, **more)
            return answer["usage"]["confidence_threshold"], answer["choices"][0]["token_ids"]

        assert ask(0)[0] == OWN
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, number) for number in range(10)]
            kept = [pool.submit(ask, 3, confidence_threshold=threshold) for threshold in (0.9, 0.1)]
            used = [each.result() for each in asked]
            assert [each.result()[0] for each in kept] == [0.9, 0.1]
        thresholds = [threshold for threshold, _ in used]
        assert all(0.4 <= threshold <= OWN for threshold in thresholds)
        assert min(thresholds) < max(thresholds)
        server.wait_idle()
        for number, (threshold, ids) in enumerate(used):
            assert ask(number, confidence_threshold=threshold) == (threshold, ids)
        assert server.metric("cdlm_chosen_threshold_count") == 1 + len(used)
        assert server.metric("cdlm_chosen_threshold_sum") == pytest.approx(OWN + sum(thresholds))
