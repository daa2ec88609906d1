"""List the configurations that ship with s2l_ray, or print one of them."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, add_json, print_json
from s2l_ray.cli.completion import complete_recipes

_ABOUT = """\
List the configurations that ship with s2l_ray. With a name, print that one in
full, as a file to start from: s2l recipes quickstart > my.yaml"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    recipes = commands.add_parser("recipes", help="list the configurations that ship with s2l_ray", description=_ABOUT)
    name = recipes.add_argument("name", metavar="NAME", nargs="?", help="print this one with every setting resolved")
    name.completer = complete_recipes
    add_json(recipes)
    recipes.set_defaults(call=_recipes)


def _recipes(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import list_recipes, load_config, recipe_summary, to_yaml

    if arguments.name:
        config = load_config(arguments.name)
        if arguments.json:
            print_json(config.stored())
        else:
            print(to_yaml(config), end="")
        return 0
    summaries = {name: recipe_summary(name) for name in list_recipes()}
    if arguments.json:
        print_json([{"name": name, "summary": summary} for name, summary in summaries.items()])
        return 0
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:{width}}  {summary}")
    return 0
