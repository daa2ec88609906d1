"""A strict parser for mathematical expressions, in LaTeX or as Python prints them: numbers, variables, fractions,
powers, roots and elementary functions. It rejects everything else and never evaluates text as Python.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from s2l_ray.errors import DataError

MAX_CHARACTERS = 1000
MAX_DEPTH = 40


class Unreadable(DataError):
    """The text is not an expression that this module supports."""


class TooLarge(Unreadable):
    """The expression is valid, but its value is larger than any answer."""


class Node(NamedTuple):
    kind: str
    """number, name, apply."""
    head: Any
    arguments: tuple[Node, ...] = ()


FUNCTIONS = {"sqrt", "cbrt", "exp", "log", "ln", "abs", "factorial", "binomial", "root", "pow",
              "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"}  # fmt: skip
_ALIASES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "Abs": "abs", "lg": "log10", "log10": "log10",
            "Rational": "quotient", "Fraction": "quotient", "Integer": "same", "Float": "same", "S": "same",
            "float": "same", "int": "same", "mpf": "same", "Decimal": "same", "float64": "same", "int64": "same",
            "binom": "binomial", "dbinom": "binomial", "tbinom": "binomial"}  # fmt: skip
CONSTANTS = {"pi": "pi", "i": "i", "I": "i", "e": "e", "E": "e"}
_OPERATORS = {"\\cdot": "*", "\\times": "*", "\\div": "/", "·": "*", "×": "*", "÷": "/", "**": "^", "\\ast": "*"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![A-Za-z0-9]))?)"
    r"|(?P<command>\\[A-Za-z]+)|(?P<word>[A-Za-z]+(?:[0-9]+(?![.0-9]))?)|(?P<operator>\*\*|\\[{}|]|[-+*/^()\[\]{}!|_,·×÷√π]))"
)


def parse(text: str, printed: bool = False) -> Node:
    """Parse an expression into a tree.

    Args:
        printed: parse Python's output, where a word is one name; in LaTeX it is a product of letters.

    Raises:
        Unreadable: the text is not an expression, or is longer or more deeply nested than any answer.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{len(text):,} characters")
    return _Parser(_tokens(text, printed)).whole()


def _tokens(text: str, printed: bool) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"{text[position]!r} cannot be part of an expression")
        position = match.end()
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "word":
            tokens += _words(value, printed)
        elif kind == "command":
            tokens.append(_command(value))
        elif value in "√π":
            tokens.append(("name", value if value == "√" else "pi"))
        else:
            tokens.append((kind, _OPERATORS.get(value, value)))
    return tokens


def _words(word: str, printed: bool) -> list[tuple[str, str]]:
    name = _ALIASES.get(word, word)
    if name in FUNCTIONS or name in _ALIASES.values() or word == "pi":
        return [("name", name)]
    if printed:
        return [("name", "i" if word in "Ij" else "e" if word == "E" else f"{word}_" if word in ("i", "e") else word)]
    letters = re.match(r"[A-Za-z]*", word)
    assert letters is not None
    digits = word[letters.end() :]
    split = [("name", letter) for letter in letters.group()]
    return split + ([("number", digits)] if digits else [])


def _command(command: str) -> tuple[str, str]:
    if command in _OPERATORS:
        return "operator", _OPERATORS[command]
    name = command[1:]
    if name in ("frac", "dfrac", "tfrac", "cfrac"):
        return "name", "frac"
    if name in ("lvert", "rvert", "vert"):
        return "operator", "|"
    if name in _GREEK or name in FUNCTIONS or name in _ALIASES:
        return "name", _ALIASES.get(name, name)
    raise Unreadable(f"{command} is not supported")


