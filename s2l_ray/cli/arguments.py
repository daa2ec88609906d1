"""Parser, argument types and options that the commands share."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
import textwrap
from typing import Any, NoReturn, TypeAlias

from s2l_ray.errors import readable, shown
from s2l_ray.text.nearest import nearest
from s2l_ray.text.redact import redact_command

Commands: TypeAlias = "argparse._SubParsersAction[Any]"

_MAX_WIDTH = 100


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with names in one column and explanations in the rest of the terminal. Sentences are rewrapped only where
    the terminal is narrower than they are; indented lines, which are commands to copy, never are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=min(_MAX_WIDTH, shutil.get_terminal_size().columns) - 2)
        self._action_max_length = 14  # argparse forgets that the names of subcommands are indented

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}\n" for line in _wrapped(text, self._width)).removesuffix("\n")

    def _format_usage(self, usage: str | None, *arguments: Any) -> str:
        made = super()._format_usage(usage, *arguments)
        if max(map(len, made.splitlines())) <= self._width + 2:
            return made
        words = " ".join(made.split())
        return textwrap.fill(words, self._width, subsequent_indent=" " * 9, break_on_hyphens=False) + "\n\n"

    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else "\n".join(_wrapped(heading, self._width - 1)))

    def _format_action(self, action: argparse.Action) -> str:
        """Format the commands as a plain list, because they already have a heading."""
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        return "".join(map(self._format_action, action._get_subactions()))


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text; sentences with a line that does not fit are wrapped anew."""
    lines: list[str] = []
    for is_verbatim, group in itertools.groupby(text.splitlines(), lambda line: not line or line[0] == " "):
        given = list(group)
        fits = is_verbatim or max(map(len, given)) <= width + 2  # descriptions are written for 80 columns, not 78
        lines += given if fits else textwrap.wrap(" ".join(given), width, break_on_hyphens=False)
    return lines


class Parser(argparse.ArgumentParser):
    """Argument parser with s2l's help format; its subparsers are of this class, too.

    What argparse itself would drop without a word is refused: the first of two values of an option, and values that are
    empty, which are most often a variable of the shell that is not set.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _Help} | options)
        for name in (None, "store"):
            self.register("action", name, _stored)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a message. argparse would drop help that cannot be written, and the command would seem to succeed."""
        if file is None or file is sys.stderr:
            super()._print_message(message, file)
        else:
            file.write(message)

    def error(self, message: str) -> NoReturn:
        super().error(readable(message))

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.nargs != argparse.PARSER and any(not text.strip() for text in arg_strings):
            cure = "leave the option out" if action.option_strings else "check the variables of the shell"
            raise argparse.ArgumentError(action, f"is empty, so it says nothing; give a value, or {cure}")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            near = nearest(str(value), known)
            kind = "a command" if action.nargs == argparse.PARSER else "a known value"
            cure = f"did you mean {near}?" if near else f"choose from {', '.join(known)}"
            if action.nargs == argparse.PARSER and value in ("help", "version"):
                cure = f"write s2l --{value}"
            raise argparse.ArgumentError(action, f"{shown(value)} is not {kind}; {cure}")


class Once(argparse.Action):
    """Option that may be given only once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if self.dest in given:
            parser.error(f"argument {option_string}: given twice; one of them would be lost, so give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _stored(option_strings: list[str], dest: str, **settings: Any) -> argparse.Action:
    """The action of arguments that name none. Positional ones cannot be given twice, and argcomplete knows theirs."""
    if settings.get("nargs") == argparse.ZERO_OR_MORE:
        settings["required"] = False  # argparse would call none of them one too few
    return (Once if option_strings else argparse._StoreAction)(option_strings, dest, **settings)


def refuse_unknown(parser: Parser, command: str | None, unknown: list[str]) -> NoReturn:
    """End with an error for arguments that the command does not have, naming the nearest that it has."""
    [commands] = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    asked: Parser = commands.get(command or "", parser)
    name = unknown[0].partition("=")[0]
    near = nearest(name, asked._option_string_actions)
    cure = f"did you mean {near}?" if near else f"`{asked.prog} --help` lists what it knows"
    if near == name:  # s2l --json recipes
        cure = f"write it behind the command: {asked.prog} … {near}"
    given = "arguments" if len(unknown) > 1 else "argument"
    asked.error(f"unknown {given} {redact_command(unknown)}; {cure}")


def budget(text: str) -> int | float:
    """Parse a budget: a count of examples (`20000`) or a share of them (`0.3`, `30%`)."""
    from s2l_ray.config.budgets import is_budget
    from s2l_ray.config.subset_names import parse_budget

    try:
        found = parse_budget(text)
    except ValueError:
        found = 0
    if not is_budget(found):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is neither a count (1 or more) nor a share (above 0, at most 1 or 100%); give, for "
            "example, 20000, 0.3 or 30%"
        )
    return found


def share(text: str) -> float:
    """Parse a share: `0.01`, `1%`. Its bounds are the setting's."""
    from s2l_ray.config.subset_names import parse_budget

    try:
        return float(parse_budget(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a share; give, for example, 0.01 or 1%") from None


def count(text: str) -> int:
    """Parse a whole number of 0 or more."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a count; give a whole number, 0 or more")
    return int(text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which every read-only command has."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def print_json(value: Any) -> None:
    """Print JSON in ASCII, which every terminal can show."""
    print(json.dumps(value, indent=2, allow_nan=False))
