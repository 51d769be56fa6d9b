"""The command ``cdlm`` within the process of the tests."""

from typer.testing import CliRunner, Result

from cdlm.cli.main import app


def cdlm(*arguments: str, **variables: str) -> Result:
    """What the command wrote and its status; an exception that it does not handle is the caller's."""
    return CliRunner().invoke(app, arguments, env=variables, catch_exceptions=False)
