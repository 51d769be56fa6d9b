"""Other servers' suites: what fails is what the lists of expected failures say, each with its reason."""

from pathlib import Path

import pytest

from tests.external.peers.run import outcomes
from tests.external.peers.suites import SUITES

pytestmark = [pytest.mark.clients, pytest.mark.timeout(6000)]

EXPECTED = Path(__file__).parent / "expected"


def expected_failures(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Reason by test, of the tests that fail, and of those that do at times: on a busy machine, or by their draws.

    A line that begins with ``#`` is the reason of the tests in the lines behind it, with ``#?`` of such that may pass.
    """
    fails: dict[str, str] = {}
    may_fail: dict[str, str] = {}
    into, reason = fails, ""
    for line in (EXPECTED / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            mark, _, reason = line.partition(" ")
            into = {"#": fails, "#?": may_fail}[mark]
        elif line:
            assert reason, f"{line}: no reason"
            assert line not in fails | may_fail, f"{line}: listed twice"
            into[line] = reason
    return fails, may_fail


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_fails_where_it_is_expected_to(name: str) -> None:
    found = outcomes(SUITES[name])
    expected, may_fail = expected_failures(name)
    failed = {test: reason for test, (outcome, reason) in found.items() if outcome in ("failed", "error")}
    unexpected = [f"{test}: {reason}" for test, reason in failed.items() if test not in expected | may_fail]
    assert not unexpected, "fail although they should pass:\n" + "\n".join(unexpected)
    stale = sorted((expected.keys() - failed.keys()) | (may_fail.keys() - found.keys()))
    assert not stale, "are listed as failures and pass, or are gone:\n" + "\n".join(stale)
