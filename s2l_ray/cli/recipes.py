"""The configurations that ship with s2l_ray."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Its arguments."""
    recipes = commands.add_parser("recipes", help="the configurations that ship with s2l_ray; with a name, its YAML")
    recipes.add_argument("name", nargs="?")
    recipes.set_defaults(call=_recipes)


def _recipes(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import list_recipes, load_config, to_yaml

    if arguments.name:
        print(to_yaml(load_config(arguments.name)), end="")
    else:
        print("\n".join(list_recipes()))
    return 0
