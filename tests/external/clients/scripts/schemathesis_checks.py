"""A check of schemathesis: what the document allows is refused only for what a document cannot say."""

import schemathesis
from schemathesis.checks import CheckContext

# Errors about rules between fields, or the context and vocabulary of the model, have other codes, or none.
NOT_ALLOWED = {"invalid_value", "missing_required_parameter", "unknown_parameter"}


@schemathesis.check
def allowed_data_is_accepted(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Fails where valid data are refused as if they were not."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return None
    error = response.json()["error"]
    if error["message"].endswith("this text is no JSON"):  # JSON Schema cannot say that a text is JSON.
        return None
    # Errors of Anthropic's routes have no code; tests/unit/server/fields/test_document.py compares body and document.
    assert error.get("code") not in NOT_ALLOWED, f"allowed by the document: {error['message']}"
    return None
