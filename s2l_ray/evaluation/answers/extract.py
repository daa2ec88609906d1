"""Where a completion states its answer, the same for all tasks with answers: a box, a marker, or neither."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from s2l_ray.evaluation.answers.text import clean, cut_after_answer

How = Literal["box", "marker", "unmarked", "output", "none"]
MAX_CLAUSE = 2000
"""Longest answer (characters)."""
_MAX_LINES = 50
"""Of a program's output, from its end."""


class Found(NamedTuple):
    how: How
    text: str
    """The box's content, the clause after the marker, all of the text where neither stands, or what was printed."""


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_MARKER = re.compile(
    r"\b(?:answers?|ans)\b(?! ?(?:choices?|options?|key|sheet)\b)"
    r"(?:[^.:=?!;\n0-9$\\]{0,50}?(?:\b(?:is|are|was|(?:would|should|must|will) be|equals|becomes)\b:?|[:=]))"
    r"|####(?!#)",
    re.IGNORECASE,
)
_OPENING = " \n:=>*\"'"
_SENTENCE_END = re.compile(r"(?<!\bapprox)(?<!\bRs)(?<!\bno)[.!?](?=[\s\"'\])*]|$)|\n", re.IGNORECASE)
_REMARK = re.compile(
    r",? (?:which|that is|because|since|where|whereas|rather than|instead of|not|given|provided|assuming|if|when"
    r"|i\.e\.?|e\.g\.?)(?=[ ,.])|, ?(?:as|so|but)(?= )|,? (?:as|so) (?:the|we|it|he|she|they|there|in)(?= )"
    r"| \((?=(?:about |[0-9.,$]+ )?[A-Za-z]{2,}[ ,.;)])| -{1,2} (?=[A-Za-z]{3})"
)
_NOT_BUT = re.compile(r"^not\b[^\n]{0,200}?\bbut\b ?", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:answers?|ans)\b(?:(?!\b(?:is|are|was|were)\b)[^.,:;\n0-9$\\]){0,50}?"
    r"(?:\b(?:is|are|was|were|be|can|could)(?:n't\b|(?: [a-z]+ly)? (?:not|never)\b)|\bcan(?:not|'t)\b)"
    r"(?![^.\n]{0,200}\bbut\b)(?:[^.,;\n]|[.,](?=[0-9]))*",
    re.IGNORECASE,
)
"""`The answer is not 12`, up to the end of the clause: whatever it names is no answer."""
_NO_WORD = re.compile(r"[\s$,{}]|\\(?:text|mbox|q?quad)(?![A-Za-z])")
_MAX_BETWEEN = 40
"""Between boxes that are one answer (characters)."""
_HEADING = re.compile(r"[ ]*[^0-9\s+\-$\\.(]|[ ]*[0-9]+[.)] +[A-Za-z]")


def find_in_completion(completion: str) -> Found:
    """The last box or marker, whichever stands later; the whole text where there is neither."""
    text = _DENIED.sub("", cut_after_answer(clean(completion)))
    box, marked = _last_box(text), _last_marked(text)
    if box is not None and (marked is None or box[0] > marked[0]):
        return Found("box", box[1])
    if marked is not None:
        return Found("marker", marked[1])
    return Found("unmarked", text) if text.strip() else Found("none", "")


def find_in_output(printed: str) -> Found:
    """What a program printed, without the None of a printed function call; a traceback is no answer."""
    lines = [line.strip() for line in clean(printed, is_output=True).split("\n")]
    lines = [line for line in lines if line]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return Found("none", "")
    while lines and lines[-1] == "None":
        lines.pop()
    if not lines or re.match(r"[A-Za-z.]*(?:Error|Exception)\b", lines[-1]):
        return Found("none", "")
    if len(lines[-1]) > MAX_CLAUSE:
        return Found("output", lines[-1][:MAX_CLAUSE] + "…")  # no rule reads it
    stated = _last_box(lines[-1]) or _last_marked(lines[-1])
    return Found("output", stated[1] if stated else "\n".join(lines[-_MAX_LINES:]))


def _last_box(text: str) -> tuple[int, str] | None:
    """The last box, or of boxes between which only `and`, `or` or a comma stands all: together they are one answer."""
    contents: list[str] = []
    begin = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        content, end = _box_content(text, match.end())
        if contents and not (content.strip() and _is_joined(text[end:begin])):
            break
        if content.strip():
            contents, begin = [content.strip(), *contents], match.start()
    return (begin, ", ".join(contents)[:MAX_CLAUSE]) if contents else None


def _is_joined(between: str) -> bool:
    return 0 < len(between) <= _MAX_BETWEEN and _NO_WORD.sub("", between).lower() in ("", "and", "or")


def _box_content(text: str, position: int) -> tuple[str, int]:
    """What stands in the box, and where it ends in the text."""
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
    content = re.split(r"\$|\n\n", inner[1:])[0]  # never closed: the text was cut off
    return content + "}" * min(depth - 1, 20), len(text)


def _last_marked(text: str) -> tuple[int, str] | None:
    for match in reversed(list(_MARKER.finditer(text))):
        if match.group() == "####" and _is_heading(text, match.end()):
            continue
        clause = _clause(text[match.end() : match.end() + MAX_CLAUSE])
        if clause:
            return match.start(), clause
    return None


def _is_heading(text: str, position: int) -> bool:
    """`#### Step 1` is a heading, `#### 18` GSM8K's marker; a word counts as an answer where the text ends with it."""
    line, _, following = text[position:].partition("\n")
    return bool(_HEADING.match(line)) and bool(following.strip())


def _clause(rest: str) -> str:
    """From behind a marker up to where the sentence or the line ends, or a remark begins."""
    rest = rest.lstrip(_OPENING)
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if rest.startswith(opening):
            return rest[2:].partition(closing)[0].strip()
    end = _SENTENCE_END.search(rest)
    clause = _NOT_BUT.sub("", rest[: end.start()] if end else rest)
    for remark in _REMARK.finditer(clause):
        if re.search(r"[0-9A-Za-z]", clause[: remark.start()]):
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
