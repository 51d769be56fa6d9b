"""The command ``cdlm doctor``."""

import json
import sys
from typing import Annotated

import typer

from cdlm.cli.commands import one_line


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for bug reports.")] = False,
) -> None:
    """Report versions, processor, GPUs and memory, and whether a model can be served here.

    Takes every flag of cdlm serve, and CDLM_* variables. Reads no weights, fetches nothing, starts nothing.

    Exit status: 0 the model can be served, 1 it cannot, 2 a flag is bad.
    """
    from cdlm.cli.doctor.examination import examine
    from cdlm.cli.doctor.output import print_findings
    from cdlm.server.command_line import SettingsError, parse_settings

    with one_line("doctor", bad_flags=(SettingsError,)):
        settings = parse_settings(context.args)
    found = examine(settings)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_findings(found)
    sys.exit(0 if found["problem"] is None else 1)
