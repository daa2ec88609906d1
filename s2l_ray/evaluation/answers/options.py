"""Rules for answers that are one of the options listed in the question, or a word."""

from __future__ import annotations

import re

from s2l_ray.evaluation.answers import numbers
from s2l_ray.evaluation.answers.extract import Found, last_sentence
from s2l_ray.evaluation.answers.printed import compute
from s2l_ray.evaluation.answers.rules import Judged, Same, one_number

_LISTED = re.compile(r"(?:(?<=\s)|(?<=:)|^)\(?([A-Ha-h])[).]\s*", re.MULTILINE)
_NAMED = re.compile(
    r"\(\s*([A-H])\s*\)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)(?: is)?:? \(?([A-H])\b(?! [a-z])"
    r"|\b([A-H])(?= is (?:correct|right|the ))"
)
_LEADING = re.compile(r"\W*(?:[Oo]ption |[Cc]hoice |[Ll]etter )?\(?([A-H])\b(?P<rest>.*)", re.DOTALL)
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore)\b", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?:\([A-H]\)|\b[A-H]) ?(?:and|or|,|&|/) ?(?:[Oo]ption |[Cc]hoice )?(?:\([A-H]\)|[A-H]\b(?! [a-z]))"
)
LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit)\s*\{([^{}]*)\}")
_LETTER_IS = re.compile(r"(?<![\w(])\(?([a-hA-H](?=\))|[b-hA-H])\)?(?= is\b|\W*$)")
_INLINE = re.compile(r"(?: in|:) ((?:[^,?:\n]{1,40}(?:, | or )){1,8}[^,?:\n]{1,40})\?\s*$")
_DEFINITION = re.compile(r"\bLet ([A-Za-z]) (?:=|be) ((?:[^.=\n]|\.(?=[0-9])){1,200})\.(?:\s|$)")
_REMARK = re.compile(r", (?!(?:or|and)\b)(?=[a-z0-9]\S*(?: \S+){2})")
"""A remark that is not a second word to choose from: `Friday, 3 days later`."""
_ARTICLE = re.compile(r"^\W*(?:the|an?) ", re.IGNORECASE)
_SMALL_WORDS = set("the a an in on at it its it's is was will be of this that day month year by to".split())  # noqa: SIM905


def listed(question: str) -> dict[str, str]:
    """The options of a question: letter → text, in the letters' own case."""
    _, marker, after = question.rpartition("Answer Choices:")
    text = after if marker else question
    marks = list(_LISTED.finditer(text))
    if len(marks) < 2:
        return {}
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = {mark[1]: text[mark.end() : end].strip(" \n.,;") for mark, end in zip(marks, ends, strict=True)}
    letters = sorted(options)
    return options if letters[0] in "Aa" and len(letters) == len(marks) else {}


def choice(found: Found, gold: str, question: str) -> Judged:
    """Judge an answer that must name the right option by its letter or its text."""
    if found.how == "none":
        return Judged("none")
    options = {letter.upper(): text for letter, text in listed(question).items()}
    answer = chosen(found, options)
    if answer is None:
        return Judged("unreadable", found.text)
    return Judged("right" if answer == gold.upper() else "wrong", answer)


def chosen(found: Found, options: dict[str, str]) -> str | None:
    """The letter named by an answer: the first after a marker, the last in a text without one."""
    text = LATEX_TEXT.sub(r" \1 ", found.text).replace("$", "").strip()
    if found.how == "output":
        text = re.sub(r"['\"]", "", text.rpartition("\n")[2]).strip("[](), ")
    if found.how == "unmarked":
        last = [match for match in _NAMED.finditer(text) if _letter(match) in (options or "ABCDEFGH")]
        if last:
            return _letter(last[-1])
        text = last_sentence(text, r"\w")
        letter = re.fullmatch(r"\W*([A-H])\W*", text)
        return letter[1] if letter else _by_text(_CONCLUSION.split(text)[-1], options)
    if _SEVERAL.search(text):
        return None
    alone = re.fullmatch(r"\W*([A-Ha-h])\W*", text)
    if alone:
        return alone[1].upper()
    leading = _LEADING.match(text)
    if leading and _is_letter(leading[1], leading["rest"], options):
        return leading[1]
    named = _NAMED.search(text)
    return _letter(named) if named else _by_text(text, options)


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)


def _is_letter(letter: str, rest: str, options: dict[str, str]) -> bool:
    """`B) tree` and `B tree` name an option, `A tree` begins with an article."""
    if not re.match(r"\s+[a-z0-9]", rest):
        return True
    return letter in options and _words(rest)[:1] == _words(options[letter])[:1] != []


