"""Sweep budgets, selectors and seeds to find out how much data is enough."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, add_json, print_json, share
from s2l_ray.cli.completion import complete_configs, complete_overrides

_ABOUT = """\
Find out how much data is enough: fine-tune the target on subsets of every size
and selector in the `sweep` section, and on the full data, once per seed, and
compare their held-out losses. The configuration needs a `target` section and
held-out examples. Finished work is never repeated."""
_EXAMPLES = """\
examples:
  s2l sweep my.yaml sweep.budgets=[0.05,0.1,0.2] sweep.num_seeds=3
  s2l sweep my.yaml --find-smallest --within 0.01
Results are in RUN/sweep/. Exit code 1 means that some trials failed; they are
named."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    sweep = commands.add_parser(
        "sweep", help="find out how much data is enough", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l sweep CONFIG [section.field=value ...] [options]",
    )  # fmt: skip
    config = sweep.add_argument(
        "config", metavar="CONFIG", help="recipe, YAML file, or the folder of a run to continue"
    )
    overrides = sweep.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="settings that replace the file's"
    )
    config.completer, overrides.completer = complete_configs, complete_overrides
    sweep.add_argument("--find-smallest", action="store_true", help="find the smallest budget that is good enough")
    sweep.add_argument(
        "--within", type=share, metavar="SHARE", help="at most this much worse than the full data (0.01)"
    )
    sweep.add_argument("--dry-run", action="store_true", help="show the trials and their cost; start nothing")
    add_json(sweep)
    sweep.add_argument("--resume", action="store_true", help="only continue: CONFIG must be a run's folder")
    sweep.set_defaults(call=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from s2l_ray.api import sweep
    from s2l_ray.artifacts.run import read_config
    from s2l_ray.errors import UserError
    from s2l_ray.reporting.write import report_line
    from s2l_ray.storage.folder import Storage

    if arguments.resume:
        read_config(Storage.open(arguments.config))  # raises an error if there is no run to continue
    if arguments.dry_run:
        return _dry_run(arguments)
    if arguments.json:
        raise UserError(
            "--json is about what --dry-run prints and would do nothing here; add --dry-run, or read a sweep's results "
            "from RUN/sweep/"
        )
    result = sweep(
        arguments.config, arguments.overrides, find_smallest=arguments.find_smallest, within=arguments.within
    )
    print("\n".join(result.lines), flush=True)
    print(report_line(result.run))
    return 1 if result.failed else 0


def _dry_run(arguments: argparse.Namespace) -> int:
    from s2l_ray.sweeps.dry_run import sweep_dry_run
    from s2l_ray.text.display import printable

    made = sweep_dry_run(
        arguments.config, arguments.overrides, find_smallest=arguments.find_smallest, within=arguments.within
    )
    if arguments.json:
        print_json(made.facts)
    else:
        print("\n".join(map(printable, made.lines)))
    return 0
