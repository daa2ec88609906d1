"""Parses what programs print, Python's and sympy's numbers and collections, without evaluating anything."""

from __future__ import annotations

import ast
import re
import warnings
from fractions import Fraction
from typing import Any

from s2l_ray.evaluation.answers import expressions, numbers, values
from s2l_ray.evaluation.answers.numbers import Number

MAX_CHARACTERS = 2000
_MAX_DEPTH = 20
_MAX_BITS = int(numbers.MAX_DIGITS * 3.33)
"""Maximum size of a computed number (bits). Python refuses to print integers with more than 4,300 digits."""
_WRAPPERS = {"Fraction", "Rational", "Integer", "Float", "Decimal", "mpf", "float", "int", "float64", "int64", "array",
             "FiniteSet", "Tuple", "set", "list", "tuple", "frozenset", "Counter", "dict"}  # fmt: skip

Value = Any
"""A Number, a str, a list of Values, or a dict of pairs as `Pairs`."""


class Pairs(list[tuple[Value, Value]]):
    """Keys and values of a printed dict."""


def read(line: str) -> Value | None:
    """The value of a printed line; None if it is not a number or a collection of numbers and names."""
    if len(line) > MAX_CHARACTERS or _depth(line) > _MAX_DEPTH or not line.isascii():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `4343_6`
            return _value(ast.parse(line.strip(), mode="eval").body, line.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _depth(line: str) -> int:
    depth = deepest = 0
    for character in line:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.expr, line: str) -> Value:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return numbers.whole(node.value) or node.value
        digits = line[node.col_offset : node.end_col_offset]
        number = numbers.whole(f"{digits}0" if digits.endswith(".") else digits)  # numpy prints 5.
        if isinstance(node.value, bool) or number is None:
            raise ValueError("no number")
        return number
    if isinstance(node, ast.Name):
        if node.id in ("nan", "inf", "oo", "zoo"):
            raise ValueError("not finite")
        return node.id
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item, line) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return Pairs((_value(key, line), _value(item, line)) for key, item in pairs if key is not None)
    if isinstance(node, ast.Call):
        return _call(node, line)
    return _computed(line[node.col_offset : node.end_col_offset])


def _call(node: ast.Call, line: str) -> Value:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "Eq" and len(node.args) == 2:
        return _value(node.args[1], line)
    if name not in _WRAPPERS or (node.keywords and name not in ("array", "mpf", "float64", "int64")):
        return _computed(line[node.col_offset : node.end_col_offset])
    arguments = [_value(argument, line) for argument in node.args]
    if name in ("Fraction", "Rational") and len(arguments) == 2:
        top, bottom = arguments
        if not isinstance(top, Number) or not isinstance(bottom, Number) or not bottom.value:
            raise ValueError("no fraction")
        return Number(top.value / bottom.value, None)
    if name in ("FiniteSet", "Tuple"):
        return arguments
    if not arguments:
        raise ValueError("empty")
    return arguments[0]


def _computed(text: str) -> Value:
    """The value of an expression: its number if it has one, otherwise its text."""
    number = compute(text)
    return text if number is None else number


def compute(text: str) -> Number | None:
    """The value of an expression without variables; None for other text and for more digits than any answer has."""
    try:
        node = expressions.parse(text, printed=True)
        if values.names(node):
            return None
        value = values.real(values.evaluate(node))
    except expressions.Unreadable:
        return None
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
            return None
        exact = re.fullmatch(r"[-0-9/ ]*", text) is not None
        return Number(value, None, is_float=not exact and "." in text)
    return None if value is None else Number(values.to_fraction(value), None, is_float=True)


def alone(value: Value) -> Value:
    """Replace collections with a single value by that value."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0][1] if isinstance(value, Pairs) else value[0]
    return value


def flat(value: Value, keys: bool = False) -> list[Value]:
    """The values of nested collections from left to right; for a dict, its values or its keys."""
    if isinstance(value, Pairs):
        return [leaf for pair in value for leaf in flat(pair[0 if keys else 1], keys)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in flat(item, keys)]
    return [value]
