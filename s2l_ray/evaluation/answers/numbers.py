"""Finds numbers in text: exact fractions, with the number of decimals they were written with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from s2l_ray.evaluation.answers.words import is_word

MAX_DIGITS = 400
"""Maximum number of digits in one number; longer runs of digits are never an answer."""
MAX_EXPONENT = 300


@dataclass(frozen=True)
class Number:
    value: Fraction
    decimals: int | None = 0
    """Digits after the point as written; None for a fraction, which is exact."""
    is_float: bool = False
    """Whether it is written with a point or an exponent."""
    start: int = 0
    end: int = 0
    """Where it begins and ends in the text."""
    is_part: bool = False
    """Whether it is part of a term with an unknown or a root: 24x, x + 24, 2\\pi."""


_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    # Not within a word, another number or a clock time; sign and currency in either order.
    r"(?<![\w.])(?<![0-9]:)(?:(?P<sign>[+-])\ ?)?(?<![\w.])"
    r"(?=\.?[0-9])"
    rf"(?:(?P<whole>{_DIGITS})\ (?P<top>[0-9]+)\ ?/\ ?(?P<bottom>[0-9]+)(?![0-9./])"  # 1 1/4
    rf"|(?P<digits>{_DIGITS})?(?P<point>\.[0-9]+)?"
    r"(?P<exponent>[eE][+-]?[0-9]+(?![\w.]*[0-9])"
    r"|\ ?(?:×|·|\*|x)\ ?10\ ?(?:\^|\*\*)\ ?[{(]?\ ?[+-]?[0-9]+[)}]?)?"
    rf"(?:\ ?/\ ?(?P<over>{_DIGITS}(?:\.[0-9]+)?)(?![0-9./]))?)",
    re.VERBOSE,
)
_COMMAND = [
    (re.compile(r"\\[dtc]?frac\s*(?:\{\s*([+-]?[0-9.]{1,80})\s*\}|([0-9]))"
                r"\s*(?:\{\s*([0-9.]{1,80})\s*\}|([0-9]))"), "frac"),
    (re.compile(r",\\!|\{,\}"), ","),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:approx|equiv)(?![A-Za-z])|≈|≃|≡"), "="),
    (re.compile(r"\\pmod\s*(?:\{[^{}]*\}|[0-9A-Za-z])|\(mod [^()]{1,20}\)"), ""),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\!"), ""),
    (re.compile(r"\^\s*\{\s*(-?[0-9]{1,9})\s*\}"), r"^\1"),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"(?<=[A-Za-z])\\?[$€£¥₹]"), " "),  # US$5
    (re.compile(r"\\?[$€£¥₹%]|\\[()\[\]]"), ""),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°"), " "),
    (re.compile(r"\bRs\.? ?(?=[0-9])"), ""),
]  # fmt: skip

_FUNCTION = r"(?:\\|(?<![A-Za-z\\]))(?:sqrt|[dtc]?frac|pi|theta|log|ln|sin|cos|tan)(?![A-Za-z])"
_JOINED_AFTER = re.compile(
    r"(?!(?:st|nd|rd|th)\b) ?(?:[-+*/×·^] ?)?"
    rf"(?:{_FUNCTION}|(?P<letters>[A-Za-z]+)(?!\.?[A-Za-z])|[π√])|\([A-Za-z] ?[-+*/^)]"
)
_JOINED_BEFORE = re.compile(rf"(?:(?<![A-Za-z])[A-Za-z] ?[-+*/×·^]|{_FUNCTION}[ {{]*|√|\}}\{{) ?$|[A-Za-z]\($")


def plain(text: str) -> str:
    """Convert LaTeX, currency and percent signs in a numeric answer to the notation that `find` reads."""
    for pattern, replacement in _COMMAND:
        text = pattern.sub(_fraction if replacement == "frac" else replacement, text)
    return re.sub(r" {2,}", " ", text)


def _fraction(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2], match[3] or match[4]
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{top}/{bottom}"  # 1\frac{1}{4} is a mixed number


def find(text: str) -> Iterator[Number]:
    """The numbers of a text, from left to right."""
    position = 0
    while True:
        match = _NUMBER.search(text, position)
        if match is None:
            return
        position = max(match.end(), match.start() + 1)
        number = _read(match)
        if number is not None:
            yield number


def whole(text: str) -> Number | None:
    """The number that makes up the whole text; None if there is anything else."""
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else _read(match)


def _read(match: re.Match[str]) -> Number | None:
    text, start = match.string, match.start()
    if re.match(r":[0-9]", text[match.end() : match.end() + 2]):  # a clock time, a ratio
        return None
    if match.end() - match.start() > MAX_DIGITS:
        return None
    sign = -1 if match["sign"] == "-" and not _is_operator(text, start) else 1
    if match["whole"]:
        bottom = int(match["bottom"])
        if not bottom:
            return None
        size = Fraction(int(match["whole"].replace(",", ""))) + Fraction(int(match["top"]), bottom)
        return Number(sign * size, None, False, start, match.end(), _is_joined(match))
    value, decimals = _decimal((match["digits"] or "0") + (match["point"] or ""))
    exponent = _exponent(match["exponent"])
    if abs(exponent) > MAX_EXPONENT:
        return None
    value *= Fraction(10) ** exponent
    is_float = match["point"] is not None or match["exponent"] is not None
    written: int | None = max(0, decimals - exponent)
    if match["over"]:
        divisor = _decimal(match["over"])[0]
        if not divisor:
            return None
        value, written, is_float = value / divisor, None, False
    return Number(sign * value, written, is_float, start, match.end(), _is_joined(match))


def _is_joined(match: re.Match[str]) -> bool:
    """Whether an unknown, a root or a function is next to a number, with or without an operator between them."""
    text, start, end = match.string, max(match.start(), match.end("sign")), match.end()
    if _JOINED_BEFORE.search(text[max(0, start - 12) : start]):
        return True
    after = _JOINED_AFTER.match(text, end)
    if after is None or after["letters"] is None:
        return after is not None
    if after["letters"] == "a":  # 24 a day
        return not re.match(r" [A-Za-z]{2}", text[after.end() : after.end() + 3])
    return not is_word(after["letters"])


def _decimal(digits: str) -> tuple[Fraction, int]:
    digits = digits.replace(",", "")
    return Fraction(digits), len(digits.partition(".")[2])


def _exponent(text: str | None) -> int:
    if text is None:
        return 0
    digits = re.search(r"[+-]?[0-9]+[)} ]*$", text)
    assert digits is not None
    size = digits.group().strip(")} ")
    return int(size) if len(size) < 10 else MAX_EXPONENT + 1


def _is_operator(text: str, start: int) -> bool:
    """Whether a minus is between two operands: `(4)-3`, `5 - 3`, `x - 3`; not in `3 -1` (a list) or `is - 3`."""
    before = text[max(0, start - 3) : start]
    if re.search(r"[)\]}]$", before):
        return True
    return text[start + 1 : start + 2] == " " and bool(re.search(r"(?:[0-9)\]}]|(?<![A-Za-z])[A-Za-z]) $", before))


def rounds_to(answer: Number, gold: Number) -> bool:
    """Whether both are the same number to the precision given: gold answers of some sets were rounded to two or more
    decimals and lost their trailing zeros. An integer gold answer is exact."""
    if gold.value.denominator == 1:
        return answer.value == gold.value
    decimals = [d for d in (answer.decimals, gold.decimals) if d is not None]
    places = max(2, min(decimals, default=2))
    return abs(answer.value - gold.value) <= Fraction(1, 2 * 10**places)


def same_float(answer: Number, gold: Number, relative: Fraction = Fraction(1, 10**6)) -> bool:
    """Whether a float printed by a program equals the gold answer up to rounding errors; large integers must match
    digit by digit."""
    if not answer.is_float:
        return answer.value == gold.value
    slack = max(abs(gold.value) * relative, Fraction(1, 10**9))
    if gold.value.denominator == 1:
        slack = min(slack, Fraction(1, 1000))
    return abs(answer.value - gold.value) <= slack
