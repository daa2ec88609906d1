"""Strips layout, units and delimiters from an answer in LaTeX, and parses its structure: brackets, top-level commas,
matrices."""

from __future__ import annotations

import itertools
import re

from s2l_ray.evaluation.answers.words import is_word

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|hbox|rm|operatorname)\s*"
_WHOLE_TEXT = re.compile(rf"(?:{_TEXT}\{{([^{{}}]*)\}})")
SEGMENT = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]|\$\$(.+?)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+?)(?<!\\)\$", re.DOTALL)
_LAYOUT = [
    (re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\,)(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])\.?"), " "),
    (re.compile(r"(?<!\\)\\[!,;:> ]|~|\\(?:quad|qquad|hspace\{[^{}]*\}|vspace\{[^{}]*\})(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:mathrm|mathit|rm)\s*\{\s*([ei])\s*\}"), r"\1"),
    (re.compile(r"\\equiv(?![A-Za-z])|≡"), "="),
    (re.compile(r"\\p?mod\s*(?:\{[^{}]*\}|[0-9A-Za-z]+)|\(mod [^()]{1,20}\)"), " "),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\^\s*(?:\{\s*(?:\\circ|o)\s*\}|\\circ(?![A-Za-z])|o(?![A-Za-z0-9]))|\\degree(?![A-Za-z])|°"), " "),
    (re.compile(r"(?:(?<![A-Za-z\\])[A-Z]{1,3})?\\?[$€£¥₹](?= ?[0-9])"), " "),  # US$5
    (re.compile(r"\\?[$%€£¥₹]|\\(?:euro|pounds)(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq)(?![A-Za-z])|≤|<="), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![A-Za-z])|≥|>="), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"∪"), r"\\cup "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"\\(?:lvert|rvert)(?![A-Za-z])"), "|"),
]  # fmt: skip
_SUCH_THAT = re.compile(
    r"\\\{\s*([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\s*\{?[RZN]\}?|\\R)\s*)?(?::|\||\\mid(?![A-Za-z])|\\colon)"
    r"(?=[^{}]*\1)((?:[^{}\\]|\\[A-Za-z]|(?<=[A-Za-z0-9 ])\{[^{}]*\})+)\\\}"
)
"""The set of all x such that …: the condition alone."""
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_IN_BASE = re.compile(
    rf"\$?(?<![0-9A-Za-z.])([0-9][0-9A-F]*)\$?(?:\s|\\[ ,;])*(?:{_TEXT}\{{\s*)?"
    rf"(?P<opening>\()?(?:in )?base[ -]?(?:\}}\s*)?\$?([0-9]{{1,2}}|{'|'.join(_BASE_NAMES)})\b\$?(?(opening)\))\}}?"
)
_REPEATING = re.compile(r"([0-9]{0,50})\.([0-9]{0,50})\\(?:overline|bar)\s*\{?\s*([0-9]{1,50})\s*\}?")
_JOINING = re.compile(rf"{_TEXT}\{{\s*,?\s*(?:and|or)\s*\}}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_UNIT = re.compile(rf"{_TEXT}\{{[^{{}}]*\}}\s*(?:\^\s*(?:\{{[^{{}}]*\}}|[0-9]))?")
_FUNCTION_WORDS = {
    "sqrt",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "pi",
    "oo",
    "infty",
    "abs",
    "frac",
    "cdot",
}
_UNIT_LETTERS = {"m", "g", "s"}
_BASE_WORDS = dict(zip(_BASE_NAMES, range(2, 13), strict=True))


def words_of(text: str) -> str | None:
    r"""The words of an answer that is nothing but \text{…}."""
    match = _WHOLE_TEXT.fullmatch(text.strip().strip("$").strip(" .,"))
    return match[1] if match else None


def subscripted(text: str) -> str:
    """`4343 (base 6)`, `$4343$ in base $6$` → 4343_{6}; ten is the base of every number."""
    return _IN_BASE.sub(lambda match: match[1] if match[3] in ("10", "ten") else f"{match[1]}_{{{match[3]}}}", text)


def tidy(text: str) -> str:
    """LaTeX without layout, currency, percent and degree signs, units and dollar delimiters."""
    text = subscripted(text)
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(_\s*\{?\s*)" + _TEXT + r"\{\s*(?:base\s*)?([0-9A-Za-z]*)\s*\}", r"\1\2", text)
    text = re.sub(r"_\s*\{\s*\(?(?:base\s*)?([0-9]+|[a-z]{3,6})\)?\s*\}", r"_{\1}", text)
    for word, base in _BASE_WORDS.items():
        text = re.sub(rf"(_\s*\{{?\s*){word}\b", rf"\g<1>{base}", text)
    text = _JOINING.sub(" , ", text)
    inner = words_of(text)
    text = inner if inner is not None else _UNIT.sub(_without_unit, text)
    text = _SUCH_THAT.sub(r"\2", text)
    text = _REPEATING.sub(_repeating, text)
    return re.sub(r"\s+", " ", text).lstrip().rstrip(" .")


def _without_unit(match: re.Match[str]) -> str:
    """The text without a unit: letters after an operator are an operand, and unknowns are not units."""
    letters = re.sub(rf"{_TEXT}\{{\s*([A-Za-z]*)\s*\}}", r"\1", match.group())
    if re.fullmatch(r"[A-Za-z]{1,3}", letters) and not is_word(letters):
        return f" {letters}"
    if re.search(r"[-+*/^_=]\s*$", match.string[max(0, match.start() - 20) : match.start()]):
        return re.sub(rf"{_TEXT}\{{([^{{}}]*)\}}", r" \1", match.group())
    return " "


def _repeating(match: re.Match[str]) -> str:
    """Convert 0.1\\overline{6} to the fraction (16 - 1) / 90."""
    whole, fixed, period = match[1] or "0", match[2], match[3]
    top = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def math_of_clause(clause: str) -> str:
    """The mathematics in a clause of prose: what is between delimiters, otherwise what is left without words."""
    segments = list(SEGMENT.finditer(clause))
    if segments and not re.search(r"[0-9)}\]]$", clause[: segments[0].start()]):
        parts = [next(group for group in segments[0].groups() if group)]
        for before, segment in itertools.pairwise(segments):
            if not re.fullmatch(r"\s*(?:,|;|and|or|,\s*and|,\s*or|\s)*\s*", clause[before.end() : segment.start()]):
                break
            parts.append(next(group for group in segment.groups() if group))
        return ", ".join(parts)
    return clause


def without_words(text: str) -> str:
    """A tidied answer without leading and trailing words: `12 square units` is 12."""
    tokens = text.split(" ")
    while tokens and _is_word(tokens, -1) and not _is_factor(tokens[-2:-1], tokens[-1]):
        tokens.pop()
    while tokens and _is_word(tokens, 0) and not _is_factor(tokens[1:2], tokens[0]):
        tokens.pop(0)
    rest = " ".join(tokens)
    return re.sub(r"(?<=[0-9])\s*(?:cm|mm|km|ft|kg|mph)(?:\s*\^\s*\{?[0-9]\}?)?$", "", rest)


def _is_word(tokens: list[str], at: int) -> bool:
    """Whether the first or last token is a word; letters on their own are an answer."""
    bare = re.sub(r"\^\{?[0-9]\}?$", "", tokens[at]).strip(".,;:'")
    if len(tokens) == 1 and len(bare) < 4:
        return False
    if at and bare in _UNIT_LETTERS:
        return True
    if not re.fullmatch(r"[A-Za-z][A-Za-z'-]*[A-Za-z](?:/[A-Za-z]+)?", bare) or bare.lower() in _FUNCTION_WORDS:
        return False
    return not at or not bare.isalpha() or is_word(bare)


def _is_factor(neighbour: list[str], token: str) -> bool:
    """Whether letters are a product and not a word, as in `ab + 3` and `3 - xy`, next to an operator."""
    return (
        len(token) <= 3
        and bool(neighbour)
        and re.fullmatch(r"[-+*/=<>^]|\\(?:cdot|times|[lg]e)", neighbour[0]) is not None
    )


def split(text: str, separators: str = ",;") -> list[str]:
    """The parts between separators outside all brackets."""
    parts, depth, begin = [], 0, 0
    i = 0
    while i < len(text):
        if text[i] == "\\" and text[i : i + 2] in ("\\{", "\\}"):
            depth += 1 if text[i + 1] == "{" else -1
            i += 2
            continue
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        elif text[i] in separators and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
        i += 1
    parts.append(text[begin:].strip())
    return [part for part in parts if part] if len(parts) > 1 else parts


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""An answer that is one pair of brackets → the opening, the inside, the closing; `\{` for braces of a set."""
    text = text.strip()
    opening = text[:2] if text.startswith("\\{") else text[:1]
    closing = text[-2:] if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{", "{") or closing not in (")", "]", "\\}", "}"):
        return None
    inside = text[len(opening) : -len(closing)]
    depth, i = 0, 0
    while i < len(inside):
        step = 2 if inside[i] == "\\" and inside[i : i + 2] in ("\\{", "\\}") else 1
        character = inside[i + step - 1]
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None  # (a)(b)
        i += step
    return opening, inside.strip(), closing


def matrix(text: str) -> list[list[str]] | None:
    """The rows of a matrix or column, printed or in LaTeX."""
    text = re.sub(r"^\s*[(\[]\s*(\\begin.*\})\s*[)\]]\s*$", r"\1", text, flags=re.DOTALL)
    match = re.fullmatch(r"\s*\\begin\s*\{([pbB]?matrix|array)\}(.*)\\end\s*\{\1\}\s*", text, re.DOTALL)
    if match is None:
        return None
    body = re.sub(r"^\s*\{[^{}]*\}", "", match[2]) if match[1] == "array" else match[2]
    rows = [row for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", body) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]
