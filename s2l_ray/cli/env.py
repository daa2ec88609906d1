"""Print versions and hardware, for bug reports."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, add_json, print_json

_ABOUT = """\
Print the versions, processors, memory and GPUs of this machine, and how Ray
would be reached, for bug reports. Starts nothing and prints no secrets."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    env = commands.add_parser("env", help="print versions and hardware, for bug reports", description=_ABOUT)
    add_json(env)
    env.set_defaults(call=_env)


def _env(arguments: argparse.Namespace) -> int:
    import os

    import s2l_ray
    from s2l_ray.execution.environment import describe_environment
    from s2l_ray.text.display import printable

    own = {"version": s2l_ray.__version__, "installed in": os.path.dirname(os.path.abspath(s2l_ray.__file__))}
    facts = {"s2l_ray": own, **describe_environment()}
    if arguments.json:
        print_json(facts)
        return 0
    for heading, values in facts.items():
        print(heading)
        for name, value in values.items():
            print(f"  {name:<22}  {printable(str(value))}")
    return 0
