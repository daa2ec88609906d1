"""Print the JSON schema of the configuration, for editors."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, print_json

_ABOUT = """\
Print the JSON schema of configuration files, for completion and validation in
editors. Write it to the folder of the YAML file,

  s2l schema > s2l.schema.json

and start the YAML file with the line

  # yaml-language-server: $schema=s2l.schema.json"""


def add_to(commands: Commands) -> None:
    """Add the command, which has no arguments."""
    schema = commands.add_parser(
        "schema", help="print the configuration's JSON schema, for editors", description=_ABOUT
    )
    schema.set_defaults(call=_schema)


def _schema(arguments: argparse.Namespace) -> int:
    from s2l_ray.config.describe import json_schema

    print_json(json_schema())
    return 0
