"""Fine-tune the target on a subset of a finished run, or on everything."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, budget
from s2l_ray.cli.completion import complete_subsets

_ABOUT = """\
Fine-tune the target on one subset of a finished run, or on the full data, and
evaluate it before and after. A subset that does not exist is selected first."""
_EXAMPLES = """\
examples:
  s2l finetune runs/my --subset s2l-0.11         the configuration's target
  s2l finetune runs/my target.model=microsoft/phi-2 --subset s2l-0.11
  s2l finetune runs/my --subset random-0.11      a baseline of the same size
  s2l finetune runs/my --full                    all the data, for comparison"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    finetune = commands.add_parser(
        "finetune", help="fine-tune the target on a subset, or on everything", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l finetune RUN [--subset NAME | --full] [section.field=value ...]",
    )  # fmt: skip
    finetune.add_argument("run", metavar="RUN", help="the run's folder")
    finetune.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="settings of target, loggers, resources, estimates"
    )
    what = finetune.add_mutually_exclusive_group()
    named = what.add_argument("--subset", metavar="NAME", help="s2l-0.11, random-20000, ...; default: the run's first")
    named.completer = complete_subsets
    what.add_argument("--full", action="store_true", help="the full data")
    finetune.add_argument("--budget", type=budget, help="instead of --subset: a count (20000) or a share (0.11, 11%%)")
    finetune.add_argument("--selector", metavar="NAME", help="with --budget; default: the run's first")
    finetune.set_defaults(call=_finetune)


def _finetune(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.run import load_run
    from s2l_ray.config.load import ConfigError
    from s2l_ray.reporting.summary import target_lines
    from s2l_ray.reporting.write import report_line
    from s2l_ray.workflow import commands

    named = "--full" if arguments.full else f"--subset {arguments.subset}" if arguments.subset else None
    for name in ("budget", "selector"):
        value = getattr(arguments, name)
        if named is not None and value is not None:
            raise ConfigError(
                f"{named} fully determines what to fine-tune on, and --{name} {value} contradicts it; give one of them"
            )
    stage = commands.finetune(
        arguments.run, "full" if arguments.full else arguments.subset, arguments.overrides,
        budget=arguments.budget, selector=arguments.selector,
    )  # fmt: skip
    run = load_run(arguments.run)
    run.stages[stage.name] = stage  # so that the tables include the target just requested
    print("\n".join(target_lines(run)), flush=True)
    print(report_line(run))
    return 0
