"""Show a run's clusters, losses, sample examples and quarantine."""

from __future__ import annotations

import argparse
import sys

from s2l_ray.cli.arguments import Commands, add_json, count, print_json

_ABOUT = """\
Show the contents of a run, finished or not: its stages, clusters with their
losses and sample examples, targets, and what was quarantined and why. Changes
nothing."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    inspect = commands.add_parser("inspect", help="show clusters, losses, examples, quarantine", description=_ABOUT)
    inspect.add_argument("run", metavar="RUN", help="the run's folder")
    which = inspect.add_mutually_exclusive_group()
    which.add_argument("--clusters", type=count, metavar="N", help="number of clusters to show (20); 0: all")
    which.add_argument("--cluster", type=count, metavar="K", help="show only this cluster, with more examples")
    inspect.add_argument(
        "--examples", type=count, metavar="N", help="sample examples per cluster (1; with --cluster 10)"
    )
    inspect.add_argument("--source", default="", metavar="NAME", help="only examples of this source")
    inspect.add_argument("--by", default="", metavar="COLUMN", help="break losses and subsets down by this facet")
    add_json(inspect)
    inspect.set_defaults(call=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.run import load_run

    run = load_run(arguments.run)
    examples = arguments.examples
    if examples is None:
        examples = 1 if arguments.cluster is None else 10
    clusters = 20 if arguments.clusters is None else arguments.clusters
    wanted = (clusters or None, examples, arguments.source, arguments.by, arguments.cluster)
    if arguments.json:
        from s2l_ray.reporting.inspect_facts import run_facts

        print_json(run_facts(run, *wanted))
        return 0
    from rich.console import Console

    from s2l_ray.reporting.inspect import inspect_run

    inspect_run(run, Console() if sys.stdout.isatty() else Console(width=160), *wanted)
    return 0
