"""Converts intervals, inequalities, assignments and output of Python and sympy to the notation of gold answers."""

from __future__ import annotations

import re

from s2l_ray.evaluation.answers import latex

_NAMED = re.compile(
    r"\s*((?:\\?[A-Za-z]+[0-9]?|[A-Za-z])(?:_\s*(?:\{[^{}]*\}|\w))?(?:\s*\(\s*[a-z]\s*\))?)\s*(?:=|\\in\b)\s*(.*)",
    re.DOTALL,
)
_CHAIN = re.compile(
    r"(.+?)\s*(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))\s*(.+?)(?:\s*(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))\s*(.+))?"
)
_SIDE_BY_SIDE = re.compile(r"([=:] ?[-+]?[$]?[0-9][0-9.,/]{0,50}) +(?=[A-Za-z]\w? ?[=:])")

Interval = tuple[str, str, str, str]


def interval(text: str) -> Interval | None:
    """An interval, or an inequality in one variable that means one → bracket, end, end, bracket."""
    brackets = latex.bracketed(_conventional(text))
    if brackets is not None and brackets[0] in "([" and brackets[2] in ")]":
        ends = latex.split(brackets[1])
        return (brackets[0], ends[0], ends[1], brackets[2]) if len(ends) == 2 else None
    parts = latex.split(text)
    if len(parts) == 2 and all(map(is_inequality, parts)):
        return _common(interval(parts[0]), interval(parts[1]))
    match = _CHAIN.fullmatch(text)
    if match is None:
        return None
    left, first, middle, second, right = match.groups()
    if right is not None:
        if (first in "<\\le") != (second in "<\\le") or not is_variable(middle):
            return None
        ends = [left, right] if first in ("<", "\\le") else [right, left]
        signs = [first, second] if first in ("<", "\\le") else [second, first]
        return ("(" if signs[0] in "<>" else "[", ends[0], ends[1], ")" if signs[1] in "<>" else "]")
    if is_variable(middle):
        left, middle = middle, left
        first = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[first]
    if not is_variable(left):
        return None
    if first in ("<", "\\le"):
        return ("(", "-\\infty", middle, ")" if first == "<" else "]")
    return ("(" if first == ">" else "[", middle, "\\infty", ")")


def is_inequality(text: str) -> bool:
    return re.search(r"[<>]|\\[lg]e(?![A-Za-z])", text) is not None


def _common(left: Interval | None, right: Interval | None) -> Interval | None:
    """The intersection of two rays: x > -2 and x < 1."""
    for low, high in ((left, right), (right, left)):
        if low and high and low[2] == "\\infty" and high[1] == "-\\infty":
            return (low[0], low[1], high[2], high[3])
    return None


def coordinates(gold: str, answer: str) -> str:
    """Convert `x = 3, y = 4` to (3, 4) if the gold answer is a point: the values in the order of their names."""
    pairs = [named(part) for part in latex.split(answer)]
    values = {name: value for name, value in pairs if name is not None and value is not None}
    brackets = latex.bracketed(gold)
    if brackets is None or (brackets[0], brackets[2]) != ("(", ")") or len(values) < max(2, len(pairs)):
        return answer
    return f"({', '.join(value for _, value in sorted(values.items()))})"


def _conventional(text: str) -> str:
    """Convert ]3, 5[ to (3, 5): outward brackets exclude the ends."""
    text = text.strip()
    if len(text) < 2 or text[0] not in "[]" or text[-1] not in "[]" or (text[0], text[-1]) == ("[", "]"):
        return text
    return f"{'(' if text[0] == ']' else '['}{text[1:-1]}{')' if text[-1] == '[' else ']'}"


def separated(text: str) -> str:
    """Convert `x = 3 y = 5` to `x = 3, y = 5`."""
    return _SIDE_BY_SIDE.sub(r"\1, ", text)


def is_variable(text: str) -> bool:
    return re.fullmatch(r"\s*(?:[A-Za-z]|\\[a-z]+)\s*", text) is not None


def named(text: str) -> tuple[str | None, str | None]:
    """Split `x = 5` into x and 5."""
    match = _NAMED.fullmatch(text)
    if match is None or match[2].strip() == "" or match[1].lstrip("\\") in ("le", "ge"):
        return None, None
    return re.sub(r"[\s\\{}]", "", match[1]), match[2].strip()


def both_signs(text: str) -> list[str]:
    for sign in ("\\pm", "±"):
        if text.count(sign) == 1:
            return [text.replace(sign, "+"), text.replace(sign, "-")]
    return [text]