_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu",
          "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell"}  # fmt: skip


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Node:
        node = self.sum()
        if self.at < len(self.tokens):
            raise Unreadable(f"{self.tokens[self.at][1]!r} follows the expression")
        return node

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, expected: str | None = None) -> tuple[str, str]:
        token = self.peek()
        if token[0] == "end" or (expected is not None and token[1] != expected):
            raise Unreadable(f"{expected or 'something'} is missing")
        self.at += 1
        return token

    @contextlib.contextmanager
    def deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        yield
        self.depth -= 1

    def sum(self) -> Node:
        with self.deeper():
            terms = [self.product()]
            while self.peek() in (("operator", "+"), ("operator", "-")):
                sign = self.take()[1]
                term = self.product()
                terms.append(term if sign == "+" else Node("apply", "neg", (term,)))
            return terms[0] if len(terms) == 1 else Node("apply", "+", tuple(terms))

    def product(self) -> Node:
        factors = [self.signed()]
        while True:
            kind, value = self.peek()
            if kind == "operator" and value in ("*", "/"):
                self.take()
                factor = self.signed()
                factors.append(factor if value == "*" else Node("apply", "inverse", (factor,)))
            elif kind == "number" and self.tokens[self.at - 1][0] == "number":
                raise Unreadable("two adjacent numbers are not a product")
            elif kind in ("number", "name") or value in ("(", "{", "[", "\\{"):
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else Node("apply", "*", tuple(factors))

    def signed(self) -> Node:
        sign = 1
        while self.peek() in (("operator", "-"), ("operator", "+")):
            sign = -sign if self.take()[1] == "-" else sign
        node = self.power()
        return node if sign > 0 else Node("apply", "neg", (node,))

    def power(self) -> Node:
        node = self.postfix()
        if self.peek() == ("operator", "^"):
            self.take()
            with self.deeper():
                exponent = self.exponent()
            node = Node("apply", "^", (node, exponent))
        return node

    def exponent(self) -> Node:
        if self.peek()[0] == "operator" and self.peek()[1] in "+-":
            return self.signed()
        return self.power()

    def postfix(self) -> Node:
        node = self.base()
        while self.peek() == ("operator", "!"):
            self.take()
            node = Node("apply", "factorial", (node,))
        return node

    def base(self) -> Node:
        kind, value = self.take()
        if kind == "number":
            return self.number(value)
        if kind == "name":
            return self.named(value)
        closing = {"(": ")", "{": "}", "[": "]", "|": "|", "\\{": "\\}"}.get(value)
        if closing is None:
            raise Unreadable(f"an expression cannot start with {value!r}")
        node = self.sum()
        self.take(closing)
        return Node("apply", "abs", (node,)) if value == "|" else node

    def number(self, digits: str) -> Node:
        if len(digits) > MAX_CHARACTERS or len(digits.lower().partition("e")[2]) > 4:
            raise TooLarge("a number with too many digits")
        try:
            node = Node("number", Fraction(digits))
        except ValueError as error:  # \sqrt2. and \frac1e5: the rest after the first digit
            raise Unreadable(f"{digits!r} is not a number") from error
        if self.peek() == ("name", "frac") and digits.isdigit() and self._is_plain_fraction():
            self.take()
            return Node("apply", "+", (node, self.named("frac")))  # a mixed number
        return node

    def _is_plain_fraction(self) -> bool:
        following = [value for _, value in self.tokens[self.at + 1 : self.at + 7]]
        text = "".join(following)
        return bool(re.match(r"\{[0-9]+\}\{[0-9]+\}|[0-9]{2}", text))

    def named(self, name: str) -> Node:
        if name == "frac":
            top, bottom = self.argument(), self.argument()
            return Node("apply", "*", (top, Node("apply", "inverse", (bottom,))))
        if name == "sqrt" and self.peek()[1] == "[":
            self.take()
            index = self.sum()
            self.take("]")
            return Node("apply", "root", (self.argument(), index))
        if name == "√":  # √10 is the root of 10, but \\sqrt10 is \\sqrt{1}0
            with self.deeper():
                return Node("apply", "sqrt", (self.base(),))
        if name == "binomial" and self.peek()[1] == "{":
            return Node("apply", name, (self.argument(), self.argument()))
        if name in FUNCTIONS or name in _ALIASES.values():
            return self.function(name)
        if self.peek() == ("operator", "_"):
            self.take()
            name = f"{name}_{self.subscript()}"
        return Node("name", name)

    def subscript(self) -> str:
        if self.peek()[1] != "{":
            return self.take()[1]
        self.take()
        parts = []
        while self.peek()[1] != "}":
            parts.append(self.take()[1])
        self.take("}")
        return "".join(parts)

    def argument(self) -> Node:
        """The argument of a LaTeX command: a group, or only the next character."""
        kind, value = self.peek()
        if kind == "number" and len(value) > 1:
            self.tokens[self.at : self.at + 1] = [("number", value[0]), ("number", value[1:])]
        with self.deeper():
            return self.base()

    def function(self, name: str) -> Node:
        base: Node | None = None
        if self.peek() == ("operator", "_"):
            self.take()
            base = self.argument()
        power: Node | None = None
        if self.peek() == ("operator", "^"):
            self.take()
            power = self.argument()
        with self.deeper():
            arguments = self.called() if self.peek()[1] == "(" else (self.argument_of_function(name),)
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        node = Node("apply", name, arguments)
        return node if power is None else Node("apply", "^", (node, power))

    def called(self) -> tuple[Node, ...]:
        self.take("(")
        arguments = [self.sum()]
        while self.peek() == ("operator", ","):
            self.take()
            arguments.append(self.sum())
        self.take(")")
        return tuple(arguments)

    def argument_of_function(self, name: str) -> Node:
        if name == "sqrt":
            return self.argument()
        factors = [self.power()]
        while self.peek()[0] in ("number", "name") and self.peek()[1] not in FUNCTIONS:  # \sin 2x
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else Node("apply", "*", tuple(factors))
