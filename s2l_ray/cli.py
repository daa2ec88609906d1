"""The `s2l` command: parse, call the library, say errors in one piece."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from s2l_ray.errors import describe, exit_code, readable, shown
from s2l_ray.run_folder.redact import redact_command

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


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 refused before anything started, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

    What is refused is one of `s2l_ray.errors`; any other error is a failure, and said in one line with its type.
    """
    from s2l_ray.cluster.signals import INTERRUPTED, ending_signals

    arguments = _parse(argv)
    with ending_signals() as signals:
        try:
            return _call(arguments)
        except KeyboardInterrupt:
            code = signals.exit_code
            how = "interrupted" if code == INTERRUPTED else "stopped"
            with contextlib.suppress(OSError):
                print(f"\n{how}; complete stages stay, the same command goes on from there", file=sys.stderr)
            if code == INTERRUPTED:
                return code
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # the interpreter's own clean-up takes seconds; `ray job stop` kills after three


def _call(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.call(arguments) or 0)
    except Exception as error:
        if os.environ.get("S2L_TRACEBACK"):
            raise
        _say(error)
        return exit_code(error)


def _say(error: BaseException) -> None:
    """On a terminal that knows only ASCII, or none at all (nohup), this must not be the next error."""
    with contextlib.suppress(OSError, ValueError):
        encoding = sys.stderr.encoding or "utf-8"
        print(f"s2l: {describe(error)}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if "rest" in arguments:  # for another command, which will parse it
        arguments.rest = rest
        return arguments
    # argparse itself takes no override after an option: s2l run my.yaml --dry-run proxy.epochs=1
    if "overrides" in arguments:
        arguments.overrides += [r for r in rest if "=" in r and not r.startswith("-")]
        rest = [r for r in rest if r not in arguments.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {redact_command(rest)}")
    return arguments


class _Parser(argparse.ArgumentParser):
    """Its subparsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        super().error(readable(message))


def _parser() -> argparse.ArgumentParser:
    from s2l_ray.cluster.submit import add_arguments

    parser = _Parser(
        prog="s2l", description="Which part of your fine-tuning data is worth training on: S2L data selection on Ray."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="from a raw corpus to chosen subsets; goes on where it stopped")
    run.add_argument("config", help="a recipe (see `s2l recipes`) or a YAML file")
    run.add_argument("overrides", nargs="*", metavar="section.field=value", help="e.g. selection.budgets=[0.05,0.11]")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it would cost; start nothing"
    )
    run.add_argument("--select-only", action="store_true", help="end with the subsets; leave a target to s2l finetune")
    run.set_defaults(call=_run)

    select = commands.add_parser("select", help="one more subset from a finished run; seconds, nothing retrained")
    select.add_argument("run", help="the run's folder")
    select.add_argument("--budget", required=True, action=_Once, type=_budget, help="count (20000) or share (0.2)")
    select.add_argument("--selector", action=_Once, default="s2l", help="s2l (default), random, random_per_source")
    select.add_argument("--seed", action=_Once, type=int, help="default: the run's")
    select.add_argument(
        "--stratify", action=_Once, nargs="?", const=True, metavar="COLUMN",
        help="balance sources first (or the values of a facet), then clusters",
    )  # fmt: skip
    select.set_defaults(call=_select)

    finetune = commands.add_parser(
        "finetune", help="fine-tune the target on a subset (or everything) of a finished run"
    )
    finetune.add_argument("run", help="the run's folder")
    finetune.add_argument(
        "overrides", nargs="*", metavar="target.field=value", help="e.g. target.model=microsoft/phi-2"
    )
    what = finetune.add_mutually_exclusive_group()
    what.add_argument(
        "--budget", action=_Once, type=_budget, help="count (20000) or share (0.11); default: the run's first"
    )
    what.add_argument("--full", action="store_true", help="the full data, the yardstick")
    finetune.add_argument(
        "--subset",
        action=_Once,
        default=None,
        help="the selector: s2l, random, random_per_source; default: the run's first",
    )
    finetune.set_defaults(call=_finetune)

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
        action=_Once,
        type=float,
        metavar="SHARE",
        help="good enough: at most so much worse than the full data (0.01 = 1 %%)",
    )
    sweep.add_argument(
        "--resume", action="store_true", help="refuse to start anew: CONFIG must be a run's folder (any sweep goes on)"
    )
    sweep.set_defaults(call=_sweep)

    submit = commands.add_parser("submit", help="the same on a Ray cluster, as a job", allow_abbrev=False)
    add_arguments(submit)
    submit.set_defaults(call=_submit, rest=[])

    inspect = commands.add_parser("inspect", help="clusters, losses, sample examples, quarantine")
    inspect.add_argument("run", help="the run's folder")
    inspect.add_argument("--clusters", type=int, default=20, help="how many to show (20); 0: all")
    inspect.add_argument("--examples", type=int, default=1, help="sample examples per cluster (1)")
    inspect.add_argument("--source", default="", help="only examples of this source")
    inspect.add_argument("--by", default="", metavar="COLUMN", help="losses and subsets by the values of this facet")
    inspect.set_defaults(call=_inspect)

    verify = commands.add_parser(
        "verify", help="compare every file of a run with its digest; exit code 1 if one is bad"
    )
    verify.add_argument("run", help="the run's folder")
    verify.set_defaults(call=_verify)

    recipes = commands.add_parser("recipes", help="the configurations that ship with s2l_ray; with a name, its YAML")
    recipes.add_argument("name", nargs="?")
    recipes.set_defaults(call=_recipes)
    return parser


class _Once(argparse.Action):
    """An option's value; given twice, argparse would drop the first without a word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if self.dest in given:
            parser.error(f"argument {option_string}: given twice, so one would be lost; give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _budget(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither a count nor a share") from None


def _run(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.dry_run and arguments.select_only:
        config = config.model_copy(update={"target": None})
    if arguments.dry_run:
        return _dry_run(config)
    from s2l_ray import pipeline
    from s2l_ray.summary import summary_lines

    run = pipeline.run(config, select_only=arguments.select_only)
    print("\n".join(summary_lines(run)))
    return 0


def _dry_run(config: Any) -> int:
    from s2l_ray.config import to_yaml
    from s2l_ray.estimate import complete_stages, estimate
    from s2l_ray.run_folder.display import printable

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


def _select(arguments: argparse.Namespace) -> int:
    from s2l_ray import pipeline

    stage = pipeline.select(arguments.run, arguments.budget, arguments.selector, arguments.seed, arguments.stratify)
    for name in stage.manifest.extra["files"]:
        print(f"{stage.storage.uri}/{name}")
    return 0


def _finetune(arguments: argparse.Namespace) -> int:
    from s2l_ray import pipeline
    from s2l_ray.artifacts import load_run
    from s2l_ray.config.load import ConfigError
    from s2l_ray.summary import target_lines

    if arguments.full and arguments.subset:
        raise ConfigError(f"--full is all of the data and --subset {arguments.subset} a part of it; give one of them")
    stage = pipeline.finetune(
        arguments.run, "full" if arguments.full else None, arguments.overrides,
        budget=arguments.budget, selector=arguments.subset,
    )  # fmt: skip
    run = load_run(arguments.run)
    run.stages[stage.name] = stage  # with the target that was asked for now
    print("\n".join(target_lines(run)))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts import read_config
    from s2l_ray.run_folder import Storage
    from s2l_ray.sweep.run import sweep

    if arguments.resume:
        read_config(Storage.open(arguments.config))  # says it if there is no run to go on with
    result = sweep(
        arguments.config, arguments.overrides, find_smallest=arguments.find_smallest, within=arguments.within
    )
    print("\n".join(result.lines))
    return 1 if result.failed else 0


def _submit(arguments: argparse.Namespace) -> int:
    from s2l_ray.cluster.submit import submit

    parsed = _parse([arguments.command, arguments.what, *arguments.overrides, *arguments.rest])
    return submit(arguments, parsed)


def _inspect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from s2l_ray.artifacts import load_run
    from s2l_ray.inspect import inspect_run

    console = Console() if sys.stdout.isatty() else Console(width=160)
    inspect_run(
        load_run(arguments.run), console, arguments.clusters or None, arguments.examples, arguments.source, arguments.by
    )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from s2l_ray.run_folder import Progress, Storage
    from s2l_ray.verify import verify_run

    result = verify_run(Storage.open(arguments.run), Progress())
    print("\n".join(result.lines()))
    return 1 if result.problems or not result.num_files else 0


def _recipes(arguments: argparse.Namespace) -> int:
    from s2l_ray.config import list_recipes, load_config, to_yaml

    if arguments.name:
        print(to_yaml(load_config(arguments.name)), end="")
    else:
        print("\n".join(list_recipes()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
