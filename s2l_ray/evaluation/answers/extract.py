"""Finds where a completion states its answer, in the same way for all tasks: in a box, after a marker, or neither."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from s2l_ray.evaluation.answers.text import clean, cut_after_answer

How = Literal["box", "marker", "unmarked", "output", "none"]
MAX_CLAUSE = 2000
"""Longest answer (characters)."""
_MAX_LINES = 50
"""Number of lines read from the end of a program's output."""


class Found(NamedTuple):
    how: How
    text: str
    """The box's content, the clause after the marker, the whole text if there is neither, or what was printed."""


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_MARKER = re.compile(
    r"(?<!/)\b(?:answers?|ans)\b(?! ?(?:choices?|options?|key|sheet)\b)"
    r"(?:[^.:=?!;\n0-9$\\]{0,50}?"
    r"(?:\b(?:is|are|was|(?:would|should|must|will)(?: [a-z]+)? be|equals|becomes)\b:?|[:=]))"
    r"|####(?!#)|<answer>",
    re.IGNORECASE,
)
_OPENING = " \n:=>*\"'"
_SENTENCE_END = re.compile(
    r"(?<!\bapprox)(?<!\bRs)(?<!\bno)(?<!\bi\.e)(?<!\be\.g)(?:[.?]|!+\.?(?! ?[-+*/=×·]))(?=[\s\"'\])*]|$)"
    r"|\n|</answer>",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r",? (?:which|that is|because|since|where|whereas|rather than|instead of|not|no longer|given"
    r"|provided|assuming|if|when|i\.e\.?|e\.g\.?)(?=[ ,.])|, ?(?:as|so|but)(?= )"
    r"|,? (?:as|so) (?:the|we|it|he|she|they|there|in)(?= )"
    r"| \((?!(?:in )?base\b)(?=(?:about |[0-9.,$]+ )?[A-Za-z]{2,}[ ,.;)])| -{1,2} (?=[A-Za-z]{3})"
)
_BULLET = re.compile(r"[ :*\"']*\n\s*- (?=\S)")
_ANNOUNCED = re.compile(r"(?:thus|therefore|then|hence|simply|as follows|given by|the following)[ :]*\n", re.IGNORECASE)
_CORRECTED = re.compile(
    r"(?:(?:\bnot|n't) (?!only\b|just\b)|\bno longer )(?:[^.\n]|\.(?=[0-9])){1,100}?"
    r"\bbut (?:rather |in fact |actually )?"
    r"|(?<![\w.,])[-+]?\\?[$€£]?[0-9](?:[^.;:\n]|\.(?=[0-9])){0,30}?"
    r"(?:(?:[,;-]+|\.{3}|…)(?P<within>)|[.!?]) (?:(?:oh|no(?=[,.…]| wait| sorry)|or rather|sorry|wait|I meant?"
    r"|make that|actually|but now(?= it))(?:,|\.{3}|…)? )+"
    r"(?:(?:it|that|this)(?:'s| is| should (?:be|have been)) |(?(within)|(?!)))(?=\\?[$€£]?[-+]?\.?[0-9])",
    re.IGNORECASE,
)
"""`not 36 but 35`, `36, or rather 35`, `36. Wait, it should be 35`: what comes before the correction."""
_DENIED = re.compile(
    r"\b(?:answers?|ans)\b(?:(?!\b(?:is|are|was|were)\b)[^.,:;\n0-9$\\]){0,50}?"
    r"(?:\b(?:is|are|was|were|be|can|could)(?:n't\b|(?: [a-z]+ly)? (?:not|never|no longer)\b(?! only\b))"
    r"|\bcan(?:not|'t)\b)"
    r"(?:[^.,;\n]|[.,](?=[0-9]))*",
    re.IGNORECASE,
)
"""`The answer is not 12`, up to the end of the clause: nothing in it is an answer."""
_IN_WORDS = re.compile(
    r"(?:\b(?:twice|double|triple|thrice)|(?:\b(?:half|third|quarter|fourth|fifth)|[0-9]%?|percent) ?"
    r"(?:of|times|(?:more|less|fewer|greater|larger|smaller) than|the)) [^0-9\n]{0,20}[0-9][0-9.,]*$"
)
"""`5 more than 30, which is 35`: a calculation in words, whose value is in the remark after it."""
_WHICH_IS = re.compile(r",? (?:which (?:is|equals|gives|makes|comes to)|that is|i\.e\.?),? ")
_NO_WORD = re.compile(r"\b[A-Za-z](?:_\{?\w\}?)? ?=|[\s$,{}]|\\(?:text|mbox|q?quad)(?![A-Za-z])")
_ITEM = re.compile(
    r"[ ]*(?:[-*•] |\(?[0-9]{1,2}[.)] )?(?P<item>(?:[A-Za-z][^\n:=.0-9]{0,60}(?:[:=]|\b(?:is|are))|\\?[$(\[])? ?"
    r"\\?[$€£]?[-+]?\\?[$€£]? ?\.?[0-9][0-9.,/]*(?:[ ]?\\?[%$°])?(?: [A-Za-z][A-Za-z ()/-]{0,40})?)[.,;]?[ ]*"
)
"""A line that states one number: `- x = 16`, `2. The larger number: 9 apples`."""
_MAX_BETWEEN = 40
"""Maximum distance between boxes that are one answer (characters)."""
_HEADING = re.compile(r"[ ]*[^0-9\s+\-$\\.(]|[ ]*[0-9]+[.)] +[A-Za-z]")


