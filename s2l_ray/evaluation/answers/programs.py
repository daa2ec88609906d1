"""Finds the program in a completion: fenced, bare, or surrounded by prose. It is parsed, never compiled or run here."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings

from s2l_ray.evaluation.answers.text import cut_after_answer

MAX_CHARACTERS = 50_000
"""Longer completions (characters) are not searched for a program."""
_MAX_TRIES = 60

_FENCE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)(?P<rest>[^\n]*)\n(?P<code>.*?)"
    r"(?:(?P<closed>^[ \t]*(?P=fence)[`~]*[ \t]*$|(?<=[^`~\n])(?P=fence)[ \t]*$)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: |$)", re.MULTILINE)
_INVISIBLE = str.maketrans({"\u00a0": " ", **dict.fromkeys("\ufeff\u200b\u2060", None)})
_CODE_LINE = re.compile(
    r"(?:import|from|def|class|for|while|if|with|try|print\s*\(|@|#"
    r"|[A-Za-z_][\w, ]*(?:\[[^\]]*\])?\s*[-+*/]?=[^=])"
)


def find_program(completion: str) -> str | None:
    """The source of the program in a completion; None if there is none.

    Fenced blocks take precedence over bare text; of several blocks, those are used that together print something, in
    their order. Prose before and after bare code is dropped: the longest run of lines that parses is used.
    """
    text = completion.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    text = cut_after_answer(text)
    if len(text) > MAX_CHARACTERS or "\x00" in text:
        return None
    blocks = [code for match in _FENCE.finditer(text) if (code := _code(match)) is not None]
    if blocks:
        return _of_blocks(blocks)
    text = re.sub(r"\A\s*`([^`]+)`\s*\Z", r"\1", text)
    if "print(" not in text and not parses(text):
        return None
    return _bare(textwrap.dedent(_without_prompts(text).strip("\n")))


def _code(match: re.Match[str]) -> str | None:
    """The content of a fenced block if it may be Python."""
    language, rest = match["language"].lower(), match["rest"].strip()
    if language not in ("", "python", "py", "python3"):
        return None
    code = textwrap.dedent(_without_prompts(match["code"])).strip("\n")
    if rest and parses(rest) and parses(f"{rest}\n{code}"):
        code = f"{rest}\n{code}"  # ```python x = 5
    return code if match["closed"] or parses(code) else _bare(code)


def _without_prompts(text: str) -> str:
    """The code of an interpreter session, without prompts and output."""
    if not re.match(r"\s*>>> ", text):
        return text
    return "\n".join(_PROMPT.sub("", line) for line in text.split("\n") if _PROMPT.match(line))


def parses(source: str) -> bool:
    """Whether a text is Python, without compiling it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body)


def _of_blocks(blocks: list[str]) -> str | None:
    blocks = [block for block in blocks if block.strip()]
    if any("print(" in block and parses(block) for block in blocks):
        blocks = [block for block in blocks if parses(block)]  # the others are the program's output
    for block in reversed(blocks[1:]):
        if "print(" in block and parses(block) and not _missing_names(block):
            return block  # a later version of the program, not its next part
    return "\n".join(blocks) or None


def _missing_names(source: str) -> set[str]:
    """The names that a program reads but never binds."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {name.id for name in names if not isinstance(name.ctx, ast.Load)} | set(dir(builtins)) | {"__name__"}
    for node in nodes:
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.ExceptHandler):
            bound.add(node.name or "")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return set()
            bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return {name.id for name in names} - bound


def _bare(text: str) -> str:
    """The lines from the first that looks like code to the last with which they parse; the whole text if none do."""
    if parses(text):
        return text
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if _CODE_LINE.match(line)), 0)
    for last in range(len(lines), max(first, len(lines) - _MAX_TRIES), -1):
        candidate = "\n".join(lines[first:last])
        if "print(" in candidate and parses(candidate):
            return candidate
    return "\n".join(lines[first:])
