"""The rule of the harness behind the published figures, reimplemented with its bugs so that figures can be compared
with the literature: MAmmoTH's `math_eval`, as kept in
https://github.com/AlibabaResearch/DAMO-ConvAI/tree/main/MaskedThought/MAmmoTH/math_eval (`run_open.py`, `utils.py`).

The harness passes text to Python's `eval`; here, a parser for arithmetic is used instead.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

TASKS = ("gsm8k", "math", "numglue", "svamp", "mathematics", "simuleq")
_STOP = ("USER", "ASSISTANT", "### Instruction", "Response")
_TRIGGERS = ("####", "The answer is")
_MAX_CHARACTERS = 100_000


def is_right(task: str, text: str, gold: str, form: str) -> bool:
    """The harness's verdict.

    Args:
        task: one of TASKS.
        text: a completion, or what a program printed (form `output`).
    """
    answer = extract(task, text, form)
    if task == "math":
        return _same_math(answer, _strip_string(gold), number_it(_strip_string(gold)))
    if task == "gsm8k":
        gold = _delete_extra_zero(gold.replace(",", ""))
    elif task == "svamp":
        gold = _delete_extra_zero(gold.removesuffix(".0"))
    return answer == gold


def extract(task: str, text: str, form: str) -> str:
    """The harness's answer; empty if it finds none, in which case its hybrid form falls back."""
    text = text[-_MAX_CHARACTERS:]
    if form == "output":
        text = "The answer is " + text.strip("\n")
    else:
        for stop in _STOP:
            text = text.partition(stop)[0]
    if task == "math":
        return _extract_math(text) if text else text
    if any(text.count(trigger) > 1 for trigger in _TRIGGERS):
        text = text.split("\n\n")[0]
    parts = re.split("|".join(_TRIGGERS), text)
    has_marker, text = len(parts) > 1, parts[-1]
    if "=" in text:
        text = text.split("=")[-1].strip()
    candidates = re.findall(r"\b(A|B|C|D|E)\b", text.upper()) if task == "numglue" else []
    if not candidates:
        candidates = [_delete_extra_zero(n) for n in re.findall(r"-?[0-9]+/?\.?[0-9]*", text.replace(",", ""))]
    if not candidates:
        return ""
    return candidates[0 if has_marker else -1].removesuffix(".").removesuffix("/")


def is_run(program: str) -> bool:
    """Whether the harness can run a program at all: it indents every line into a function, where
    `from sympy import *` is a syntax error."""
    if "print(" not in program:
        return False
    lines = program.split("### Instruction")[0].split("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile("def run_it():\n" + "".join(f"  {line}\n" for line in lines) + "run_it()", "<program>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _delete_extra_zero(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    digits = str(number).rstrip("0")
    try:
        return str(int(digits.rstrip("."))) if digits.endswith(".") else str(float(digits))
    except ValueError:
        return text


def _extract_math(text: str) -> str:
    if "The answer is " in text:
        answer = text.split("The answer is ")[-1].strip()
    elif "the answer is " in text:
        answer = text.split("the answer is ")[-1].strip()
    elif "boxed" in text:
        boxed = _boxed(text)
        if boxed is None:
            return ""
        answer = boxed
    else:
        answer = (re.findall(r"-?[0-9]*\.?[0-9]+", text) or [""])[-1]
    answer = _strip_string(answer.removesuffix(".").removesuffix("/"))
    if "boxed" in answer:
        return _boxed(answer) or ""
    return answer


def _boxed(text: str) -> str | None:
    rest = text.split("boxed")[-1]
    if not rest:
        return None
    if rest[0] != "{":
        return _strip_string(rest.split("$")[0].strip())
    depth, inside = 1, []
    for character in rest[1:]:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            break
        inside.append(character)
    return _strip_string("".join(inside))


def _strip_string(text: str) -> str:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    text = text.split("\\text{ ")[0].replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _fix_sqrt(text).replace(" ", "")
    return _fix_slash(_fix_fractions(text))


def _fix_sqrt(text: str) -> str:
    head, *parts = text.split("\\sqrt")
    return head + "".join(
        f"\\sqrt{{{part[0]}}}{part[1:]}" if part and part[0] != "{" else f"\\sqrt{part}" for part in parts
    )


def _fix_fractions(text: str) -> str:
    head, *parts = text.split("\\frac")
    fixed = head
    for part in parts:
        if not part or part[0] == "{":
            fixed += "\\frac" + part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            fixed += f"\\frac{{{part[0]}}}{part[1:]}"
        else:
            fixed += f"\\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return fixed


def _fix_slash(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 2 or not all(re.fullmatch(r"-?(?:0|[1-9][0-9]{0,99})", part) for part in parts):
        return text
    return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"


def number_it(text: str) -> float | int | None:
    """The number of an answer, with `\\frac{a}{b}` as a quotient and without commas."""
    if "frac" in text:
        text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text)
        value = _arithmetic(text)
        text = text if value is None else str(value)
    elif "," in text:
        text = text.replace(",", "")
    number = _floatify(text)
    if number is not None:
        return number
    value = _arithmetic(text)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return _floatify(value)


def _floatify(value: Any) -> float | int | None:
    try:
        number = float(value)
        return round(number) if number.is_integer() else number
    except (ValueError, TypeError, OverflowError):
        return None


def _same_math(answer: str, gold: str, gold_number: float | int | None) -> bool:
    if answer == gold:
        return True
    number = number_it(answer)
    if gold_number is None or number is None or math.isnan(number):
        return False
    if isinstance(gold_number, int):
        return math.isfinite(number) and round(number) == gold_number
    slack = abs(gold_number) * 0.04
    return gold_number - slack <= number <= gold_number + slack


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitXor: operator.xor,
}  # fmt: skip


def _arithmetic(text: str) -> Any:
    """The result of `eval` for arithmetic, lists and tuples of numbers; None for everything else."""
    if len(text) > 500 or not text.isascii() or text.count("(") + text.count("[") > 50:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else +_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise ValueError("no arithmetic of numbers")
        if isinstance(node.op, ast.Pow):
            return math.pow(left, right)
        if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](left, right)
    raise ValueError("no arithmetic")
