"""The response mask, against cases made by hand; and the rule that masked tokens are the responses and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data.encode import Tokenised
from s2l_ray.data.render import Renderer, resolve_style, training_text
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.units import UnusableRow
from s2l_ray.errors import UserError
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.load import train_tokenizer

EOS = "<|endoftext|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REWRITING = (  # keeps the thoughts of the last turn only, as reasoning models' templates do
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if loop.last else m['content'][:3] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHATML


def new_tokenizer(template: str | None = None, special: tuple[str, ...] = ()) -> Any:
    texts = ["### User:\nWhat is 2 + 2?\n\n### Assistant:\n4", "Below is an instruction", "the answer is 4"] * 3
    tokenizer = train_tokenizer(iter(texts), 330)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return new_tokenizer()


@pytest.fixture(scope="module")
def chatml() -> Any:
    return new_tokenizer(CHATML, ("<|im_start|>", "<|im_end|>"))


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": r, "content": c} for r, c in turns]


def pair(prompt: str, response: str) -> list[dict[str, str]]:
    return chat(("user", prompt), ("assistant", response))


def one(tokenizer: Any, style: Any, messages: list[dict[str, str]], max_length: int = 1000) -> Tokenised:
    [sequences] = Renderer(tokenizer, style, max_length)([messages])
    assert isinstance(sequences, list), sequences
    [result] = sequences
    assert len(result.input_ids) == len(result.response_mask) <= max_length
    return result


def runs(tokenizer: Any, result: Tokenised) -> list[tuple[bool, str]]:
    """(is response, decoded text) of every stretch of equal mask, in order."""
    out: list[tuple[bool, list[int]]] = []
    for token, is_response in zip(result.input_ids, result.response_mask, strict=True):
        if not out or out[-1][0] != is_response:
            out.append((is_response, []))
        out[-1][1].append(token)
    return [(is_response, tokenizer.decode(ids)) for is_response, ids in out]


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- single turn ----------------------------------------------------------------------------------------------------


def test_single_turn_token_for_token(tokenizer):
    result = one(tokenizer, "verbatim", pair("What is 2 + 2?", " 4"))
    prompt, response = encode(tokenizer, "What is 2 + 2?"), encode(tokenizer, " 4")
    assert result.input_ids == [*prompt, *response, tokenizer.eos_token_id]
    assert result.response_mask == [False] * len(prompt) + [True] * (len(response) + 1)


def test_no_token_straddles_the_border(tokenizer):
    # "the answer" is one piece of the tokenizer's; cut in two it must not be joined again.
    result = one(tokenizer, "verbatim", pair("the ans", "wer is 4"))
    assert runs(tokenizer, result) == [(False, "the ans"), (True, "wer is 4" + EOS)]


@pytest.mark.parametrize(
    ("style", "prompt"),
    [
        ("verbatim", "Add {x} 2."),
        ("plain", "Add {x} 2.\n"),
        ("turns", "### User:\nAdd {x} 2.\n\n### Assistant:\n"),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nAdd {x} 2.\n\n### Response:",
        ),
    ],
)
def test_what_the_prompt_looks_like(tokenizer, style, prompt):
    result = one(tokenizer, style, pair("Add {x} 2.", "4"))
    assert runs(tokenizer, result) == [(False, prompt), (True, "4" + EOS)]


# --- truncation -----------------------------------------------------------------------------------------------------


def test_truncation_within_the_response(tokenizer):
    whole = one(tokenizer, "verbatim", pair("What is 2 + 2?", "the answer is 4, surely"))
    for length in range(8, len(whole.input_ids) + 1):
        [cut] = Renderer(tokenizer, "verbatim", length)([pair("What is 2 + 2?", "the answer is 4, surely")])
        if not any(whole.response_mask[:length]):
            assert isinstance(cut, UnusableRow)
            continue
        assert cut == [Tokenised(whole.input_ids[:length], whole.response_mask[:length])]
    assert whole.input_ids[-1] == tokenizer.eos_token_id


def test_no_response_token_left(tokenizer):
    num_prompt = len(encode(tokenizer, "What is 2 + 2?"))
    render = Renderer(tokenizer, "verbatim", num_prompt)
    good, bad = render([pair("2", "4"), pair("What is 2 + 2?", "4")])
    assert isinstance(good, list)
    assert str(bad).startswith(
        f"no response token left within max_length={num_prompt} tokens, because the prompt fills them"
    )
    assert render.num_cut == 0
    assert one(tokenizer, "verbatim", pair("What is 2 + 2?", "4"), num_prompt + 1).response_mask.count(True) == 1


def test_a_response_at_position_0_has_no_loss_there(tokenizer):
    result = one(tokenizer, "verbatim", pair("", "4"))
    four = encode(tokenizer, "4")
    assert result.input_ids == [*four, tokenizer.eos_token_id]
    tokens = np.array(result.input_ids, np.int32)
    examples = Examples(
        np.zeros((1, 2), np.uint64), tokens, np.array(result.response_mask), np.array([0, len(tokens)], np.int64)
    )
    batch = Batching(True, pad_id=0).batch(examples, np.array([0]))
    assert batch.targets.tolist() == result.input_ids[1:]  # EOS is predicted from the 4; nothing predicts the 4
    assert batch.positions.tolist() == list(range(len(tokens) - 1))
    [cut] = Renderer(tokenizer, "verbatim", 1)([pair("", "4")])
    assert isinstance(cut, UnusableRow)


# --- chats ----------------------------------------------------------------------------------------------------------


def test_every_assistant_turn_is_response(tokenizer):
    messages = chat(
        ("system", "S"), ("user", "a"), ("assistant", "b"), ("tool", "t"), ("assistant", "c"), ("user", "d")
    )
    assert runs(tokenizer, one(tokenizer, "turns", messages)) == [
        (False, "### System:\nS\n\n### User:\na\n\n### Assistant:\n"),
        (True, "b" + EOS),
        (False, "### Tool:\nt\n\n### Assistant:\n"),
        (True, "c" + EOS),
        (False, "### User:\nd\n\n"),
    ]


def test_chat_template_covers_content_and_end_of_turn_but_not_the_line_break(chatml):
    messages = chat(("system", "S"), ("user", "a"), ("assistant", "b\nb"), ("user", "c"), ("assistant", "d"))
    result = one(chatml, "chat_template", messages)
    assert runs(chatml, result) == [
        (False, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
        (True, "b\nb<|im_end|>"),
        (False, "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"),
        (True, "d<|im_end|>"),
        (False, "\n"),
    ]
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    assert [t for t, m in zip(result.input_ids, result.response_mask, strict=True) if m].count(end) == 2
    assert EOS not in chatml.decode(result.input_ids)  # the template has its own end


def test_an_end_of_turn_that_is_special_but_not_named_so():
    from tokenizers import AddedToken

    tokenizer = new_tokenizer(CHATML)
    tokenizer.add_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    assert runs(tokenizer, one(tokenizer, "chat_template", pair("a", "b")))[1:] == [
        (True, "b<|im_end|>"),
        (False, "\n"),
    ]


def test_a_template_that_rewrites_the_question_is_refused_before_any_row():
    rewriting = new_tokenizer(REWRITING, ("<|im_end|>",))
    with pytest.raises(UserError, match="writes the turns before turn 2 differently once it is answered"):
        Renderer(rewriting, "chat_template", 100)


def test_what_a_template_refuses_is_quarantined_and_the_rest_goes_on():
    tokenizer = new_tokenizer(REFUSING, ("<|im_start|>", "<|im_end|>"))
    rows = [chat(("system", "s"), ("user", "u"), ("assistant", "a")), chat(("assistant", "a")), pair("u", "a")]
    refused, headless, good = Renderer(tokenizer, "chat_template", 100)(rows)
    assert str(refused) == "the chat template refuses it: no system turns"
    assert str(headless).startswith("the chat begins with the assistant's turn")
    assert runs(tokenizer, good[0])[1] == (True, "a<|im_end|>")  # type: ignore[index]


# --- tokenizers -----------------------------------------------------------------------------------------------------


def test_what_the_tokenizer_puts_before_and_after(tokenizer):
    from tokenizers.processors import TemplateProcessing

    with_bos = new_tokenizer(CHATML, ("<s>", "<|im_start|>", "<|im_end|>"))
    bos = with_bos.convert_tokens_to_ids("<s>")
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<s> $A {EOS}", special_tokens=[("<s>", bos), (EOS, with_bos.eos_token_id)]
    )
    assert with_bos("a")["input_ids"] == [bos, *encode(with_bos, "a"), with_bos.eos_token_id]
    result = one(with_bos, "turns", chat(("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")))
    assert result.input_ids.count(bos) == 1
    assert runs(with_bos, result)[0] == (False, "<s>### User:\nu\n\n### Assistant:\n")
    assert runs(with_bos, result)[-1] == (True, "b" + EOS)
    assert one(with_bos, "verbatim", pair("", "4")).response_mask == [False, True, True]  # with BOS, the 4 has a loss
    assert bos not in one(with_bos, "chat_template", pair("u", "a")).input_ids  # a template writes its own


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    bare = new_tokenizer()
    bare.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Renderer(bare, "verbatim", 10)


@pytest.mark.parametrize(
    ("render", "format", "style"),
    [
        ("auto", "instruction", "alpaca"),
        ("auto", "prompt_completion", "verbatim"),
        ("auto", "template", "verbatim"),
        ("auto", "messages", "turns"),
        ("auto", "sharegpt", "turns"),
        ("plain", "instruction", "plain"),
        ("plain", "template", "verbatim"),
        ("plain", "messages", "turns"),
        ("alpaca", "instruction", "alpaca"),
        ("alpaca", "prompt_completion", "alpaca"),
        ("chat_template", "instruction", "chat_template"),
        ("chat_template", "messages", "chat_template"),
    ],
)
def test_styles(chatml, render, format, style):
    assert resolve_style(render, format, chatml) == style


def test_styles_that_cannot_be(tokenizer):
    with pytest.raises(ValueError, match="no chat template"):
        resolve_style("chat_template", "messages", tokenizer)
    with pytest.raises(ValueError, match="no chat template"):
        resolve_style("chat_template", "messages", None)
    with pytest.raises(ValueError, match="alpaca supports one instruction"):
        resolve_style("alpaca", "sharegpt", tokenizer)


# --- properties -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.sampled_from("aé漢😀 \n\t#{}:42thensri"), max_size=15)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), TEXT), max_size=6)


@pytest.mark.thorough
@settings(max_examples=80, deadline=None)
@given(TURNS, TEXT, TEXT.filter(str.strip), st.sampled_from(["turns", "chat_template"]))
def test_masked_tokens_are_the_responses_and_their_ends(chatml, turns, question, answer, style):
    messages = chat(("user", question), *turns, ("assistant", answer))
    result = one(chatml, style, messages)
    masked = [t for t, m in zip(result.input_ids, result.response_mask, strict=True) if m]
    end = EOS if style == "turns" else "<|im_end|>"
    assert chatml.decode(masked) == "".join(c + end for r, c in turns if r == "assistant" and c.strip()) + answer + end
    whole = chatml.apply_chat_template(messages, tokenize=False) if style == "chat_template" else None
    assert whole is None or chatml.decode(result.input_ids) == whole


@pytest.mark.thorough
@settings(max_examples=80, deadline=None)
@given(TEXT, TEXT.filter(str.strip), st.sampled_from(["verbatim", "plain", "alpaca"]), st.integers(1, 60))
def test_single_turns_and_any_cut(tokenizer, prompt, response, style, max_length):
    whole = one(tokenizer, style, pair(prompt, response))
    masked = [t for t, m in zip(whole.input_ids, whole.response_mask, strict=True) if m]
    assert tokenizer.decode(masked) == response + EOS
    first = whole.response_mask.index(True)
    assert all(whole.response_mask[first:])
    [cut] = Renderer(tokenizer, style, max_length)([pair(prompt, response)])
    if isinstance(cut, list):
        assert cut == [Tokenised(whole.input_ids[:max_length], whole.response_mask[:max_length])]
    else:
        assert not any(whole.response_mask[1:max_length])


def test_a_batch_is_its_rows(tokenizer):
    rows = [pair("a", "b"), pair("", "c" * 50), pair("what", "4"), chat(("user", "x"), ("assistant", "y"))]
    render = Renderer(tokenizer, "turns", 40)
    assert [str(r) for r in render(rows)] == [str(render([row])[0]) for row in rows]
    assert render([]) == []
    assert training_text(rows[0], "plain") == "a\nb"
