"""Evaluates expressions: exact fractions if possible, otherwise complex numbers with 40 digits.

Two expressions with variables are equal if their values agree at several points; values of rational functions are
exact, and the chance that different functions agree at all points is negligible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from s2l_ray.evaluation.answers.expressions import CONSTANTS, FUNCTIONS, Node, TooLarge, Unreadable

_MAX_BITS = 200_000
"""Maximum size of an exact number (bits): 2^2005 and 1/2006! are compared exactly, towers of powers are refused."""
_MAX_FACTORIAL = 3000
_DIGITS = 40
_POINTS = 4


def names(node: Node) -> set[str]:
    """The variables of an expression."""
    if node.kind == "name":
        return set() if node.head in CONSTANTS else {node.head}
    return set().union(*(names(argument) for argument in node.arguments)) if node.arguments else set()


def evaluate(node: Node, point: dict[str, Fraction] | None = None) -> Any:
    """The value where the variables are `point`: a Fraction, or mpmath's complex number of 40 digits.

    Raises:
        TooLarge, Unreadable: a power beyond the limits, a division by zero, a variable without a value.
    """
    import mpmath

    with mpmath.workdps(_DIGITS):
        try:
            return _value(node, point or {})
        except Unreadable:
            raise  # keep TooLarge, which as an error in data is a ValueError too
        except (ZeroDivisionError, OverflowError, ValueError, TypeError, mpmath.libmp.NoConvergence) as error:
            raise Unreadable(f"no value: {error}") from error


def _value(node: Node, point: dict[str, Fraction]) -> Any:
    import mpmath

    if node.kind == "number":
        return node.head
    if node.kind == "name":
        if node.head in point:
            return point[node.head]
        constant = CONSTANTS.get(node.head)
        if constant is None:
            raise Unreadable(f"{node.head} has no value")
        return mpmath.mpc(0, 1) if constant == "i" else +getattr(mpmath, constant)
    values = [_value(argument, point) for argument in node.arguments]
    function: Callable[..., Any] | None = _RULES.get(node.head)
    return _transcendental(node.head, values) if function is None else function(*values)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise TooLarge("an exact number with too many digits")
    return value


def real(value: Any) -> Any:
    """A value without its vanishing imaginary part; None if it has one, or is not finite."""
    import mpmath

    if isinstance(value, Fraction):
        return value
    number = mpmath.mpc(value)
    if not mpmath.isfinite(number) or abs(number.imag) > mpmath.mpf(10) ** -30 * max(1, abs(number.real)):
        return None
    return number.real


def to_fraction(value: Any) -> Fraction:
    """The exact value of mpmath's binary number."""
    sign, mantissa, exponent, _ = value._mpf_
    if exponent > 2000 or mantissa == 0:
        return Fraction(0) if mantissa == 0 else Fraction(2) ** 2000
    size = Fraction(mantissa) * Fraction(2) ** max(exponent, -4000)
    return -size if sign else size


