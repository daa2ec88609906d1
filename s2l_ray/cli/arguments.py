"""Parser, argument types and options that the commands share."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from typing import Any, NoReturn, TypeAlias

from s2l_ray.errors import readable, shown

Commands: TypeAlias = "argparse._SubParsersAction[Any]"

_MAX_WIDTH = 100


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with names in one column and explanations in the rest of the terminal; descriptions are not rewrapped."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=min(_MAX_WIDTH, shutil.get_terminal_size().columns) - 2)
        self._action_max_length = 14  # argparse forgets that the names of subcommands are indented

    def _format_action(self, action: argparse.Action) -> str:
        """Format the commands as a plain list, because they already have a heading."""
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        return "".join(map(self._format_action, action._get_subactions()))


class Parser(argparse.ArgumentParser):
    """Argument parser with s2l's help format; its subparsers are of this class, too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _Help} | options)

    def error(self, message: str) -> NoReturn:
        super().error(readable(message))


class Once(argparse.Action):
    """Option that may be given only once; argparse itself would silently drop the first of two values."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if self.dest in given:
            parser.error(f"argument {option_string}: given twice; one of them would be lost, so give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def budget(text: str) -> int | float:
    """Parse a budget: a count of examples (`20000`) or a share of them (`0.3`, `30%`)."""
    from s2l_ray.config.subset_names import parse_budget

    try:
        return parse_budget(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is neither a count nor a share; give, for example, 20000, 0.3 or 30%"
        ) from None


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
