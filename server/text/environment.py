"""Where chat templates run: transformers' sandbox, in which texts keep the marks of who wrote them."""

import functools
from collections.abc import Callable, Iterator
from types import BuiltinMethodType
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cdlm.server.text.marked import Marked, concat, holds_client_text, spread

# Filters whose results carry the right marks: made by methods of ``Marked``, or one of the values they are given.
_KEEPING = frozenset(
    ("attr", "capitalize", "d", "default", "first", "join", "last", "lower", "max", "min", "random", "replace")
    + ("string", "trim", "upper")
)


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class MarkingEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox with everything that makes text in a template watched: calls, filters, operators, output."""

    code_generator_class = _Generator
    concat = staticmethod(concat)
    intercepted_binops = frozenset("%")

    def __init__(self, base: ImmutableSandboxedEnvironment) -> None:
        super().__init__(
            trim_blocks=base.trim_blocks,
            lstrip_blocks=base.lstrip_blocks,
            extensions=[type(extension) for extension in base.extensions.values()],
            finalize=_shown,
        )
        self.filters = {name: _watched(name, function) for name, function in base.filters.items()}
        self.tests, self.globals = base.tests, base.globals

    def joined(self, values: tuple[object, ...]) -> Marked:
        """What ``~`` makes of values."""
        return concat(map(_shown, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        result = super().call_binop(context, operator, left, right)
        return spread(result, left, right) if isinstance(result, str) else result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Macro):
            return super().call(__context, __obj, *args, **kwargs)
        listed = [_listed(value) for value in args]
        owner = getattr(__obj, "__self__", None)
        if type(owner) is str and isinstance(__obj, BuiltinMethodType):
            __obj = getattr(concat([owner]), __obj.__name__)
        result = super().call(__context, __obj, *listed, **kwargs)
        if isinstance(result, str) and not isinstance(result, Marked):
            # Bytes come of text that was encoded.
            return Marked(result) if isinstance(owner, bytes) or holds_client_text([listed, kwargs]) else result
        return result


def marking_template(source: str) -> Template:
    """The compiled template; rendering it gives ``Marked`` text. Raises ``jinja2.TemplateSyntaxError``."""
    # With its filters, functions and tags, and what it takes away from Jinja's.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return MarkingEnvironment(_compile_jinja_template(source).environment).from_string(source)


def _watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Some are given the context first, which is nothing that the template handles.
    given = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        values = [_listed(value) for value in args[given:]]
        keeps = name in _KEEPING
        if name == "join" and isinstance(values[0], list | tuple):
            # It makes texts of the values, and of their attributes.
            keeps = len(values) < 3 and "attribute" not in kwargs
            values[0] = [_shown(value) for value in values[0]] if keeps else values[0]
        if keeps:
            # Methods of texts that are not marked would not keep the marks of others.
            values = [concat([value]) if type(value) is str else value for value in values]
            kwargs = {key: concat([value]) if type(value) is str else value for key, value in kwargs.items()}
        result = function(*args[:given], *values, **kwargs)
        if isinstance(result, str) and not (keeps and isinstance(result, Marked)):
            return spread(result, values, kwargs)
        return result

    return watched


def _listed(value: object) -> object:
    """A list in the place of an iterator, so that one can look into it."""
    return list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else spread(str(value), value)
