"""schemathesis over the server's own document: no 5xx, nothing that the document does not say, accepted or answered."""

from pathlib import Path

import pytest

from cdlm.server.app import OPERATIONS
from tests.external.clients.conftest import HERE, Run
from tests.external.clients.environments import python_of
from tests.support.server.served import running_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(2400)]

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,negative_data_rejection,allowed_data_is_accepted"
)


def test_the_document_holds(run: Run, tmp_path: Path) -> None:
    # Answers that go on to the end of the context are short ones.
    with running_server(tmp_path / "log", "--max-model-len", "96") as small:
        found = run(
            python_of("schemathesis"), "-m", "schemathesis.cli", "run", f"{small.url}/openapi.json", "--url", small.url,
            "--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--max-examples", "15", "--seed", "1",
            "--no-shrink", "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off",
            "--request-timeout", "60", PYTHONPATH=str(HERE / "scripts"), SCHEMATHESIS_HOOKS="schemathesis_checks",
        )  # fmt: skip
        assert "No issues found" in found
        assert f"{len(OPERATIONS)} selected / {len(OPERATIONS)} total" in found
        small.wait_idle()
