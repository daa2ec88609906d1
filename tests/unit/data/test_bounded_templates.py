"""Templates that take indefinitely, explode or raise: the row is unusable, the worker goes on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from s2l_ray.data import bounded_templates as bounded
from s2l_ray.data.bounded_templates import BeyondBounds, BoundedEnvironment, within_bounds
from s2l_ray.data.render import Renderer
from s2l_ray.data.units import UnusableRow
from s2l_ray.errors import UserError

CHAT = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def render(template: str) -> str:
    made = BoundedEnvironment(trim_blocks=True).from_string(template)
    return within_bounds(lambda: made.render(messages=CHAT))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**8 }}",
        "{{ 10**8 * 'a' }}",
        "{{ 10**(10**10) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.zfill(-(-10**9)) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10**9) }}",
        "{{ messages|tojson(indent=10**9) }}",
        "{{ range(10**9)|list }}",
        "{{ [[1] * 1000000] * 1000000 }}",
        "{{ ([['x'] * 1000] * 2000)|string }}",
        "{% set x = 'a' * 1000000 %}{{ x.replace('', x) }}",
        "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}",
        "{% set x = 'a' * 10000000 %}{{ ([x] * 1000)|join }}",
        "{% set x = 'a' * 10000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    ],
)
def test_nothing_large_is_made_at_one_stroke(template):
    started = time.monotonic()
    with pytest.raises((BeyondBounds, OverflowError)):
        render(template)
    assert time.monotonic() - started < bounded.MAX_S, "refused before it was made, not when it had taken too long"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "template", [LOOPS, "{% set x %}" + LOOPS + "{% endset %}", "{% macro f() %}" + LOOPS + "{% endmacro %}{{ f() }}"]
)
def test_what_takes_for_ever_is_interrupted_and_the_next_is_rendered(monkeypatch, template):
    monkeypatch.setattr(bounded, "MAX_S", 0.5)
    with pytest.raises(BeyondBounds, match="takes longer"):
        render(template)
    for _ in range(3):
        assert render("{{ messages[0].content }}") == "What is 2 + 2?"
        time.sleep(0.15)


def test_usual_templates_render_as_they_do_elsewhere():
    said = render(
        "{{ 'a' * 5 ~ 3 ~ none }}|{{ 7 % 3 }}|{{ [1, 2]|join(', ') }}|{{ 'x'|upper|replace('X', 'y') }}|{{ [1] }}"
    )
    assert said == "aaaaa3None|1|1, 2|y|[1]"
    text = "{% for m in messages %}<{{ m.role|trim }}>{{ m['content'].strip() + '\n' }}{% endfor %}"
    assert render(text) == "<user>What is 2 + 2?\n<assistant>4\n"


def tokenizer_with(template: str) -> Any:
    words = {"<unk>": 0, "</s>": 1, "a": 2}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="<unk>")
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ messages[0]['x']['y'] }}", "has no attribute"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages[99].content }}", "no element 99"),
        ("{% if %}", "Expected an expression"),
        ("{{ 'a' * 10**8 }}", "the chat template"),
        pytest.param(LOOPS, "takes longer", marks=pytest.mark.thorough),
    ],
)
def test_a_row_on_which_the_template_fails_is_unusable_with_the_reason(monkeypatch, template, why):
    monkeypatch.setattr(bounded, "MAX_S", 0.5)
    with pytest.raises(UserError) as refused:  # before any row, since it fails on every chat
        Renderer(tokenizer_with(template), "chat_template", 64)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 1000
    # And on one kind of chat alone.
    several = "{% if messages | length > 2 %}" + template + "{% endif %}" if why != "Expected an expression" else ""
    if several:
        fine = "{% for m in messages %}{{ m.role }} {{ m.content }}</s>{% endfor %}assistant "
        renderer = Renderer(tokenizer_with(several + fine), "chat_template", 64)
        [row] = renderer([[*CHAT, *CHAT]])
        assert isinstance(row, UnusableRow)
        assert why in str(row), row
        assert len(str(row)) < 1000


def test_errors_of_templates_stay_what_they_are():
    with pytest.raises(TemplateError):
        render("{{ nothing.x }}")
    assert json.loads(render("{{ messages|tojson }}")) == CHAT
