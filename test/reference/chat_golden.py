"""Writes chat.json: what transformers' chat templating makes of conversations with templates that use what published templates use."""
import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = {
    'roles by if, trimmed contents': """{{ bos_token }}{% for m in messages %}
    {% if m['role'] == 'user' %}
        {{- '[U] ' + m['content'] | trim + ' [/U]' }}
    {% elif m['role'] == 'assistant' %}
        {{- ' ' + m['content'].strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}""",
    'namespace, system first, slices': """{%- set ns = namespace(system='', count=0) -%}
{%- if messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for m in loop_messages -%}
{%- set ns.count = ns.count + 1 -%}
<|{{ m.role }}|>{{ '\\n' }}{% if loop.first and ns.system %}<<SYS>>{{ ns.system }}<</SYS>>{% endif %}{{ m.content }}<|end|>{{ ns.count }}
{% endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{% endif -%}""",
    'tools and documents absent': """{%- if tools is not none %}TOOLS {{ tools | tojson }}{% endif -%}
{%- if not documents is defined %}{% set documents = none %}{% endif -%}
{%- if documents %}DOCS{% endif -%}
{%- set date = date_string if date_string is defined else '26 Jul 2024' -%}
{{- 'Today: ' ~ date ~ '\\n' -}}
{%- for m in messages %}{{ m | tojson }}{{ '' if loop.last else ';' }}{% endfor %}""",
    'macro, generation block, tests': """{%- macro turn(role, content) -%}<{{ role | upper }}>{{ content }}</{{ role | upper }}>{%- endmacro -%}
{%- for m in messages -%}
{%- if m.content is string and m.role in ['user', 'system'] %}{{ turn(m.role, m.content | replace('a', 'A')) }}
{%- else %}{% generation %}{{ turn(m.role, m.content) }}{% endgeneration %}{% endif -%}
{%- endfor -%}
{{- messages | map(attribute='role') | join(',') }} {{ (messages | length) // 2 }} {{ (messages | selectattr('role', 'equalto', 'user') | list)[-1].content.split(' ')[0] }}""",
}
CONVERSATIONS = [
    [('user', 'Hello  there ')],
    [('system', 'Be brief.'), ('user', 'A bridge\nof stone?'), ('assistant', ' Yes: "stone" & <wood>. ')],
    [('user', '桥在哪里？'), ('assistant', 'là-bas'), ('user', "it's a \\ test\t\U0001f600")],
]


def main():
    cases = []
    for name, template in TEMPLATES.items():
        for turns in CONVERSATIONS:
            messages = [{'role': role, 'content': content} for role, content in turns]
            for prompt in [False, True]:
                rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, bos_token='<s>', eos_token='</s>')
                cases.append({'template': name, 'messages': messages, 'addGenerationPrompt': prompt, 'text': rendered[0]})
    Path(__file__).with_name('chat.json').write_text(json.dumps({'templates': TEMPLATES, 'cases': cases}, indent=1) + '\n')


if __name__ == '__main__':
    main()
