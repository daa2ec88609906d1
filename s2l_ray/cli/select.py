"""Choose one more subset from a finished run."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, budget, count
from s2l_ray.errors import shown

_ABOUT = """\
Choose one more subset from the trajectories of a finished run. Takes seconds;
nothing is trained again. Prints the files it writes."""
_EXAMPLES = """\
examples:
  s2l select runs/my --budget 30%                 evenly over the clusters
  s2l select runs/my --subset random-0.3          a random one of that size
  s2l select runs/my --budget 5000 --stratify     sources balanced first
  s2l select runs/my --budget 30% selection.allocation_exponent=0.5"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    select = commands.add_parser(
        "select",
        help="choose one more subset from a finished run",
        description=_ABOUT,
        epilog=_EXAMPLES,
        usage="s2l select RUN (--budget BUDGET | --subset NAME) [options] [overrides]",
    )
    select.add_argument("run", metavar="RUN", help="the run's folder")
    select.add_argument(
        "overrides", nargs="*", metavar="selection.field=value", help="settings of the section selection"
    )
    size = select.add_mutually_exclusive_group(required=True)
    size.add_argument("--budget", type=budget, help="a count (20000) or a share (0.3, 30%%)")
    size.add_argument("--subset", metavar="NAME", help="selector and budget in one: s2l-0.3")
    select.add_argument(
        "--selector", metavar="NAME", help="with --budget (see `s2l selectors`); default: the run's first"
    )
    select.add_argument("--seed", type=count, metavar="N", help="default: the run's")
    select.add_argument(
        "--stratify", nargs="?", const=True, type=_column, metavar="COLUMN",
        help="balance sources (or the values of a facet) first, then clusters",
    )  # fmt: skip
    select.set_defaults(call=_select)


def _column(text: str) -> str:
    """Parse a column name, refusing an override that argparse takes for one because it follows `--stratify`."""
    if "=" in text:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is a setting, not a column; put --stratify last, or before another option"
        )
    return text


def _select(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.models import SubsetArtifact
    from s2l_ray.artifacts.run import read_config
    from s2l_ray.config.load import ConfigError
    from s2l_ray.config.subset_names import parse_subset_name
    from s2l_ray.storage.folder import Storage
    from s2l_ray.workflow import commands

    budget, selector, stratify = arguments.budget, arguments.selector, arguments.stratify
    if arguments.subset is not None:
        named = parse_subset_name(arguments.subset)
        if named is None:
            raise ConfigError(
                f"--subset {shown(arguments.subset)} names no selector and budget, so nothing can be chosen; write, "
                "for example, s2l-0.3"
            )
        if arguments.selector is not None:
            raise ConfigError(
                f"--subset {arguments.subset} and --selector {arguments.selector} name different selectors; give only "
                "one of the two options"
            )
        budget, selector = named.budget, named.selector
        if stratify is None:
            stratify = commands.stratify_of(read_config(Storage.open(arguments.run)), named)
    stage = commands.select(arguments.run, budget, selector, arguments.seed, stratify, arguments.overrides)
    for name in SubsetArtifact.of(stage).files:
        print(stage.storage.uri_of(name))
    return 0
