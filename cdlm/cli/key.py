"""``cdlm key``: a fresh API key, and what the server needs to recognize it."""

from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="What the key is called in logs and messages.")],
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests it may send a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens it may use, prompts and answers.")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Answers it may have in hand at once.")] = None,
) -> None:
    """Draws an API key.

    The key goes to standard error, its line for the file of --api-key-file to standard output: the file then holds a
    hash, and `cdlm key NAME >> keys` shows the key once.
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
