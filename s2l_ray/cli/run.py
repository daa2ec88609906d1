"""Run a configuration from the raw corpus to subsets and targets."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from s2l_ray.cli.arguments import Commands, add_json, print_json
from s2l_ray.cli.completion import complete_configs, complete_overrides

_ABOUT = """\
Run a configuration from the raw corpus to the selected subsets and, if it has a
`target` section, to fine-tuned targets. Run the same command again to resume;
complete stages are not repeated."""
_EXAMPLES = """\
examples:
  s2l run quickstart
  s2l run my.yaml proxy.epochs=1 selection.budgets=[0.05,0.11]
  s2l run my.yaml --dry-run          exit code 2 if the run would be refused"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    run = commands.add_parser(
        "run", help="from a corpus to subsets and fine-tuned targets", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l run CONFIG [section.field=value ...] [options]",
    )  # fmt: skip
    config = run.add_argument("config", metavar="CONFIG", help="a recipe (see s2l recipes) or a YAML file")
    overrides = run.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="settings that replace the file's (s2l explain)"
    )
    config.completer = complete_configs
    overrides.completer = complete_overrides
    run.add_argument("--dry-run", action="store_true", help="show what would be done and its cost; start nothing")
    run.add_argument("--resolved", action="store_true", help="with --dry-run: also print every setting")
    add_json(run)
    run.add_argument("--select-only", action="store_true", help="stop after the subsets")
    run.set_defaults(call=_run)


def _run(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import load_config
    from s2l_ray.config.load import ConfigError

    config = load_config(arguments.config, arguments.overrides)
    for name in ("resolved", "json"):
        if getattr(arguments, name) and not arguments.dry_run:
            raise ConfigError(f"--{name} is about what --dry-run prints and would do nothing here; add --dry-run")
    if arguments.dry_run and arguments.select_only:
        config = config.model_copy(update={"target": None})
    if arguments.dry_run:
        return _dry_run(config, arguments)
    from s2l_ray.workflow import commands

    run = commands.run(config, select_only=arguments.select_only)
    from s2l_ray.reporting.summary import summary_lines
    from s2l_ray.reporting.write import report_line

    print("\n".join(summary_lines(run)), flush=True)  # drawing takes seconds; show the results before that
    print(report_line(run))
    return 0


def _dry_run(config: Any, arguments: argparse.Namespace) -> int:
    from s2l_ray.config import to_yaml
    from s2l_ray.errors import listed
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.dry_run import dry_run

    result = dry_run(config)
    if arguments.json:
        print_json(result.plain())
    else:
        print("# what it would take")
        print("\n".join(printable(line) for line in result.lines()))
        print("\n# what differs from the defaults\n" + printable(result.differences(), keep="\n"))
        if arguments.resolved:
            print("# resolved configuration\n" + printable(to_yaml(config), keep="\n"))
        print("Dry run: nothing was started.", flush=True)
    if result.refusals:
        reasons = [printable(reason, keep="\n") for reason in listed(result.refusals)]
        said = reasons[0] if len(reasons) == 1 else "\n" + "\n".join(f"  - {reason}" for reason in reasons)
        print(f"s2l: the run would be refused: {said}", file=sys.stderr)
    return 2 if result.refusals else 0