_SCALAR = re.compile(
    r"\b(?:np\.|mpmath\.)?(?:(?:float|int)(?:32|64)|mpf|Float|Integer|Decimal)\(['\"]?([^()'\"]*)['\"]?\)"
)
_WRAPPED = re.compile(
    r"\s*(?:(?:np\.)?array\((?P<array>.*?)(?:, dtype=\w+)?\)|Point(?:2D|3D)?(?P<point>\(.*\))"
    r"|Poly\((?P<polynomial>[^,]*), .*\))\s*"
)
_ASSIGNMENTS = re.compile(r"^\s*[A-Za-z]\w?\s*=[^=]+(?:,|\bor\b|\band\b)\s*[A-Za-z]\w?\s*=[^=]")
_BOUNDS = re.compile(r"\((\S+) (<=?) (\w+)\) & \(\3 (<=?) (\S+)\)")


def nested_rows(text: str) -> list[list[str]] | None:
    """The rows of a printed list of lists; a flat list is a column."""
    outer = latex.bracketed(text)
    if outer is None or outer[0] != "[":
        return None
    cells = latex.split(outer[1], ",")
    rows = [latex.bracketed(cell) for cell in cells]
    return [latex.split(row[1], ",") if row else [cell] for row, cell in zip(rows, cells, strict=True)]


def as_latex(line: str) -> str:
    """Convert printed collections, matrices, intervals and inequalities to the notation of gold answers; other text is
    unchanged."""
    bounds = _BOUNDS.fullmatch(line.strip().strip("()").join("()")) if "&" in line else None
    if bounds:  # (0 <= x) & (x < oo)
        low, first, name, second, high = bounds.groups()
        line = f"{low} {first} {name}" if high == "oo" else f"{name} {second} {high}"
        line = line if "oo" in (low.lstrip("-"), high) else f"{low} {first} {name} {second} {high}"
    if re.fullmatch(r"[^<>=]*(?:<=|>=)[^=]*", line):
        line = line.replace("<=", "\\le ").replace(">=", "\\ge ")
    line = _SCALAR.sub(r"\1", line)
    if wrapped := _WRAPPED.fullmatch(line):
        line = next(inner for inner in wrapped.groups() if inner is not None)
    equation = re.fullmatch(r"Eq\((.*)\)", line.strip())
    if equation and len(sides := latex.split(equation[1], ",")) == 2:
        return " = ".join(sides)
    if _ASSIGNMENTS.search(line):
        return re.sub(r"\s+(?:and|or)\s+", ", ", line)
    if not re.match(r"\s*(?:Interval|Union)\b", line):
        line = re.sub(r"^\s*[A-Za-z][\w ]*[:=]\s*(?=[^=])", "", line)
    if re.fullmatch(r"[-\s0-9.\[\]e+]*", line) and "]" in line:
        line = re.sub(r"(?<=[0-9.\]])\s+(?=[-+\[0-9.])", ", ", line)  # numpy's rows
    joined = re.fullmatch(r"Union\((.*)\)", line.strip())
    if joined:
        return " \\cup ".join(as_latex(part) for part in latex.split(joined[1], ","))
    interval = re.fullmatch(r"Interval(\.open|\.Lopen|\.Ropen)?\((.*)\)", line.strip())
    if interval:
        left = "(" if interval[1] in (".open", ".Lopen") or re.match(r"\s*-oo", interval[2]) else "["
        right = ")" if interval[1] in (".open", ".Ropen") or re.search(r"(?<!-)oo\s*$", interval[2]) else "]"
        return f"{left}{interval[2]}{right}"
    table = re.fullmatch(r"(?:Immutable|Mutable|Dense)*Matrix\((\[.*\])\)", line.strip())
    if table:
        rows = latex.bracketed(table[1])
        cells = [latex.bracketed(row) for row in latex.split(rows[1])] if rows else []
        if cells and all(cells):
            body = " \\\\ ".join(" & ".join(latex.split(cell[1])) for cell in cells if cell)
            return f"\\begin{{pmatrix}} {body} \\end{{pmatrix}}"
    finite = re.fullmatch(r"FiniteSet\((.*)\)", line.strip())
    return _collection(f"{{{finite[1]}}}" if finite else line.strip())


def _collection(line: str) -> str:
    """Unpack lists with one item, and take the values of dicts."""
    for _ in range(5):
        brackets = latex.bracketed(line)
        if brackets is None:
            break
        inside = brackets[1].rstrip(", ")
        parts = latex.split(inside, ",")
        alone = [_collection(part) for part in parts]
        if not any(latex.bracketed(part) for part in alone):  # [(15,), (9,)], [{x: 15}, {x: 9}]
            parts, inside = alone, ", ".join(alone)
        if brackets[0] == "{":
            pairs = [latex.split(part, ":") for part in parts]
            if all(len(pair) == 2 for pair in pairs):  # sympy's roots are the keys: {-3: 1, 2: 2}
                are_names = all(re.fullmatch(r"\s*['\"]?[A-Za-z_][\w ]*['\"]?\s*", pair[0]) for pair in pairs)
                parts = [pair[-1 if are_names else 0] for pair in pairs]
            inside = ", ".join(parts)
            if len(parts) > 1:
                return f"\\{{{inside}\\}}"
        if len(parts) != 1:
            return f"{brackets[0]}{inside}{brackets[2]}"
        line = inside
    return line
