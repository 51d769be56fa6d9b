"""Runs the command ``cdlm`` inside the test process."""

from typer.testing import CliRunner, Result

from cdlm.cli.main import app


def cdlm(*arguments: str, **variables: str) -> Result:
    """Returns the command's output and exit status; its unhandled exceptions propagate."""
    return CliRunner().invoke(app, arguments, env=variables, catch_exceptions=False)
