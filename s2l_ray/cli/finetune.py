"""Fine-tune the target on a subset of a finished run, or on everything."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, Once, budget


def add_to(commands: Commands) -> None:
    """Its arguments."""
    finetune = commands.add_parser(
        "finetune", help="fine-tune the target on a subset (or everything) of a finished run"
    )
    finetune.add_argument("run", help="the run's folder")
    finetune.add_argument(
        "overrides", nargs="*", metavar="target.field=value", help="e.g. target.model=microsoft/phi-2"
    )
    what = finetune.add_mutually_exclusive_group()
    what.add_argument(
        "--budget", action=Once, type=budget, help="count (20000) or share (0.11); default: the run's first"
    )
    what.add_argument("--full", action="store_true", help="the full data, the yardstick")
    finetune.add_argument(
        "--subset",
        action=Once,
        default=None,
        help="the selector: s2l, random, random_per_source; default: the run's first",
    )
    finetune.set_defaults(call=_finetune)


def _finetune(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.run import load_run
    from s2l_ray.config.load import ConfigError
    from s2l_ray.reporting.summary import target_lines
    from s2l_ray.reporting.write import report_line
    from s2l_ray.workflow import commands

    if arguments.full and arguments.subset:
        raise ConfigError(f"--full is all of the data and --subset {arguments.subset} a part of it; give one of them")
    stage = commands.finetune(
        arguments.run, "full" if arguments.full else None, arguments.overrides,
        budget=arguments.budget, selector=arguments.subset,
    )  # fmt: skip
    run = load_run(arguments.run)
    run.stages[stage.name] = stage  # with the target that was asked for now
    print("\n".join(target_lines(run)), flush=True)
    print(report_line(run))
    return 0
