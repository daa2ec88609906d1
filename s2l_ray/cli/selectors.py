"""List the selectors."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, add_json, print_json

_ABOUT = "List all selectors, including those of other installed packages."


def add_to(commands: Commands) -> None:
    """Its arguments."""
    selectors = commands.add_parser("selectors", help="list the selectors", description=_ABOUT)
    add_json(selectors)
    selectors.set_defaults(call=_selectors)


def _selectors(arguments: argparse.Namespace) -> int:
    from s2l_ray.selection import describe_selectors, list_selectors

    if arguments.json:
        print_json([{"name": one.name, "summary": one.summary} for one in list_selectors()])
    else:
        print(describe_selectors())
    return 0
