"""Parses settings from command-line flags and environment variables."""

import difflib
import os
import re
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings import SettingsError as SourceError

from cdlm.server.access.keys import EMPTY_SECRET
from cdlm.server.settings import ENV_PREFIX, SECRETS, ServerSettings


class SettingsError(Exception):
    """A flag or variable is unknown or has a bad value; the message names it."""


def parse_settings(argv: Sequence[str]) -> ServerSettings:
    """Parses settings: flags take precedence over ``CDLM_*`` variables, which take precedence over defaults.

    Raises ``SettingsError`` for an unknown flag or variable or a bad value. ``--help`` prints and exits.
    """
    _reject_unknown_variables()
    try:
        return CliApp.run(ServerSettings, cli_args=_without_empty(argv))
    except ValidationError as error:
        raise SettingsError("\n".join(_describe(item, argv) for item in error.errors())) from error
    except SourceError as error:
        raise SettingsError(_nearest(str(error).removeprefix("error parsing CLI: "))) from error


def _without_empty(argv: Sequence[str]) -> list[str]:
    """Drops flags with an empty value, which come from unset variables of a script."""
    words: list[str] = []
    for word in argv:
        separate = not word and bool(words) and words[-1].startswith("--") and "=" not in words[-1]
        if not separate and not (word.startswith("--") and word.endswith("=") and word.count("=") == 1):
            words.append(word)
            continue
        flag = words.pop() if separate else word.removesuffix("=")
        if flag.removeprefix("--").replace("-", "_") in SECRETS:
            raise SettingsError(f"{flag}: {EMPTY_SECRET}")
    return words


def _reject_unknown_variables() -> None:
    known = {ENV_PREFIX + name.upper() for name in ServerSettings.model_fields}
    for name, value in sorted(os.environ.items()):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"unknown environment variable {name}={value!r}{hint}")


def _nearest(message: str) -> str:
    """Adds the most similar flag to a message about an unknown flag."""
    flag = re.match(r"unrecognized arguments: (--[\w-]+)", message)
    known = ["--" + name.replace("_", "-") for name in ServerSettings.model_fields]
    close = difflib.get_close_matches(flag[1], known, n=1) if flag else []
    return f"{message}; did you mean {close[0]}?" if close else message


def _describe(item: object, argv: Sequence[str]) -> str:
    assert isinstance(item, dict)
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:  # The error concerns several fields; its message names them.
        return message
    field = str(item["loc"][0])
    flag = "--" + field.replace("_", "-")
    variable = ENV_PREFIX + field.upper()
    on_flag = any(word == flag or word.startswith(flag + "=") for word in argv)
    source = flag if on_flag or variable not in os.environ else variable
    if field == "api_key":
        return f"{source}: {message}"
    return f"{source}={item['input']!r}: {message}"
