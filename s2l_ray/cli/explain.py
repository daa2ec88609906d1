"""Explain a field of the configuration."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import Any

from s2l_ray.cli.arguments import Commands, add_json, print_json
from s2l_ray.cli.completion import complete_fields

_ABOUT = """\
Explain a field of the configuration: its meaning, type, default, bounds and
unit. For a section, list its fields; without a name, list the sections."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    explain = commands.add_parser("explain", help="explain a setting", description=_ABOUT)
    named = explain.add_argument(
        "field", metavar="FIELD", nargs="?", default="", help="e.g. selection.budgets, or clusters"
    )
    named.completer = complete_fields
    add_json(explain)
    explain.set_defaults(call=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    from s2l_ray.config.describe import describe

    described = describe(arguments.field.partition("=")[0].strip())
    if arguments.json:
        print_json([one.plain() for one in described])
        return 0
    width = min(100, shutil.get_terminal_size().columns)
    for number, one in enumerate(described):
        of_a_list = len(described) > 1 and number > 0
        print("\n".join(_lines(one, width, "  " if of_a_list else "")))
    if not arguments.field:
        print("\ns2l explain SECTION lists its fields.")
    return 0


def _lines(one: Any, width: int, indent: str) -> list[str]:
    facts = [] if one.type == "section" else [one.type, f"default {one.default}" if one.default else "required"]
    facts += [one.bounds] if one.bounds else []
    head = one.path or "A configuration has these sections and fields:"
    first = f"{indent}{head}" + (f"  ({'; '.join(facts)})" if facts else "")
    text = one.text if one.path else ""
    return [
        *textwrap.wrap(first, width, subsequent_indent=indent + "    ", break_on_hyphens=False),
        *textwrap.wrap(text, width, initial_indent=indent + "    ", subsequent_indent=indent + "    "),
    ]
