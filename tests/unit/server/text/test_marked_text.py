"""What a template makes of a client's text is the client's; clients write Greek here, and templates do not."""

import pytest
from jinja2.filters import FILTERS
from transformers.utils.chat_template_utils import render_jinja_template

from cdlm.server.text.marked import Marked
from cdlm.server.text.template import Chat, ChatTemplate, TemplateFault
from tests.support.matrix import some

CONTENTS = ["\u03b1\u03b2\u03b3", "\u03b2", "", "\u03b1\u03b2 \u03b1\u03b2\n\u03b3\u03b4 \u03b2"]

# With the marks of every character kept.
EXACT = [
    "{{ c }}",
    "{{ 'x' + c + 'y' }}",
    "{{ c + 'y' }}|{{ 'y' ~ c ~ 1 ~ none }}",
    "{{ c * 2 }}{{ 2 * c }}",
    "{{ c[1:] }}{{ c[:-1] }}{{ c[::-1] }}{{ c[0] if c else '-' }}{{ c[-1] if c }}",
    "{% for letter in c %}({{ letter }}){% endfor %}",
    "{{ c.split('\u03b2')|join('-') }}",
    "{{ c.split()|join('+') }}{{ c.split('\u03b2', 1)[-1] }}{{ c.rsplit('\u03b2', 1)[0] }}{{ c.rsplit(none, 1)|last }}",
    "{{ c.splitlines()|join('/') }}{{ c.splitlines(true)|join('/') }}",
    "{{ c.partition('\u03b2')|join('=') }}{{ c.rpartition('\u03b2')|join('=') }}",
    "{{ c.strip() }}{{ c.lstrip('\u03b1') }}{{ c.rstrip('\u03b3') }}{{ c|trim }}{{ ('  ' + c + '\n')|trim }}",
    "{{ c.removeprefix('\u03b1') }}{{ c.removesuffix('\u03b2') }}",
    "{{ c|upper }}{{ c|capitalize }}{{ c.title() }}{{ c.lower() }}",
    "{{ c|replace('\u03b1', 'x') }}{{ c.replace('\u03b2', '<' ~ c ~ '>', 1) }}{{ 'axa'.replace('x', c) }}",
    "{{ [c, 'x', c]|join(', ') }}{{ ', '.join([c, 'x']) }}{{ messages|map(attribute='content')|join('|') }}",
    "{{ '-'.join(messages|map(attribute='content')) }}",
    "{{ c|default('none') }}{{ nothing|default('none') }}{{ c or 'empty' }}{{ [c, 'x']|first }}{{ ['x', c]|last }}",
    "{% macro m(x) %}<{{ x }}>{{ caller() if caller }}{% endmacro %}{{ m(c) }}{% call m('y') %}{{ c }}{% endcall %}",
    "{% set x %}[{{ c }}]{% endset %}{{ x }}{% set y = x + c %}{{ y }}",
    "{% filter trim %} x{{ c }} {% endfilter %}",
    "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t + m.content %}{% endfor %}{{ n.t }}",
    "{{ '\u03b2' in c }}{{ c.startswith('\u03b1') }}{{ c == 'x' }}{{ c is string }}{{ c|length }}",
    "{% for m in messages[::-1] %}{{ loop.cycle('a', 'b') }}{{ m['role'] }}{{ m.get('content', '') }}{% endfor %}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
    "{% for m in messages recursive %}{{ m.content }}{{ loop([]) if loop.depth < 2 }}{% endfor %}",
    "{% generation %}{{ c }}{% endgeneration %}",
]
# With the result marked as a whole.
WHOLE = [
    "{{ '%s-%s' % (c, 1) }}{{ '%s' % c }}{{ (c + '%s') % 'x' }}",
    "{{ '{} {}'.format(c, 'x') }}{{ '{a}'.format(a=c) }}{{ '{m[content]}'.format_map({'m': messages[0]}) }}",
    "{{ c.format(1) }}{{ '%s'|format(c) }}",
    "{{ {'k': c}|tojson }}{{ messages|tojson(indent=2) }}{{ {c: 1} }}{{ [c] }}{{ messages[0] }}{{ messages|string }}",
    "{{ c|indent }}{{ c|wordwrap(3) }}{{ c|truncate(5) }}{{ c|title }}{{ c|center(20) }}{{ c.center(9, 'x') }}",
    "{{ c|reverse }}{{ c|list }}{{ c|list|string }}{{ c|batch(2)|list }}{{ c|slice(2)|list }}{{ c|unique|list }}",
    "{{ c.encode('utf-8').decode('utf-8') }}{{ c.replace('', '-') }}{{ c.zfill(9) }}{{ c.expandtabs() }}",
    "{{ c|e }}{{ c|striptags }}{{ c|urlize }}{{ {'a': c}|xmlattr }}{{ c|forceescape }}{{ c|safe }}{{ c|pprint }}",
    "{% autoescape true %}{{ c }}{{ '<' ~ c }}{% endautoescape %}",
    "{{ dict(a=c)|string }}{{ messages|groupby('content')|list }}{{ {'a': c}|dictsort }}",
    "{{ c.translate({945: 'x'}) }}{{ c|urlencode }}{{ c|map('upper')|list }}{{ messages|map('string')|list }}",
    "{% filter indent %}{{ c }}{% endfilter %}{{ cycler(c, 'x').next() }}{% set j = joiner(c) %}{{ j() }}{{ j() }}",
    "{{ c.casefold() }}{{ c.swapcase() }}{{ c.ljust(8) }}{{ c.rjust(8) }}{{ messages|selectattr('content')|list }}",
]


