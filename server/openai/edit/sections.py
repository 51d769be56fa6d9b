"""The sections of an edit's message: what lies around the code to edit, and how it is shown to the model."""

from dataclasses import dataclass

_CURSOR = "<|cursor|>"


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt that ends where the rewritten code begins, and the text of the file after that code."""

    prompt: str
    suffix: str


def infill_of(content: str) -> Infill:
    """Reads a message with the tags of Mercury's prompts.

    The prompt has what is outside of the current file, as it was sent, then the code to edit with its tags and cursor,
    then the file up to this code. The suffix is the file after it. The code may stand inside of the current file, as
    in prompts of editors, or beside it; then it must be found in the file. Raises ``ValueError`` for missing, repeated
    or crossing tags.
    """
    file_start, file_end = _section(content, "current_file_content")
    code_start, code_end = _section(content, "code_to_edit")
    opening, closing = _tags("code_to_edit")
    marked = content[code_start:code_end]
    _check_cursor(content, marked)
    if file_start < code_start and code_end < file_end:
        head, tail = content[file_start:code_start], content[code_end:file_end].removeprefix("\n")
        others = [content[:file_start], content[file_end:]]
    elif code_end <= file_start or file_end <= code_start:
        inner = marked.removeprefix(opening).removesuffix(closing).removeprefix("\n").replace(_CURSOR, "")
        found = content.count(inner, file_start, file_end) if inner else 0
        if found != 1:
            raise ValueError(f"the code to edit must stand once in the current file, and stands there {found} times")
        place = content.index(inner, file_start, file_end)
        head, tail = content[file_start:place], content[place + len(inner) : file_end]
        first, second = sorted([(file_start, file_end), (code_start, code_end)])
        others = [content[: first[0]], content[first[1] : second[0]], content[second[1] :]]
    else:
        raise ValueError("<|code_to_edit|> and <|current_file_content|> must not cross")
    tail = tail.removesuffix(_tags("current_file_content")[1])
    shown = [each.strip("\n") for each in (*others, marked) if each.strip()]
    return Infill("\n\n".join([*shown, head]), tail)


def _tags(name: str) -> tuple[str, str]:
    return f"<|{name}|>", f"<|/{name}|>"


def _section(content: str, name: str) -> tuple[int, int]:
    """Where a section begins and ends, its tags included."""
    for tag in _tags(name):
        if (found := content.count(tag)) != 1:
            raise ValueError(f"{tag} must be there once, and is there {found} times")
    opening, closing = _tags(name)
    start, end = content.index(opening), content.index(closing)
    if end < start:
        raise ValueError(f"{closing} must come after {opening}")
    return start, end + len(closing)


def _check_cursor(content: str, marked: str) -> None:
    if (found := content.count(_CURSOR)) != 1:
        raise ValueError(f"{_CURSOR} must be there once, and is there {found} times")
    if _CURSOR not in marked:
        raise ValueError(f"{_CURSOR} must be inside of <|code_to_edit|>")
