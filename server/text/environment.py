"""The sandbox of chat templates: transformers' sandbox, extended to track which characters a client wrote."""

import functools
from collections.abc import Callable, Iterator
from types import BuiltinMethodType
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cdlm.server.text.marked import Marked, concat, holds_client_text, spread

# Filters whose results have correct marks: they call methods of ``Marked`` or return one of their inputs.
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
    """A sandbox that keeps ``Marked`` text through calls, filters, operators and output of a template."""

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
        """The result of Jinja's operator ``~``."""
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
            # Bytes are encoded text.
            return Marked(result) if isinstance(owner, bytes) or holds_client_text([listed, kwargs]) else result
        return result


def marking_template(source: str) -> Template:
    """Compiles a template that renders ``Marked`` text; raises ``jinja2.TemplateSyntaxError``."""
    # Has transformers' filters, functions, tags and restrictions.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return MarkingEnvironment(_compile_jinja_template(source).environment).from_string(source)


def _watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Some get Jinja's context as first argument, which is not a value of the template.
    given = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        values = [_listed(value) for value in args[given:]]
        keeps = name in _KEEPING
        if name == "join" and isinstance(values[0], list | tuple):
            # It converts values and attributes to text.
            keeps = len(values) < 3 and "attribute" not in kwargs
            values[0] = [_shown(value) for value in values[0]] if keeps else values[0]
        if keeps:
            # Methods of plain ``str`` would drop the marks of their arguments.
            values = [concat([value]) if type(value) is str else value for value in values]
            kwargs = {key: concat([value]) if type(value) is str else value for key, value in kwargs.items()}
        result = function(*args[:given], *values, **kwargs)
        if isinstance(result, str) and not (keeps and isinstance(result, Marked)):
            return spread(result, values, kwargs)
        return result

    return watched


def _listed(value: object) -> object:
    """Converts an iterator to a list, so that its items can be inspected."""
    return list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else spread(str(value), value)
