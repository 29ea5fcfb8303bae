"""Writes jinja.json: what Jinja, as transformers sets it up, makes of small templates that use each of its features by itself."""
import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

TEMPLATES = r'''
{{ '  ab '.strip() }}|{{ 'xxabxx'.strip('x') }}|{{ 'xyabyx'.lstrip('xy') }}|{{ '\n\nab\n'.rstrip('\n') }}|{{ ' \n ab'.lstrip('\n') }}
{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ 'abc'.split('</think>')[-1] }}
{{ 'a\nb\r\nc'.splitlines() }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'aXbX'.replace('X', '-', 1) }}
{{ 'hello wORLD'.title() }}{{ 'hELLO wORLD'.capitalize() }}{{ 'hELLO'|capitalize }}{{ 'a-b (c) it\'s'|title }}{{ "it's".title() }}
{{ none }}{{ true }}{{ false }}{{ [1, 'a', none, true, 1.0] }}{{ {'a': 1, 'b': "x'y"} }}{{ (1, 2) }}{{ 1.5 }}{{ 2.0 }}{{ 'é\n' }}{{ ['é\n\\'] }}
{{ '' != false }}{{ '' == false }}{{ 0 == false }}{{ 1 == true }}{{ '1' == 1 }}{{ none == false }}{{ [] == [] }}{{ [1] == [1] }}{{ x == y }}{{ 1 == 1.0 }}{{ none != '' }}
{% if '' %}a{% elif 0 %}b{% elif none %}c{% elif [] %}d{% elif x %}e{% else %}f{% endif %}
{% for i in range(6) %}{{ i }}{% if i == 1 %}!{% continue %}{% endif %}{% if i == 3 %}?{% break %}{% endif %}.{% endfor %}
{% for i in [1, 2] %}{{ x is defined }}{% set x = i %}{{ x }}{% endfor %}{{ x is defined }}
{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=0, y='a') %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}
{% if true %}{% set x = 3 %}{% endif %}{{ x }}
{% raw %}{{ a }} {% b %}{% endraw %}c
{% with a = 1, b = 'x' %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{{ [3, 1, 2]|max }}{{ [3, 1, 2]|min }}{{ [1, 2]|sum }}{{ ['b', 'A']|max }}{{ []|max is defined }}
{{ [1, 2, 3].count(2) }}{{ 'banana'.count('an') }}{{ [1,2]|count }}{{ 'abc'|count }}{{ 'a😀b'|length }}{{ 'a😀b'[1] }}{{ 'a😀b'[::-1] }}
{{ [1, 2, 3, 4][1:] }}{{ [1, 2, 3, 4][::-1] }}{{ [1, 2, 3, 4][:-1] }}{{ 'abcd'[1:3] }}{{ 'abcd'[-2:] }}{{ [1, 2, 3, 4][-1:0:-2] }}{{ [1,2][5:] }}
{{ 7 // 2 }}{{ -7 // 2 }}{{ 7 % 3 }}{{ -7 % 3 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ 1 + 2.0 }}{{ 4 / 2 }}{{ 'ab' * 2 }}{{ [1] + [2] }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }}{{ 1 ~ 2 }}{{ x ~ 'b' }}
{{ 5 is divisibleby(5) }}{{ 5 is divisibleby 2 }}{{ 'a' is equalto 'a' }}{{ 'a' is not equalto('b') }}{{ 1 is in [1, 2] }}{{ none is sameas none }}{{ 3 is eq(3) }}{{ 3 is odd }}
{{ 'x' is string }}{{ [] is iterable }}{{ {} is mapping }}{{ {} is sequence }}{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ none is none }}{{ x is undefined }}{{ x is defined }}{{ true is boolean }}{{ 'A' is upper }}
{{ {'b': 1, 'a': [1, 'é', none, true, 1.5]}|tojson }}{{ {'b': 1, 'a': [1, {}]}|tojson(indent=2) }}{{ '<&\'"\n'|tojson }}{{ [1, 2]|tojson(separators=(',', ':')) }}
{{ {'b': 1, 'a': 2}|dictsort }}{{ {'b': 1}|items|list }}{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}
{{ ['b', 'a', 'C']|sort }}{{ ['b', 'a', 'C']|sort(case_sensitive=true, reverse=true) }}{{ [3, 1]|sort|first }}{{ [1, 1, 2]|unique|list }}{{ ['a', 'b']|reverse|list }}{{ 'abc'|reverse }}
{{ [{'r': 'a', 'n': 1}, {'r': 'b'}]|selectattr('r', 'equalto', 'a')|list }}{{ [{'r': 'a', 'n': 1}, {'r': 'b'}]|rejectattr('n', 'defined')|map(attribute='r')|list }}{{ ['a']|map('upper')|list }}{{ [1, 2, 3]|select('odd')|list }}{{ [{'r': 'a'}]|map(attribute='r')|join(', ') }}
{{ 'a\nb\n\nc'|indent }}{{ 'a\nb'|indent(2, true) }}{{ 'a\nb\n'|indent(width=1) }}
{{ ''|default('d') }}{{ x|default('d') }}{{ ''|default('d', true) }}{{ none|default('d') }}{{ x|d }}
{{ '42'|int + 1 }}{{ 'x'|int }}{{ 3.9|int }}{{ '3.5'|float }}{{ 'x'|int(7) }}{{ 2.5|round }}{{ 3.14159|round(2) }}{{ -3|abs }}{{ 3|string ~ '!' }}{{ '12.7'|int }}
{{ ' a '|trim }}|{{ 'xax'|trim('x') }}|{{ 'a b'|upper }}|{{ 'Ab'|lower }}|{{ 'aba'|replace('a', 'c') }}|{{ 'abc'|list }}|{{ 'abc'|first }}|{{ [1, 2]|last }}|{{ ['a', 1]|join('-') }}|{{ 'abc'|join('-') }}
{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}
{% macro f(a) %}<{{ caller(a) }}>{% endmacro %}{% call(z) f(1) %}{{ z + 1 }}{% endcall %}
{% set x %}a{{ 1 }}
b{% endset %}{{ x|upper }}{% filter upper %}abc{{ 'd' }}{% endfilter %}
{% for i in [] %}a{% else %}none{% endfor %}{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ loop.last }}{{ i }}{% endfor %}{% for a in ['x', 'y'] %}{{ loop.cycle('1', '2') }}{{ loop.previtem is defined }}{{ loop.revindex }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }} {% endfor %}{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}
  {% if true %}
a
  {%- endif %}
  {# comment #}
b {{ 'c' -}}
   d
{{ ('a' == 'a') != (1 == 2) }}{{ not 1 == 2 }}{{ 'a' in 'abc' and not 'z' in 'abc' }}{{ 'a' not in ['b'] }}{{ 1 if false }}{{ 1 if false else 2 if true else 3 }}{{ 'a' in {'a': 1} }}{{ 'x' in y }}
{{ {'a': {'b': [1, 2]}}.a.b[1] }}{{ {'a': 1}['a'] }}{{ {'a': 1}.get('z', 5) }}{{ {'items': 1}['items'] }}{{ {'a': 1}.z is defined }}{{ 'abc'.zz is defined }}
{{ 'a' 'b' }}{{ "q\"q" }}{{ 'é\u00e9\x41' }}{{ 'a\\b' }}{{ '%s' == '%s' }}
{{ '\ufeffa '.strip()|length }}{{ '\x1fa'.strip()|length }}{{ '\x85a'|trim|length }}
{{ 'abc'.find('c') }}{{ 'abc'.find('z') }}{{ 'a.b.c'.partition('.') }}{{ 'a.b.c'.rpartition('.') }}{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}{{ '-'.join(['a', 'b']) }}{{ '{}-{}'.format('a', 1) }}{{ '7'.zfill(3) }}{{ 'ab1'.isalnum() }}{{ '½'.isdigit() }}{{ '12'.isdigit() }}
{{ none|default(none) }}{{ x|default(none) }}{{ [none]|first }}{{ [1, none].count(none) }}{{ [3, 4].index(4) }}{{ {'a': none}.get('a', 1) }}{{ range(3)|list }}{{ range(1, 6, 2)|list }}{{ dict(a=1).a }}{{ namespace(a=2).a }}
{{ [1, 2] < [1, 3] }}{{ 'a' < 'b' }}{{ 1 <= 1.0 }}{{ true > false }}{{ 'B' < 'a' }}
{{ [none, 1] }}{{ [[]] }}{{ {} }}{{ [1.0, 0.00001] }}{{ ["a\"b'"] }}
{{ '1' + '2' }}{{ - 3 + 5 }}{{ -3|abs }}{{ 10 - 3 - 2 }}{{ 2 * 3 + 4 }}{{ 2 + 3 * 4 }}{{ (2 + 3) * 4 }}
{% generation %}a{% endgeneration %}b
{%- set a, b = 1, 2 -%}{{ a }}{{ b }}{%- set c = 'x' if a == 1 else 'y' -%}{{ c }}
{{ range(3) }}{{ [range(1, 3), range(5, 1, -2)] }}{{ range(0)|list }}
{{ {'a': none}.a is none }}{{ {'a': none}|tojson }}{{ none is defined }}{{ true and 'x' }}{{ '' or 'y' }}{{ not '' }}
{{ [1, 'é']|tojson(true) }}{{ {'a': 1}|tojson(false, 1) }}{{ [1, 'é']|tojson(2) }}
{% if [1]|select('odd') %}a{% endif %}{% if []|select('odd') %}b{% endif %}{{ (['a']|map('upper'))[0] is defined }}{% set g = [1, 2]|select %}{{ g|list }}{{ g|list }}{% set h = [1, 2]|reject('none') %}{{ h|first }}{{ h|list }}
{{ {'a': 1}.keys()[0] is defined }}{{ {'a': 1}.items()|list }}{{ {'a': 1}.keys()|length }}{% if {}.keys() %}a{% else %}b{% endif %}{{ ['a', 'b']|reverse is sequence }}{{ {'a': 1}.values() is iterable }}{{ {'a': 1}.values() is sequence }}
{{ range(3) == [0, 1, 2] }}{{ range(3) == range(0, 3) }}{{ range(5)[1:3] == [1, 2] }}{{ [1] == (1, 2)[:1] }}
{{ {'a': 1}|attr('a') is defined }}{{ 'ab'|attr('upper') is defined }}
{{ 5|round }}{{ 2.675|round(2) }}{{ 0.125|round(2) }}{{ 3.5|round }}{{ 5|round(0, 'ceil') }}{{ -2.5|round }}
{{ 'a\nb\r\n'.splitlines(true) }}{{ '<a>'|safe }}{{ [1, 2] * 2 }}
{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% endwith %}{% with a = 'x, y', b = [1, 2] %}{{ a }}{{ b }}{% endwith %}{% with a = 7 % 4 %}{{ a }}{% endwith %}
'''

