"""``cdlm key``: a new API key, and its line for the server's key file."""

from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="Name of the key in logs and messages.")],
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests per minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens per minute, prompts and answers.")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Most answers in progress at once.")] = None,
) -> None:
    """Generate an API key.

    The key goes to standard error; a line with its hash, for --api-key-file, to standard output: `cdlm key NAME >>
    keys` shows the key once and stores its hash.
    """
    from cdlm.server.access.keys import new_key

    try:
        secret, line = new_key(
            name,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_sequences=max_sequences,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(line)
    typer.echo(f"The key, which is shown only now: {secret}", err=True)
