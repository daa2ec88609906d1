"""Cleans model text: unifies characters that only look different, and cuts off what follows the answer."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 100_000
"""Only the end of a longer text is read, because that is where answers are (characters)."""

_SAME = {
    **dict.fromkeys("−–﹣－", "-"),
    **dict.fromkeys("\t\v\f\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a", " "),
    **dict.fromkeys("\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u2028\u2029\x85", "\n"),
    **dict.fromkeys("’‘‛`´", "'"),
    **dict.fromkeys("“”„", '"'),
    **dict(zip("０１２３４５６７８９．，：（）", "0123456789.,:()", strict=True)),
    "＝": "=", "∗": "*", "⁄": "/", "∕": "/", "∶": ":", "✕": "×", "⋅": "·", "∙": "·", "＄": "$", "％": "%",
}  # fmt: skip
_INVISIBLE = [*range(0x09), *range(0x0E, 0x20), 0x7F, *range(0x80, 0x85), *range(0x86, 0xA0)]
_INVISIBLE += [0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), 0xFE0E, 0xFE0F, 0xFEFF]
_TABLE = str.maketrans({**_SAME, **dict.fromkeys(map(chr, _INVISIBLE), None)})
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:[\u00a0\u2009\u202f][0-9]{3})+(?![0-9])")
_MARKED = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:['_][0-9]{3})+(?!\w)")
_NO_DIGIT = re.compile(r"[^0-9]")
_VULGAR = re.compile(r"(?:([0-9]) ?)?([\u00bc-\u00be\u2150-\u215e\u2189])")
_RAISED = re.compile(r"(?<=[\w)\]}])[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_LOWERED = re.compile(r"(?<=[\w)\]}])[\u2080-\u2089]+")
_EMPHASIS = re.compile(r"\\(?:underline|boldsymbol|bm|(?:text)?color\s*\{[A-Za-z]{1,20}\})(?![A-Za-z])")
_BOLD = re.compile(r"\*\*\*?(?=\S)([^*\n]{1,2000}?)\*\*\*?|(?<!\w)__(?=\S)([^_\n]{1,2000}?)__(?!\w)")
_ITALIC = re.compile(
    r"(?<![\w*)\]}\\])(?<![0-9)\]}] )([*_])(?=[^\s*_])([^*_\n]{0,199}[^\s*_])\1(?![\w*(\[{\\])(?! ?[0-9(])"
)
"""Not a product, because there is nothing to multiply before or after it."""

_NEW_TURN = re.compile(
    r"^[ ]*(?:#{2,}[ ]*(?:instruction|input|response|question|problem|human|user|assistant|system)s?\b"
    r"|(?:user|human|assistant|question|problem|q|instruction|exercise)[ ]*(?:[0-9]{1,4})?[ ]*:"
    r"|below is an instruction\b|\[/?inst\])",
    re.IGNORECASE | re.MULTILINE,
)
_END_TOKEN = re.compile(
    r"</s>|<\|(?:endoftext|im_end|im_start|eot_id|end_of_text|start_header_id|end|user|assistant|system)\|>"
    r"|<(?:end|start)_of_turn>|\[/?INST\]"
)


_END_OF_THOUGHTS = "</think>"


def _spelt_out(match: re.Match[str]) -> str:
    """Convert 1½ to 1 1/2."""
    return f"{match[1] + ' ' if match[1] else ''}{unicodedata.normalize('NFKC', match[2])}"


def _written_out(match: re.Match[str]) -> str:
    """Convert x² to x^2, 10⁻³ to 10^{-3}, and 12₅ to 12_5."""
    digits = unicodedata.normalize("NFKC", match.group()).replace("\u2212", "-")
    sign = "^" if match.re is _RAISED else "_"
    return sign + (digits if len(digits) == 1 else f"{{{digits}}}")


def clean(text: str, is_output: bool = False) -> str:
    """Unify minus signs, spaces, quotes and exponents, and remove invisible characters and emphasis.

    Args:
        is_output: the text was printed by a program, where `**` is a power.
    """
    text = text[-MAX_CHARACTERS:].replace("\r\n", "\n").replace("\r", "\n")
    text = _GROUPED.sub(lambda match: _NO_DIGIT.sub("", match.group()), text)  # 12 345 with a no-break space
    text = _LOWERED.sub(_written_out, _RAISED.sub(_written_out, text))
    text = re.sub(r" {2,}", " ", _VULGAR.sub(_spelt_out, text).translate(_TABLE))
    text = _MARKED.sub(lambda match: _NO_DIGIT.sub("", match.group()), text)  # 1'234'567, 1_000
    if not is_output:
        text = _EMPHASIS.sub("", text)
        text = _BOLD.sub(lambda match: match.group(1) or match.group(2), text)
        text = _ITALIC.sub(lambda match: match.group(2), text)
    return text


def cut_after_answer(text: str) -> str:
    """The completion without preceding reasoning, up to where the model begins another instruction or turn; a heading
    at the beginning of the completion is not a new turn."""
    text = _before(_END_TOKEN, text)
    answer = text.rpartition(_END_OF_THOUGHTS)[2]
    return _before(_NEW_TURN, answer if answer.strip() else text)


def _before(pattern: re.Pattern[str], text: str) -> str:
    begin = len(text) - len(text.lstrip())
    opening = pattern.match(text, begin)
    found = pattern.search(text, opening.end() if opening else begin)
    return text[: found.start()] if found else text
