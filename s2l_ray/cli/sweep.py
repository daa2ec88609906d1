"""How much data is enough?"""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, Once

_SWEEP = """\
How much data is enough? Fine-tunes the target on subsets of every size and selector in section `sweep`, once a seed,
and on the full data, several at once, and compares their losses on held-out examples."""
_SWEEP_MORE = """\
The configuration needs a `target` and held-out examples (heldout.share or heldout.files). Proxy, trajectories and
clusters are computed once; what is finished is never repeated, whatever stopped the sweep.

  s2l sweep my.yaml sweep.budgets=[0.05,0.1,0.2] sweep.selectors=[s2l,random] sweep.num_seeds=3
  s2l sweep my.yaml sweep.budgets=[0.05,0.1,0.2,0.3]      one more budget: only its trials are trained
  s2l sweep my.yaml --find-smallest --within 0.01         the smallest budget within 1 % of the full data

Leaves in RUN_DIR/sweep: results.parquet and .csv (a row per trial, held-out set and source), report.json, and
budget, cost and sources as .png and .svg; each trial's progress in logs/.
Exit code 0: all trials done; 1: some failed, and are named; 2: refused, nothing was started."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    sweep = commands.add_parser(
        "sweep", help="how much data is enough? one table, one curve", description=_SWEEP, epilog=_SWEEP_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sweep.add_argument("config", help="a recipe, a YAML file, or the folder of a run, which it goes on with")
    sweep.add_argument("overrides", nargs="*", metavar="section.field=value", help="e.g. sweep.budgets=[0.05,0.1,0.2]")
    sweep.add_argument(
        "--find-smallest", action="store_true",
        help="the smallest budget that is good enough: predicted with the proxy's model, confirmed with the target",
    )  # fmt: skip
    sweep.add_argument(
        "--within",
        action=Once,
        type=float,
        metavar="SHARE",
        help="good enough: at most so much worse than the full data (0.01 = 1 %%)",
    )
    sweep.add_argument(
        "--resume", action="store_true", help="refuse to start anew: CONFIG must be a run's folder (any sweep goes on)"
    )
    sweep.set_defaults(call=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.run import read_config
    from s2l_ray.reporting.write import report_line
    from s2l_ray.storage.folder import Storage
    from s2l_ray.sweeps.run import sweep

    if arguments.resume:
        read_config(Storage.open(arguments.config))  # says it if there is no run to go on with
    result = sweep(
        arguments.config, arguments.overrides, find_smallest=arguments.find_smallest, within=arguments.within
    )
    print("\n".join(result.lines), flush=True)
    print(report_line(result.run))
    return 1 if result.failed else 0
