"""What is response in conversations of several kinds, by the chat template of each family."""

from __future__ import annotations

from typing import Any

E, T = "<|im_end|>", "<think>\n\n</think>\n\n"
LOST = "leaves out the reasoning of turn 2 (assistant)"
NO_TOOLS = "leaves out the tool call 'weather' of turn 2 (assistant), so the model would never see it: it has no place"
NO_END = "ends the response without an end token"
# Per conversation a list of sequences, each a list of responses; or a part of the refusal.
EXPECTED: dict[str, dict[str, Any]] = {
    "chatml": {
        "single": [["four <b>" + E]], "several": [["four" + E, "five" + E]], "system": [["four" + E]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "qwen2.5": {
        "single": [["four <b>" + E]], "several": [["four" + E, "five" + E]], "system": [["four" + E]],
        "thoughts": LOST,
        "tools": [['<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' + E, "-3 C." + E]],
    },
    "qwen3": {
        "single": [[T + "four <b>" + E]], "several": [[T + "four" + E], [T + "five" + E]],
        "system": [[T + "four" + E]],
        "thoughts": [["<think>\nhm 1\n</think>\n\nfour" + E], ["<think>\nhm 2\n</think>\n\nfive" + E]],
        "tools": [[T + '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' + E],
                  [T + "-3 C." + E]],
    },
    "llama3.2": {
        "single": [["four <b><|eot_id|>"]], "several": [["four<|eot_id|>", "five<|eot_id|>"]],
        "system": [["four<|eot_id|>"]], "thoughts": LOST, "tools": NO_TOOLS,
    },
    "llama2": {
        "single": [[" four <b> </s>"]], "several": [[" four </s>", " five </s>"]], "system": [[" four </s>"]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "mistral-v3": {
        "single": [[" four <b></s>"]], "several": [[" four</s>", " five</s>"]],
        "system": [[" four</s>"]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "gemma2": {
        "single": [["four <b><end_of_turn>"]], "several": [["four<end_of_turn>", "five<end_of_turn>"]],
        "system": "refuses it: System role not supported", "thoughts": LOST, "tools": NO_TOOLS,
    },
    "phi3": {
        "single": [["four <b><|end|>"]], "several": [["four<|end|>", "five<|end|>"]], "system": [["four<|end|>"]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "gpt-oss": {
        "single": [["<|channel|>final<|message|>four <b><|return|>"]],
        "several": [["<|channel|>final<|message|>four<|return|>"], ["<|channel|>final<|message|>five<|return|>"]],
        "system": [["<|channel|>final<|message|>four<|return|>"]],
        "thoughts": [[f"<|channel|>analysis<|message|>hm {n}<|end|><|start|>assistant<|channel|>final<|message|>{a}"
                      "<|return|>"] for n, a in ((1, "four"), (2, "five"))],
        "tools": [[' to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
                   "<|channel|>final<|message|>-3 C.<|return|>"]],
    },
    "deepseek-r1": {
        "single": [["four <b><｜end▁of▁sentence｜>"]],
        "several": [["four<｜end▁of▁sentence｜>", "five<｜end▁of▁sentence｜>"]],
        "system": [["four<｜end▁of▁sentence｜>"]], "thoughts": LOST,
        "tools": "fails on it: 'dict object' has no attribute 'content'",
    },
    "nemotron3": {
        "single": [["</think>four <b>" + E]], "several": [["</think>four" + E, "</think>five" + E]],
        "system": [["</think>four" + E]],
        "thoughts": [["hm 1\n</think>\nfour" + E], ["hm 2\n</think>\nfive" + E]], "tools": NO_TOOLS,
    },
    "glm4.5": {
        "single": NO_END, "several": NO_END, "system": NO_END, "thoughts": NO_END, "tools": NO_END,
    },
    "lfm2.5": {
        "single": [["four <b>" + E]], "several": [["four" + E, "five" + E]], "system": [["four" + E]],
        "thoughts": [["<think>hm 1</think>four" + E], ["<think>hm 2</think>five" + E]], "tools": NO_TOOLS,
    },
    "command-a": {
        "single": [["<|START_RESPONSE|>four <b><|END_RESPONSE|><|END_OF_TURN_TOKEN|>"]],
        "several": [[f"<|START_RESPONSE|>{a}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>" for a in ("four", "five")]],
        "system": [["<|START_RESPONSE|>four<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "hermes3": {
        "single": [["four <b>" + E]], "several": [["four" + E, "five" + E]], "system": [["four" + E]],
        "thoughts": LOST,
        "tools": [['<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' + E, "-3 C." + E]],
    },
    "hermes2-tool-use": {
        "single": "fails on it: 'NoneType' object is not iterable",
        "several": "fails on it: 'NoneType' object is not iterable",
        "system": "fails on it: 'NoneType' object is not iterable",
        "thoughts": "fails on it: 'NoneType' object is not iterable",
        "tools": [['<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' + E, "-3 C." + E]],
    },
    "command-r7b": {
        "single": [["<|START_RESPONSE|>four <b><|END_RESPONSE|><|END_OF_TURN_TOKEN|>"]],
        "several": [[f"<|START_RESPONSE|>{a}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>" for a in ("four", "five")]],
        "system": [["<|START_RESPONSE|>four<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"]],
        "thoughts": LOST, "tools": NO_TOOLS,
    },
    "gemma4": {
        "single": [["four <b><turn|>"]], "several": [["four<turn|>", "five<turn|>"]], "system": [["four<turn|>"]],
        "thoughts": LOST,
        "tools": [['<|tool_call>call:weather{"city": "Oslo"}<tool_call|><|tool_response>', "-3 C.<turn|>"]],
    },
    "r1-distill": {
        "single": [["four <b><｜end▁of▁sentence｜>"]],
        "several": [["four<｜end▁of▁sentence｜>", "five<｜end▁of▁sentence｜>"]],
        "system": "leaves out the text of turn 1",
        "thoughts": LOST, "tools": "leaves out the tool 'weather': it has no place for tools",
    },
    "seed-oss": {
        "single": [["four <b><seed:eos>"]], "several": [["four<seed:eos>", "five<seed:eos>"]],
        "system": [["four<seed:eos>"]],
        "thoughts": [[f"<seed:think>hm {n}</seed:think>\n{a}<seed:eos>" for n, a in ((1, "four"), (2, "five"))]],
        "tools": NO_TOOLS,
    },
    "forgetful": {
        "single": [["four <b>" + E]], "several": "leaves out the text of turn 2 (assistant)",
        "system": "leaves out the text of turn 2 (user)",
        "thoughts": LOST, "tools": NO_TOOLS,
    },
}  # fmt: skip