def _inexact(value: Any) -> Any:
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _both(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(function(left, right))
        return function(_inexact(left), _inexact(right))

    return apply


def _power(base: Any, exponent: Any) -> Any:
    import mpmath

    if isinstance(exponent, Fraction):
        if abs(exponent) > _MAX_BITS:
            raise TooLarge("a power that is too large")
        if isinstance(base, Fraction):
            if exponent.denominator == 1:
                size = max(base.numerator.bit_length(), base.denominator.bit_length())
                if size * abs(exponent.numerator) > _MAX_BITS:
                    raise TooLarge("a power that is too large")
                return base**exponent.numerator
            return _root(base**exponent.numerator if abs(exponent.numerator) < 100 else base, exponent)
    elif abs(exponent) > _MAX_BITS:
        raise TooLarge("a power that is too large")
    return mpmath.power(_inexact(base), _inexact(exponent))


def _root(powered: Fraction, exponent: Fraction) -> Any:
    import mpmath

    if abs(exponent.numerator) >= 100 or exponent.denominator > 100:
        raise TooLarge("a root of too high a degree")
    return _exact_root(powered, exponent.denominator) or mpmath.power(
        _inexact(powered), mpmath.mpf(1) / exponent.denominator
    )


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if value <= 0:
        return Fraction(0) if value == 0 else None
    parts = []
    for part in (value.numerator, value.denominator):
        if part.bit_length() > 1000:
            return None
        root = math.isqrt(part) if degree == 2 else round(part ** (1 / degree))
        if root**degree != part:
            return None
        parts.append(root)
    return Fraction(*parts)


def _sqrt(value: Any, degree: Any = Fraction(2)) -> Any:
    if (
        isinstance(degree, Fraction)
        and degree.denominator == 1
        and degree.numerator % 2
        and isinstance(value, Fraction)
    ):
        return -_power(-value, 1 / degree) if value < 0 else _power(value, 1 / degree)  # the real root of odd degree
    return _power(value, _both(lambda a, b: a / b)(Fraction(1), degree))


def _whole(value: Any, limit: int) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("a factorial of something other than a whole number")
    if value > limit:
        raise TooLarge("a factorial that is too large")
    return int(value)


def _transcendental(name: str, values: list[Any]) -> Any:
    import mpmath

    if name == "log" and len(values) == 2:
        return mpmath.log(_inexact(values[0])) / mpmath.log(_inexact(values[1]))
    if name in FUNCTIONS or name == "log10":
        numbers = [_inexact(value) for value in values]
        if any(abs(number) > 10**6 for number in numbers):
            raise TooLarge("an argument that is too large")
        return getattr(mpmath, name)(*numbers)
    raise Unreadable(f"{name} is not supported")


_RULES: dict[str, Callable[..., Any]] = {
    "+": lambda *terms: functools.reduce(_both(lambda a, b: a + b), terms),
    "*": lambda *factors: functools.reduce(_both(lambda a, b: a * b), factors),
    "inverse": lambda a: 1 / a,
    "quotient": lambda a, b=Fraction(1): _both(lambda x, y: x / y)(a, b),
    "same": lambda a, *_: a,
    "neg": lambda a: -a,
    "abs": abs,
    "^": _power,
    "pow": _power,
    "sqrt": _sqrt,
    "root": _sqrt,
    "cbrt": lambda a: _sqrt(a, Fraction(3)),
    "factorial": lambda n: Fraction(math.factorial(_whole(n, _MAX_FACTORIAL))),
    "binomial": lambda n, k: Fraction(math.comb(_whole(n, _MAX_FACTORIAL), _whole(k, _MAX_FACTORIAL))),
}


def equal(left: Node, right: Node, relative: float = 1e-20) -> bool:
    """Whether two expressions are equal wherever both are defined.

    Raises:
        Unreadable: the values cannot be computed.
    """
    variables = sorted(names(left) | names(right))
    agreed = 0
    for point in _points(variables):
        try:
            if not _same(evaluate(left, point), evaluate(right, point), relative):
                return False
        except TooLarge:
            raise
        except Unreadable:
            if not variables:
                raise
            continue  # a pole of one of them
        agreed += 1
        if not variables or agreed == _POINTS:
            return True
    raise Unreadable("not defined at any of the points that were tried")


def proportional(left: Node, right: Node) -> bool:
    """Whether one is a constant multiple of the other, like the sides of two equations of the same curve.

    Raises:
        Unreadable: the values cannot be computed.
    """
    import mpmath

    if names(left) != names(right):
        return False
    ratios = []
    for point in _points(sorted(names(left))):
        try:
            with mpmath.workdps(_DIGITS):
                ratios.append(_both(lambda a, b: a / b)(evaluate(left, point), evaluate(right, point)))
        except TooLarge:
            raise
        except (Unreadable, ZeroDivisionError):
            continue
        if len(ratios) == _POINTS:
            return all(_same(ratio, ratios[0], 1e-20) for ratio in ratios) and ratios[0] != 0
    raise Unreadable("not defined at any of the points that were tried")


def _points(variables: list[str]) -> Iterator[dict[str, Fraction]]:
    """Fixed positive points in general position: prime numerators over prime denominators."""
    primes = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73]
    for shift in range(_POINTS + 4):
        yield {
            name: Fraction(primes[(3 * i + 5 * shift + 1) % len(primes)], primes[(7 * i + 2 * shift) % len(primes)] + 2)
            for i, name in enumerate(variables)
        }


def _same(left: Any, right: Any, relative: float) -> bool:
    import mpmath

    if isinstance(left, Fraction) and isinstance(right, Fraction):
        if left == right:
            return True
        return relative > 1e-15 and abs(left - right) <= Fraction(relative) * max(abs(left), abs(right))
    with mpmath.workdps(_DIGITS):
        left, right = _inexact(left), _inexact(right)
        gap, size = abs(left - right), max(abs(left), abs(right))
        return bool(mpmath.isfinite(gap) and gap <= max(size * relative, mpmath.mpf(10) ** -30))
