"""Clusters, losses, sample examples, what was quarantined."""

from __future__ import annotations

import argparse
import sys

from s2l_ray.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Its arguments."""
    inspect = commands.add_parser("inspect", help="clusters, losses, sample examples, quarantine")
    inspect.add_argument("run", help="the run's folder")
    inspect.add_argument("--clusters", type=int, default=20, help="how many to show (20); 0: all")
    inspect.add_argument("--examples", type=int, default=1, help="sample examples per cluster (1)")
    inspect.add_argument("--source", default="", help="only examples of this source")
    inspect.add_argument("--by", default="", metavar="COLUMN", help="losses and subsets by the values of this facet")
    inspect.set_defaults(call=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from s2l_ray.artifacts.run import load_run
    from s2l_ray.reporting.inspect import inspect_run

    console = Console() if sys.stdout.isatty() else Console(width=160)
    inspect_run(
        load_run(arguments.run), console, arguments.clusters or None, arguments.examples, arguments.source, arguments.by
    )
    return 0
