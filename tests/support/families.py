"""Chat templates of current model families, each in its shortest form with that family's behaviour; a small tokenizer
that knows its control tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from s2l_ray.lm.load import train_tokenizer

_GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _GENERATION
_QWEN_TOOLS = (
    "{% if tools %}<|im_start|>system\n<tools>{% for t in tools %}\n{{ t | tojson }}{% endfor %}</tools><|im_end|>\n"
    "{% endif %}"
)
_CALLS = (
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
)
_LAST_USER = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    template: str
    special: tuple[str, ...]
    eos: str
    added: tuple[str, ...] = ()
    """Added tokens that are not special."""


FAMILIES: dict[str, Family] = {
    "chatml": Family(_CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    # A default system turn; tool calls; tool results as a user's turn.
    "qwen2.5": Family(
        "{% if messages[0].role != 'system' and not tools %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
        + _QWEN_TOOLS + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
        "{{ m.content }}\n</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
        "{{ m.content or '' }}" + _CALLS
        + "<|im_end|>\n{% endif %}{% endfor %}" + _GENERATION,
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<tool_call>", "</tool_call>"),
    ),
    # Thoughts after the last question only, and an empty block of them in the last turn.
    "qwen3": Family(
        _LAST_USER + _QWEN_TOOLS
        + "{% for m in messages %}{% if m.role == 'assistant' %}{% set r = m.reasoning_content or '' %}"
        "{% set c = m.content or '' %}{% if '</think>' in c %}"
        "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|im_start|>assistant\n"
        "{% if loop.index0 > ns.last and (loop.last or r) %}<think>\n{{ r.strip('\\n') }}\n</think>\n\n{% endif %}"
        "{{ c }}"
        + _CALLS + "<|im_end|>\n{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
        "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}" + _GENERATION,
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    # The date of the day, and trimmed contents.
    "llama3.2": Family(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
        "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>",
    ),
    # The system's text within the user's turn; a space around every content.
    "llama2": Family(
        "{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}<s>[INST] "
        "{{ (s if loop.first else '') + m.content }} [/INST]{% else %} {{ m.content }} </s>{% endif %}{% endfor %}",
        ("<s>", "</s>"), "</s>",
    ),
    # The system's text before the *last* user's turn, and roles that must alternate.
    "mistral-v3": Family(
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}<s>"
        "{% for m in messages if m.role != 'system' %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ s + '\n\n' if s and loop.last else '' }}{{ m.content }}[/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"), "</s>",
    ),
    # No system turn, and the assistant is called model.
    "gemma2": Family(
        "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>",
    ),
    # An epilogue at the very end.
    "phi3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), "<|endoftext|>",
    ),
    # Another end for the last turn; thoughts in a channel of their own, in the last turn only; control tokens within.
    "gpt-oss": Family(
        "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.tool_calls %}<|start|>assistant to=functions."
        "{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>"
        "{{ m.tool_calls[0].function.arguments | tojson }}<|call|>{% elif loop.last and not add_generation_prompt %}"
        "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% else %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% elif m.role == 'tool' %}"
        "<|start|>functions to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>{% else %}"
        "<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
        "{% if tools and loop.first %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"), "<|return|>",
    ),
    # A generation prompt that a finished turn does not contain, and thoughts that are always dropped.
    "deepseek-r1": Family(
        "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"), "<｜end▁of▁sentence｜>",
        ("<think>", "</think>"),
    ),
    # The generation prompt opens thoughts; a finished turn without any closes them at once.
    "nemotron3": Family(
        _LAST_USER + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% if m.reasoning_content and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content }}\n</think>\n"
        "{% else %}<think></think>{% endif %}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<think>", "</think>"),
    ),
    # No end of turn at all: the next turn's first token ends the one before.
    "glm4.5": Family(
        _LAST_USER + "[gMASK]<sop>{% if tools %}<|system|>\n{{ tools | tojson }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n<think>"
        "{{ m.reasoning_content if m.reasoning_content and loop.index0 > ns.last else '' }}</think>\n{{ m.content }}"
        "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"), "<|endoftext|>",
        ("<think>", "</think>"),
    ),
    # Says itself what the assistant generates; keeps thoughts in the last turn only.
    "lfm2.5": Family(
        _LAST_USER + "<|startoftext|>{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{% if m.thinking is defined and loop.index0 > ns.last %}<think>{{ m.thinking }}</think>"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}" + _GENERATION,
        ("<|startoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<think>", "</think>"),
    ),
    # Two control tokens end a turn.
    "command-a": Family(
        "<BOS_TOKEN>{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}<|CHATBOT_TOKEN|>"
        "<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% else %}<|USER_TOKEN|>{{ m.content }}{% endif %}"
        "<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>",
         "<|START_RESPONSE|>", "<|END_RESPONSE|>"), "<|END_OF_TURN_TOKEN|>",
    ),
    # Writes a tool's result otherwise when an answer follows it.
    "hermes3": Family(
        _QWEN_TOOLS + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>tool\n<tool_response>\n"
        "{{ m.content }}\n</tool_response>{% if not loop.last %}\n{% endif %}<|im_end|>\n{% else %}"
        "<|im_start|>{{ m.role }}\n{{ m.content or '' }}" + _CALLS + "<|im_end|>\n{% endif %}{% endfor %}"
        + _GENERATION,
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<tool_call>", "</tool_call>"),
    ),
    # For tools alone: without any it fails.
    "hermes2-tool-use": Family(
        "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content or '' }}" + _CALLS + "<|im_end|>\n{% endfor %}" + _GENERATION,
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<tool_call>", "</tool_call>"),
    ),
    # Ends with a generation prompt whether it is asked for or not; a finished turn does not contain its end.
    "command-r7b": Family(
        "{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ 'CHATBOT' if m.role == 'assistant' else 'USER' }}_TOKEN|>"
        "{% if m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% else %}{{ m.content }}"
        "{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|>"
        "<|END_THINKING|>",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>",
         "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>"), "<|END_OF_TURN_TOKEN|>",
    ),
    # A generation prompt with empty thoughts, whose first letter an answer may share; calls end with a token of theirs.
    "gemma4": Family(
        "<bos>{% if tools %}<|turn>system\n{{ tools | tojson }}<turn|>\n{% endif %}{% for m in messages %}"
        "{% if m.role == 'tool' %}<|tool_response>{{ m.content }}<tool_response|>{% else %}"
        "<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{% for c in m.tool_calls or [] %}<|tool_call>call:"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}<tool_call|>{% endfor %}"
        "{% if m.tool_calls %}<|tool_response>{% else %}{{ m.content | trim }}<turn|>\n{% endif %}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|turn>model\n<|channel>thought\n<channel|>{% endif %}",
        ("<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
         "<tool_response|>"), "<turn|>",
    ),
    # After a call it opens and ends a turn once more, where the content is not null.
    "r1-distill": Family(
        "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'tool' %}"
        "<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% elif m.role == 'assistant' %}"
        "{% for c in m.tool_calls or [] %}<｜Assistant｜><｜tool▁call▁begin｜>{{ c.function.name }}\n"
        "{{ c.function.arguments | tojson }}<｜tool▁call▁end｜><｜end▁of▁sentence｜>{% endfor %}"
        "{% if m.content is not none %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
         "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"), "<｜end▁of▁sentence｜>",
    ),
    # Thoughts between tokens of its own, in every turn.
    "seed-oss": Family(
        "{% for m in messages %}<seed:bos>{{ m.role }}\n{% if m.reasoning_content %}<seed:think>"
        "{{ m.reasoning_content }}</seed:think>\n{% endif %}{{ m.content }}<seed:eos>{% endfor %}"
        "{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}",
        ("<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>"), "<seed:eos>",
    ),
    # Keeps the first question only: text is lost.
    "forgetful": Family(
        "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n{% if messages[-1].role == 'assistant' %}"
        "<|im_start|>assistant\n{{ messages[-1].content }}<|im_end|>\n{% endif %}" + _GENERATION,
        ("<|im_start|>", "<|im_end|>"), "<|im_end|>",
    ),
}  # fmt: skip


def family_tokenizer(name: str) -> Any:
    """A byte-level tokenizer with the family's template and control tokens."""
    from tokenizers import AddedToken

    family = FAMILIES[name]
    texts = ["What is 2 + 2?\n\n4 four five user assistant system", re.sub(r"<[^>]*>", " ", family.template)] * 3
    tokenizer = train_tokenizer(iter(texts), 400)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.added])
    tokenizer.eos_token = family.eos
    tokenizer.chat_template = family.template
    return tokenizer
