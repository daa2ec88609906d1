"""One more subset from a finished run."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, Once, budget


def add_to(commands: Commands) -> None:
    """Its arguments."""
    select = commands.add_parser("select", help="one more subset from a finished run; seconds, nothing retrained")
    select.add_argument("run", help="the run's folder")
    select.add_argument("--budget", required=True, action=Once, type=budget, help="count (20000) or share (0.2)")
    select.add_argument("--selector", action=Once, default="s2l", help="s2l (default), random, random_per_source")
    select.add_argument("--seed", action=Once, type=int, help="default: the run's")
    select.add_argument(
        "--stratify", action=Once, nargs="?", const=True, metavar="COLUMN",
        help="balance sources first (or the values of a facet), then clusters",
    )  # fmt: skip
    select.set_defaults(call=_select)


def _select(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.models import SubsetArtifact
    from s2l_ray.workflow import commands

    stage = commands.select(arguments.run, arguments.budget, arguments.selector, arguments.seed, arguments.stratify)
    for name in SubsetArtifact.of(stage).files:
        print(f"{stage.storage.uri}/{name}")
    return 0
