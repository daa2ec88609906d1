"""From a raw corpus to chosen subsets, and to targets where there are some."""

from __future__ import annotations

import argparse
from typing import Any

from s2l_ray.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Its arguments."""
    run = commands.add_parser("run", help="from a raw corpus to chosen subsets; goes on where it stopped")
    run.add_argument("config", help="a recipe (see `s2l recipes`) or a YAML file")
    run.add_argument("overrides", nargs="*", metavar="section.field=value", help="e.g. selection.budgets=[0.05,0.11]")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it would cost; start nothing"
    )
    run.add_argument("--select-only", action="store_true", help="end with the subsets; leave a target to s2l finetune")
    run.set_defaults(call=_run)


def _run(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.dry_run and arguments.select_only:
        config = config.model_copy(update={"target": None})
    if arguments.dry_run:
        return _dry_run(config)
    from s2l_ray.reporting.summary import summary_lines
    from s2l_ray.reporting.write import report_line
    from s2l_ray.workflow import commands

    run = commands.run(config, select_only=arguments.select_only)
    print("\n".join(summary_lines(run)), flush=True)  # drawing takes seconds; what was done can be read before
    print(report_line(run))
    return 0


def _dry_run(config: Any) -> int:
    from s2l_ray.config import to_yaml
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.estimate import complete_stages, estimate

    print("# resolved configuration\n" + printable(to_yaml(config), keep="\n"))
    print("# what it would take")
    print("\n".join(estimate(config).lines(config)))
    last = [f"subset/{name}" for name in config.subset_budgets()]
    print("stages        corpus → tokens → proxy → trajectories → clusters → " + ", ".join(last))
    if config.target_subsets():
        print("              → " + ", ".join(f"target/{name}" for name in config.target_subsets()))
    there = complete_stages(config)
    if there is not None and there.stages:
        print(f"already there {', '.join(there.stages)} (skipped if their settings and inputs have not changed)")
    print("Dry run: nothing was started.")
    return 0
