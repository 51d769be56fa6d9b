"""Triton's interpreter, of which tests take no more than they need."""

import dataclasses
import sys
from typing import Any


def prepare(overflow: bool) -> None:
    """Makes the interpreter fit for the next test, if anything has imported it; ``overflow`` asserts that no number of
    a kernel overflows, which takes a quarter of its time.
    """
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        return
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=overflow)
    _replace_once(interpreter)


def _replace_once(interpreter: Any) -> None:
    """Lets the first call only, of all that a module's functions have, replace the language's functions.

    The launch of a kernel replaces them until it ends, and each call of a function of the kernel, which ``tl.sum`` is
    as well, would look for them again: a third of all time.
    """
    function = interpreter.InterpretedFunction
    replacing, known = function.__call__, set[str]()
    if replacing.__module__ == __name__:
        return

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ not in known:
            known.add(self.fn.__module__)
            return replacing(self, *args, **kwargs)
        try:
            return self.rewrite()(*args, **kwargs)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    function.__call__ = call
