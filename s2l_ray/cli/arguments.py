"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn, TypeAlias

from s2l_ray.errors import readable, shown

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


class Parser(argparse.ArgumentParser):
    """Its subparsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        super().error(readable(message))


class Once(argparse.Action):
    """An option's value; given twice, argparse would drop the first without a word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if self.dest in given:
            parser.error(f"argument {option_string}: given twice, so one would be lost; give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def budget(text: str) -> int | float:
    """A count of examples, or a share of them."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither a count nor a share") from None