def greek(character: str) -> bool:
    return "\u0370" <= character < "\u0400"


def render(source: str, content: str) -> Marked:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "\u03b4"}]
    source = "{% set c = messages[0].content %}" + source
    text = ChatTemplate(source).render(Chat(messages))
    [[expected], _] = render_jinja_template([messages], chat_template=source, add_generation_prompt=True)
    assert text.plain() == expected
    assert len(text.marks) == len(text)
    return text


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("source", EXACT)
def test_every_character_keeps_its_mark(source: str, content: str) -> None:
    text = render(source, content)
    white = [place for place, character in enumerate(text.plain()) if character.isspace()]
    wrong = [place for place, character in enumerate(text.plain()) if text.marks[place] != greek(character)]
    assert set(wrong) <= set(white)  # Either may have written those.


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("source", WHOLE)
def test_no_character_of_a_client_loses_its_mark(source: str, content: str) -> None:
    text = render(source, content)
    assert all(mark for character, mark in zip(text.plain(), text.marks, strict=True) if greek(character))


CALLS = ("", "('x')", "(2)", "(attribute='content')")
VALUES = ("c", "[c, 'x']", "{'a': c}", "messages")
OWNERS = ("c", "'axa'", "'{} %s'", "(c ~ 'x')")
ARGUMENTS = ("", "'x'", "9", "c", "'x', c", "c, 'x'", "9, 'x'", "['x', c]", "messages|map('string')", "{97: c}")

# A quarter of all has every two of a name, a call and a value together.
every_quarter = pytest.mark.parametrize("quarter", some(range(4), every=4))


def check_marks(source: str) -> None:
    try:
        text = ChatTemplate("{% set c = messages[0].content %}" + source).render(
            Chat([{"role": "user", "content": CONTENTS[3]}])
        )
    except TemplateFault:
        return
    assert all(mark for character, mark in zip(text.plain(), text.marks, strict=True) if greek(character)), source


@every_quarter
def test_every_filter_is_watched(quarter: int) -> None:
    for place, name in enumerate(sorted(FILTERS)):
        for number, call in enumerate(CALLS):
            value = VALUES[(place + number + quarter) % len(VALUES)]
            check_marks(f"{{{{ {value}|{name}{call} }}}}{{{{ ({value}|{name}{call})|list }}}}")


@every_quarter
def test_every_method_of_text_is_watched(quarter: int) -> None:
    for place, name in enumerate(sorted(name for name in dir(str) if not name.startswith("_"))):
        for number, given in enumerate(ARGUMENTS):
            owner = OWNERS[(place + number + quarter) % len(OWNERS)]
            check_marks(f"{{{{ {owner}.{name}({given}) }}}}{{{{ {owner}.{name}({given})|join('x') }}}}")
