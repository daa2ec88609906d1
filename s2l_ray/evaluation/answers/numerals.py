"""Converts numbers as people write them to plain digits: groups (1 234 567, 1,23,456, 1.234.567,50), multipliers
(3 dozen, $5 million, 2 hundred thousand), fractions and signs in words (3 and a half, minus 5).

Numbers written entirely in words (eighteen, a dozen) stay words: no rule reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

MULTIPLIERS = {"dozen": 12, "score": 20, "gross": 144, "hundred": 100, "thousand": 10**3, "lakh": 10**5,
               "million": 10**6, "crore": 10**7, "billion": 10**9, "trillion": 10**12}  # fmt: skip
Asked = Literal["one", "one of several", "all"]
"""How many numbers an answer must contain."""
_SUFFIXES = {"k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}
"""Suffixes that only count after a currency: 5 m is a length, 5k a run, and between two dollar signs, as in LaTeX, k is
a variable."""
_PARTS = {"half": (1, 2), "third": (1, 3), "quarter": (1, 4), "fourth": (1, 4), "fifth": (1, 5),
          "two thirds": (2, 3), "three quarters": (3, 4), "three fourths": (3, 4)}  # fmt: skip

_SPACE = r"(?: |~|\\[,;: ]|\\thinspace(?![A-Za-z]) ?)"
_SPACED = re.compile(
    rf"(?<![0-9.,/^_\\])(?<![0-9][ ~])(?P<first>[1-9][0-9]{{0,2}})(?P<rest>(?P<space>{_SPACE})[0-9]{{3}}"
    rf"(?:(?P=space)[0-9]{{3}})*)(?![0-9])(?!{_SPACE}?[0-9])(?:,(?P<decimals>[0-9]{{1,2}})(?![0-9,]))?"
)
_MEASURED = re.compile(
    r"-[A-Za-z]| (?:dollar|cent|euro|pound|[mck]?m|inch|foot|yard|mile|met(?:er|re)|[mck]?[lL]|lit(?:er|re)|gallon"
    r"|[mk]?g|gram|ounce|oz|second|minute|hour|day|year|page|piece|seat|calorie|watt|point) [a-z]+s\b"
)
"""Words after the size of each of several things: 5 100-dollar bills, 18 200 ml bottles."""
_ODD_GROUPS = re.compile(r"(?<![0-9.,])(?:[1-9][0-9]?(?:,[0-9]{2})+|[1-9][0-9]{3,}(?:,[0-9]{3})*),[0-9]{3}(?!,?[0-9])")
"""Unusual groups of digits, such as 1,23,456 and 1250,000."""
_DOTTED = re.compile(
    r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3})+)(?:,([0-9]{1,2}))?(?![0-9])(?![.,][0-9])",
)

_TEXT = r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*"
_WORD = rf"(?:{'|'.join(MULTIPLIERS)})s?"
_SIZE = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}(?![0-9])|[0-9]{1,30})(?:\.[0-9]{1,30})?(?:(?: [0-9]{1,9})? ?/ ?[0-9]{1,9})?"
_SCALED = re.compile(
    rf"(?<![\w.,/])(?<![0-9] )(?P<money>[$€£₹] ?)?(?P<size>{_SIZE})(?:"
    rf"{_SPACE}*(?P<opening>{_TEXT})?(?P<words>{_WORD}(?:[ -]{_WORD})*)(?![\w-]|'s)"
    r"|(?P<suffix>[kKmMbB]n?)(?![\w-])(?![^\n]{0,200}\$(?![0-9])))"
)
_FURTHER = re.compile(
    rf",?{_SPACE}(?:and )?(?P<size>{_SIZE}){_SPACE}(?P<words>{_WORD}(?:[ -]{_WORD})*)(?![\w-])"
    rf"|{_SPACE}(?:and )?(?P<units>[0-9]{{1,12}})(?![0-9]|[.,/:][0-9]|%|-[A-Za-z])"
)
_AND_A_PART = re.compile(
    r"(?<![\w.,/])(?P<whole>[0-9]{1,30}) and (?:(?:a |one[ -])?(?P<one>half|third|quarter|fourth|fifth)"
    r"|(?P<several>two[ -]thirds|three[ -](?:quarters|fourths))"
    r"|(?P<top>[0-9]{1,9}) ?/ ?(?P<bottom>[0-9]{1,9}))(?![\w/])"
)
_SIGN = re.compile(
    rf"(?:{_TEXT})?\b(?P<word>[Mm]inus|[Nn]egative)\b ?\}}?{_SPACE}*(?=\\?[$€£₹]? ?(?:\\[dt]?frac|\.?[0-9]))"
)
_RAISED = re.compile(r"(?<=[0-9)}]) (?:(squared)|cubed)\b(?! ?[A-Za-z])")
_OPERANDS = re.compile(r"[=:,;(\[{\n]|\b(?:is|are|was|were|be|and|or|of|to|equals?|about|exactly)\b")


def in_digits(text: str, *, grouped: bool = True, scaled: bool = True, added: bool = True) -> str:
    """The text with its numbers in plain digits, otherwise unchanged.

    Args:
        grouped: groups of digits are one number; else `15 234` stays two.
        scaled: a multiplier multiplies; else it stays a unit, as in the answer to “How many dozen?”.
        added: `3 hundred and 5` and `3 and 1/2` are one number; else two.
    """
    text = _RAISED.sub(lambda match: "^2" if match[1] else "^3", _SIGN.sub(_signed, text))
    if grouped:
        text = _ODD_GROUPS.sub(lambda match: match.group().replace(",", ""), text)
        text = _DOTTED.sub(_undotted, text)
        text = _SPACED.sub(_joined, text)
    if added:
        text = _AND_A_PART.sub(_mixed, text)
    return _multiplied(text, added) if scaled else text


def readings(text: str, context: str, is_output: bool, asked: Asked) -> Iterator[str]:
    """Possible readings of the numbers in an answer, the most likely first.

    Args:
        context: the question and the gold. A multiplier that they use as a unit (“How many dozen?”) may be one in the
            answer, too.
        is_output: a program printed it, where a space or comma parts two numbers.
        asked: neighbours need not be parts of one number where the answer is several numbers. Where the gold names all
            of them it decides; where it names one of them, groups that can only be one number stay together.
    """
    seen = set()
    for scaled in (True, False) if _is_unit_in(context, text) else (True,):
        for together in (True, False) if asked != "one" else (True,):
            grouped = not is_output and (together or (asked == "one of several" and _is_one_number(text)))
            reading = in_digits(text, grouped=grouped, scaled=scaled, added=together)
            if reading not in seen:
                seen.add(reading)
                yield reading


def _is_unit_in(context: str, text: str) -> bool:
    """Whether the context uses a multiplier of the text without a numeral in front of it."""
    used = {match.rstrip("s") for match in re.findall(rf"\b{_WORD}\b", text)}
    return any(
        match.group().rstrip("s") in used and not re.search(r"[0-9] $", context[: match.start()])
        for match in re.finditer(rf"\b{_WORD}\b", context)
    )


def _is_one_number(text: str) -> bool:
    """Whether these can only be groups of digits: there are three of them, or one begins with zeros."""
    spaced = list(_SPACED.finditer(text))
    return bool(spaced) and all(_is_certain(match) for match in spaced) and not _ODD_GROUPS.search(text)


def _is_certain(match: re.Match[str]) -> bool:
    groups = re.findall(r"[0-9]{3}", match["rest"])
    return len(groups) > 1 or groups[0].startswith("0")


def _joined(match: re.Match[str]) -> str:
    if not _is_certain(match) and _MEASURED.match(match.string, match.end()):
        return match.group()
    digits = match["first"] + "".join(re.findall(r"[0-9]{3}", match["rest"]))
    return digits + (f".{match['decimals']}" if match["decimals"] else "")


def _undotted(match: re.Match[str]) -> str:
    digits, decimals = match.groups()
    if digits.count(".") == 1 and decimals is None:
        return match.group()  # 1.234 is a decimal
    return digits.replace(".", "") + (f".{decimals}" if decimals else "")


def _mixed(match: re.Match[str]) -> str:
    name = match["one"] or (match["several"] or "").replace("-", " ")
    top, bottom = _PARTS[name] if name else (int(match["top"]), int(match["bottom"]))
    return f"{match['whole']} {top}/{bottom}" if top < bottom else match.group()


def _signed(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 80) : match.start()]
    operand = _OPERANDS.split(before)[-1]
    if match["word"].lower() == "negative" or not re.search(r"[0-9]|(?<![A-Za-z])[a-zA-Z] $", operand):
        return "-"
    return "- " if re.search(r"(?:[0-9)\]}]|(?<![A-Za-z])[A-Za-z]) ?$", before) else match.group()


def _multiplied(text: str, added: bool) -> str:
    pieces, position = [], 0
    for match in _SCALED.finditer(text):
        if match.start() < position or (factor := _factor(match)) is None:
            continue
        value, end = _size(match["size"]) * factor, match.end()
        while added and factor > 1 and (further := _FURTHER.match(text, end)):
            smaller = _product(further["words"]) if further["words"] else 1
            part = _size(further["size"]) * smaller if further["words"] else Fraction(further["units"])
            if smaller >= factor or part >= factor:
                break
            value, factor, end = value + part, smaller, further.end()
        pieces += [text[position : match.start()], match["money"] or "", _digits(value), match["opening"] or ""]
        position = end
    return "".join([*pieces, text[position:]])


def _factor(match: re.Match[str]) -> int | None:
    if match["suffix"]:
        return _SUFFIXES.get(match["suffix"].lower()) if match["money"] else None
    if match["money"] and match["words"].startswith("gross"):
        return None  # $500 gross
    return _product(match["words"])


def _product(words: str) -> int:
    product = 1
    for word in re.findall(_WORD, words):
        product *= MULTIPLIERS.get(word) or MULTIPLIERS[word[:-1]]
    return product


def _size(text: str) -> Fraction:
    whole, _, part = text.replace(",", "").replace(" /", "/").replace("/ ", "/").rpartition(" ")
    top, _, bottom = part.partition("/")
    return (Fraction(whole) if whole else 0) + Fraction(top) / (int(bottom or 1) or 1)


def _digits(value: Fraction) -> str:
    """The number in decimals if they are finite, otherwise as a fraction."""
    for places in range(31):
        if (value * 10**places).denominator == 1:
            digits = str(int(value * 10**places)).rjust(places + 1, "0")
            return f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}" if places else digits
    return f"{value.numerator}/{value.denominator}"
