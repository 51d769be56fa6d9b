"""Where text that is JSON stands: outside of a string, inside of one, or behind a backslash in one."""

OUTSIDE, INSIDE, ESCAPED = range(3)
_QUOTE, _BACKSLASH = 0x22, 0x5C


def text_state(text: bytes, state: int = OUTSIDE) -> int:
    """Where JSON stands after ``text``, given where it stood before."""
    for byte in text:
        state = next_state(state, byte)
    return state


def next_state(state: int, byte: int) -> int:
    """Where JSON stands after one more ``byte``."""
    if state == ESCAPED:
        return INSIDE
    if byte == _QUOTE:
        return INSIDE if state == OUTSIDE else OUTSIDE
    return ESCAPED if byte == _BACKSLASH and state == INSIDE else state