# White space around tags, and what looks like a tag within strings and texts.
SPACES = [
    'a\n  {%+ if true %}\nb\n  {% endif +%}\nc',
    '\n{% raw -%}\n  {{ x }}\n{%- endraw %}\n  b',
    '  {% raw %}\n a {% endraw %}\n b',
    '\u00a0{% if true %}x{% endif %}',
    '{- a -}\n{# b #}\n c #}\n',
    "{{ 'a %} }} b' }}{% set x = '%}' %}{{ x }}\n\n",
    "{{ {'a': {'b': 1}}}}",
    'a {#- c -#} b\n{#+ d #}\ne',
    '{% if true -%}\n\n x{%- endif %}\n\n',
    "{% set x = '\n  {# a #}\nb' %}{{ x }}",
]

# What must be refused: by Jinja too, or because Midspan does not do as Jinja does.
ERRORS = r'''
{{ x.y }}
{{ none + 1 }}
{{ 'a' + 1 }}
{{ [].append(1) }}
{{ raise_exception('no') }}
{{ range(10 ** 9) }}
{{ 1 < 2 < 3 }}
{{ 'a' | nosuchfilter }}
{{ 'a' is nosuchtest }}
{{ f() }}
{{ 'a'.nosuch() }}
{% include 'x' %}
{{ 1 // 0 }}
{% set x.y = 1 %}
{{ [1] - [1] }}
{{ 'a' < 1 }}
{{ [1e3] }}
{{ [1] is in }}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{{ x|int }}
{{ x|float }}
{{ '-'.join([1]) }}
{{ 'a'.find('a', 1) }}
{{ 'a'.upper(1) }}
{{ ('<'|safe) ~ '<' }}
{{ {'a': 1}.keys() }}
{{ [1]|map('string') }}
{{ [1]|select|length }}
{{ [1]|select|tojson }}
{{ range(2)|tojson }}
{{ (1, 2).copy() }}
{{ 'a'.partition('') }}
{{ 'a
{# a
'''


def main():
    cases = []
    # A line that begins with white space or follows a block tag goes on with the template before it.
    templates, joined = [], ['{% set x %}a{{ 1 }}', '  {% if true %}']
    lines = TEMPLATES.strip('\n').split('\n')
    i = 0
    while i < len(lines):
        count = 2 if lines[i] == joined[0] else 7 if lines[i] == joined[1] else 1
        templates.append('\n'.join(lines[i:i + count]))
        i += count
    for template in [*templates, *SPACES]:
        cases.append({'template': template, 'text': _compile_jinja_template(template).render()})
    Path(__file__).with_name('jinja.json').write_text(
        json.dumps({'cases': cases, 'refused': ERRORS.strip('\n').split('\n')}, indent=1) + '\n')


if __name__ == '__main__':
    main()