def _by_text(text: str, options: dict[str, str]) -> str | None:
    """The option whose text is named first, which for a name may be `Mia's`; of two that begin at the same position,
    the longer one."""
    words = _named_words(text)
    best: tuple[int, int, str] | None = None
    for letter, option in options.items():
        wanted = _named_words(_ARTICLE.sub("", option))
        for i in range(len(words) - len(wanted) + 1) if wanted else ():
            if words[i : i + len(wanted)] == wanted:
                best = min(best, (i, -len(wanted), letter)) if best else (i, -len(wanted), letter)
                break
    return best[2] if best else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", text.casefold())


def _named_words(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in _words(text)]


def word(found: Found, gold: str) -> Judged:
    """Judge an answer that must consist of the gold answer's words, in any case, and at most some small words."""
    if found.how == "none":
        return Judged("none")
    text = LATEX_TEXT.sub(r" \1 ", found.text)
    wanted = _content(gold)
    if "," not in gold:
        text = _REMARK.split(text)[0]
    if found.how == "output":
        text = text.rpartition("\n")[2]
    if found.how == "unmarked":
        text = last_sentence(text, r"\w")
        answer = _content(text)[-len(wanted) :]
    else:
        answer = _content(text)
    return Judged("right" if answer == wanted else "wrong", text.strip())


def _content(text: str) -> list[str]:
    words = _words(text)
    return [word for word in words if word not in _SMALL_WORDS] or words


def option_or_number(found: Found, gold: numbers.Number, question: str, same: Same) -> Judged:
    """Judge an answer that is a number, or the letter of the option with that number. An option may be a variable from
    the question: it is right if it is the only one and no other option has the gold answer."""
    options = listed(question) or _inline(question)
    if not options:
        return one_number(found, gold, same)
    upper = {letter.upper(): text for letter, text in options.items()}
    known = _defined(question)
    letter = _bare_letter(found, upper)
    if letter is None:
        return one_number(found, gold, same)
    values = {key: numbers.whole(text) or known.get(text) for key, text in upper.items()}
    right = [key for key, number in values.items() if number and same(number, gold)]
    unknown = [key for key, number in values.items() if number is None]
    return Judged("right" if letter in (right or (unknown if len(unknown) == 1 else [])) else "wrong", letter)


def _inline(question: str) -> dict[str, str]:
    """`What is the closest to 1 in 0.042, l, -1?`: options without letters."""
    match = _INLINE.search(question)
    return {str(i): text.strip() for i, text in enumerate(re.split(", | or ", match[1]))} if match else {}


def _named(sentence: str, options: dict[str, str]) -> str | None:
    """The letter of the one option that a sentence names: `So w is the closest to 0`, `Hence (c) is`."""
    bounded = r"(?<![\w.(/-]){}(?![\w)/]| ?=|\.\w)"
    named = {letter for letter, text in options.items() if re.search(bounded.format(re.escape(text)), sentence)}
    named = named or {letter.upper() for letter in _LETTER_IS.findall(sentence)}
    return named.pop() if len(named) == 1 and named <= options.keys() else None


def _defined(question: str) -> dict[str, numbers.Number]:
    """The variables to which a question gives a value by arithmetic alone: `Let w = -7 - -6. Let u be w/3.`"""
    known: dict[str, numbers.Number] = {}
    for name, text in _DEFINITION.findall(question):
        for other, number in known.items():
            text = re.sub(rf"(?<![A-Za-z]){other}(?![A-Za-z])", f"({number.value})", text)
        value = compute(text)
        if value is not None:
            known[name] = value
    return known


def _bare_letter(found: Found, options: dict[str, str]) -> str | None:
    """The letter where the answer begins with one, or is the name of a variable among the options."""
    text = found.text.rpartition("\n")[2] if found.how == "output" else found.text
    if found.how == "unmarked" and not re.fullmatch(r"\W*[A-Ha-h]\W*", text):
        if named := _named(_CONCLUSION.split(last_sentence(text, r"\w"))[-1], options):
            return named
        last = re.findall(r"\(\s*([A-Ha-h])\s*\)|\b(?:option|choice) ([A-Ha-h])\b", text)
        return (last[-1][0] or last[-1][1]).upper() if last and not re.search(r"[0-9]\W*$", text) else None
    text = LATEX_TEXT.sub(r" \1 ", text).replace("$", "").strip(" '\"\n")
    by_name = [letter for letter, option in options.items() if option == text and not numbers.whole(option)]
    match = re.match(
        r"\(\s*([A-Ha-h])\s*\)|(?:[Oo]ption|[Cc]hoice) \(?([A-Ha-h])\b|([A-Ha-h])[).:] |\(?([A-Ha-h])\)?\W*$", text
    )
    if match and (match[1] or match[2] or match[3] or not by_name):
        letter = _letter(match).upper()
        return letter if letter in options else None
    return by_name[0] if by_name else None