def find_in_completion(completion: str, several: bool = False) -> Found:
    """The last box or marker, whichever comes later; the whole text if there is neither.

    Args:
        several: the answer may be several numbers: all boxes in a sentence, and all lines of a list, form one answer.
    """
    text = _DENIED.sub("", _CORRECTED.sub(" ", cut_after_answer(clean(completion))))
    box, marked = _last_box(text, several), _last_marked(text, several)
    if box is not None and (marked is None or box[1] > marked[0]):
        return Found("box", box[2])
    if marked is not None:
        return Found("marker", marked[1])
    if several and (listed := _items(text.rstrip().split("\n")[::-1])):
        return Found("unmarked", "; ".join(listed[::-1]))
    return Found("unmarked", text) if text.strip() else Found("none", "")


def find_in_output(printed: str) -> Found:
    """The answer in a program's output, without the None of a printed function call; a traceback is not an answer."""
    lines = [line.strip() for line in clean(printed, is_output=True).split("\n")]
    lines = [line for line in lines if line]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return Found("none", "")
    while lines and lines[-1] == "None":
        lines.pop()
    if not lines or re.match(r"[A-Za-z.]*(?:Error|Exception)\b", lines[-1]):
        return Found("none", "")
    if len(lines[-1]) > MAX_CLAUSE:
        return Found("output", lines[-1][:MAX_CLAUSE] + "…")  # too long for any rule to read
    stated = _last_box(lines[-1]) or _last_marked(lines[-1])
    return Found("output", stated[-1] if stated else "\n".join(lines[-_MAX_LINES:]))


def _items(lines: list[str]) -> list[str]:
    """The items of the list with which the lines begin, at least two; there may be empty lines between them."""
    items: list[str] = []
    for line in lines:
        item = _ITEM.fullmatch(line)
        if item is None and line.strip():
            break
        items += [item["item"]] if item else []
    return items if len(items) > 1 else []


def _last_box(text: str, several: bool = False) -> tuple[int, int, str] | None:
    """Begin, end and content of the last box, or of all boxes separated only by `and`, `or` or a comma, which together
    are one answer."""
    contents: list[str] = []
    begin = last = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        content, end = _box_content(text, match.end())
        if contents and not (content.strip() and _is_joined(text[end:begin], several)):
            break
        if content.strip():
            last = end if not contents else last
            contents, begin = [content.strip(), *contents], match.start()
    return (begin, last, ", ".join(contents)[:MAX_CLAUSE]) if contents else None


def _is_joined(between: str, several: bool) -> bool:
    if several and 0 < len(between) <= 4 * _MAX_BETWEEN and not _SENTENCE_END.search(between):
        return True
    return 0 < len(between) <= _MAX_BETWEEN and _NO_WORD.sub("", between).lower() in ("", "and", "or")


def _box_content(text: str, position: int) -> tuple[str, int]:
    """The content of a box, and the position in the text where it ends."""
    rest = text[position:]
    inner = rest.lstrip()
    begin = position + len(rest) - len(inner)
    if not inner.startswith("{"):
        token = re.match(r"[^\s$]*", inner)
        return token.group().rstrip(".,;") if token else "", begin + (token.end() if token else 0)
    depth = 0
    for i, character in enumerate(inner):
        if character in "{}" and (i == 0 or inner[i - 1] != "\\"):
            depth += 1 if character == "{" else -1
            if not depth:
                return inner[1:i], begin + i + 1
    content = re.split(r"\$|\n\n", inner[1:])[0]  # never closed, because the text was truncated
    return content + "}" * min(depth - 1, 20), len(text)


def _last_marked(text: str, several: bool = False) -> tuple[int, str] | None:
    for match in reversed(list(_MARKER.finditer(text))):
        if match.group() == "####" and _is_heading(text, match.end()):
            continue
        rest = text[match.end() : match.end() + MAX_CLAUSE]
        listed = _items(rest.lstrip(_OPENING).split("\n")) if several else []
        clause = "; ".join(listed) or _clause(rest)
        if clause:
            return match.start(), clause
    return None


def _is_heading(text: str, position: int) -> bool:
    """Whether `####` begins a heading (`#### Step 1`), not GSM8K's marker (`#### 18`); a word after it counts as an
    answer if the text ends there."""
    line, _, following = text[position:].partition("\n")
    return bool(_HEADING.match(line)) and bool(following.strip())


def _clause(rest: str) -> str:
    """The text after a marker, up to the end of the sentence or line, or the beginning of a remark."""
    rest = _ANNOUNCED.sub("", _BULLET.sub("", rest, count=1) if _BULLET.match(rest) else rest.lstrip(_OPENING))
    rest = rest.lstrip(_OPENING)
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if rest.startswith(opening):
            return rest[2:].partition(closing)[0].strip()
    end = _SENTENCE_END.search(rest)
    clause = rest[: end.start()] if end else rest
    for remark in _REMARK.finditer(clause):
        if re.search(r"[0-9A-Za-z]", clause[: remark.start()]):
            value = _WHICH_IS.match(clause, remark.start())
            if value and _IN_WORDS.search(clause, 0, remark.start()):
                return clause[value.end() :].strip(" *,;")
            return clause[: remark.start()].strip(" *,;")
    return clause.strip(" *,;")


def last_sentence(text: str, having: str = r"[0-9]") -> str:
    """The last sentence or line of a text in which the pattern is found; empty if there is none."""
    text = text[-MAX_CLAUSE:]
    begin, sentences = 0, []
    for end in _SENTENCE_END.finditer(text):
        sentences.append(text[begin : end.start()])
        begin = end.end()
    sentences.append(text[begin:])
    return next((s.strip() for s in reversed(sentences) if re.search(having, s)), "")
