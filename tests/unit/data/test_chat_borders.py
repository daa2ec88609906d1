"""Where a response begins and ends: in templates that write a turn otherwise when others follow, or end it twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.families import FAMILIES, family_tokenizer
from tests.unit.data.test_chat_templates import TOOLS, check_prompts, conversation, render, responses

E = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: family_tokenizer(name) for name in FAMILIES if name in NEEDED}


NEEDED = ("chatml", "deepseek-r1", "gemma4", "mistral-v3", "r1-distill")


def test_a_call_ends_where_the_model_stops(tokenizers):
    """Not with what the template writes after the first EOS."""
    messages, _ = conversation("tools")
    result = render(tokenizers["r1-distill"], messages)
    call = '<｜tool▁call▁begin｜>weather\n{"city": "Oslo"}<｜tool▁call▁end｜><｜end▁of▁sentence｜>'
    assert [responses(tokenizers["r1-distill"], s) for s in result] == [[call, "-3 C.<｜end▁of▁sentence｜>"]]


@pytest.mark.parametrize("answer", ["<think>\nhm\n</think>\n\nfour", "<b>", "<", "|turn>"])
def test_an_answer_that_begins_like_a_token_of_the_generation_prompt(tokenizers, answer):
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
    result = render(tokenizers["gemma4"], messages)
    assert [responses(tokenizers["gemma4"], s) for s in result] == [[answer + "<turn|>"]]


def test_each_answer_follows_the_prompt_that_the_model_is_asked_with(tokenizers):
    """Mistral's system prompt stands before the last question alone; answers and questions may repeat one another."""
    tokenizer = tokenizers["mistral-v3"]
    turns = [("system", "Be brief."), ("user", "A?"), ("assistant", "A?"), ("user", "A?"), ("assistant", "[/INST] A?")]
    messages = [{"role": r, "content": c} for r, c in turns]
    result = render(tokenizer, messages)
    texts = [tokenizer.decode(s.input_ids) for s in result]
    assert texts == [
        "<s>[INST] Be brief.\n\nA?[/INST] A?</s>",
        "<s>[INST] A?[/INST] A?</s>[INST] Be brief.\n\nA?[/INST] [/INST] A?</s>",
    ]
    assert [responses(tokenizer, s) for s in result] == [[" A?</s>"], [" [/INST] A?</s>"]]
    assert result[1].input_ids.count(tokenizer.convert_tokens_to_ids("[/INST]")) == 2
    check_prompts(tokenizer, result, messages, None)


def test_where_the_end_of_the_prompt_is_lost_too_the_response_cannot_be_told():
    """As where a template takes the last question for the system prompt, once it has none."""
    tokenizer = family_tokenizer("mistral-v3")
    tokenizer.chat_template = (
        "{% if messages | length == 1 %}<s>[INST] {{ messages[0].content }}[/INST]{% else %}<s>[INST] none[/INST]"
        "{% for m in messages %}{{ m.content }}{{ '</s>' if m.role == 'assistant' }}{% endfor %}{% endif %}"
    )
    refusal = render(tokenizer, conversation("single")[0])
    assert "writes the turns before turn 2 differently once it is answered" in str(refusal)


def test_a_response_that_is_a_token_of_the_tokenizers(tokenizers):
    """A label, for example, that was added to the vocabulary; only the template's own markers are no text."""
    tokenizer = family_tokenizer("chatml")
    tokenizer.add_tokens(["positive", "<LABEL_1>"])
    for label in ("positive", "<LABEL_1>"):
        messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": label}]
        [sequence] = render(tokenizer, messages)
        assert responses(tokenizer, sequence) == [label + E]
        assert tokenizer.convert_tokens_to_ids(label) in sequence.input_ids


def test_thoughts_and_tools_that_are_lost_come_with_their_cure(tokenizers):
    thoughts, _ = conversation("thoughts")
    assert "corpus.ignore_columns=[reasoning_content,thinking,reasoning]" in str(render(tokenizers["chatml"], thoughts))
    single = conversation("single")[0]
    assert "corpus.ignore_columns=[tools]" in str(render(tokenizers["chatml"], single, TOOLS))
    inline = [single[0], {"role": "assistant", "content": "<think>hm</think>four"}]
    assert "leaves out the reasoning in the text of turn 2" in str(render(tokenizers["deepseek-r1"], inline))
