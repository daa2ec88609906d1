"""Have targets answer test questions, and score their answers."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from s2l_ray.cli.arguments import Commands, add_json, count, print_json
from s2l_ray.cli.completion import complete_subsets
from s2l_ray.errors import UserError, shown

if TYPE_CHECKING:
    from s2l_ray.workflow.evaluate import EvaluationRequest

_ABOUT = """\
Have targets answer the test questions of the `evaluation` section, and score
their answers. Complete work is skipped; see docs/evaluation.md."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    evaluate = commands.add_parser(
        "evaluate", help="have targets answer test questions", description=_ABOUT,
        usage="s2l evaluate RUN [section.field=value ...] [options]",
    )  # fmt: skip
    evaluate.add_argument("run", metavar="RUN", help="the run's folder")
    evaluate.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="settings of evaluation, resources, estimates"
    )
    named = evaluate.add_argument(
        "--subset", type=_models, metavar="NAMES", help="s2l-0.11,full; base: the model before fine-tuning"
    )
    named.completer = complete_subsets
    evaluate.add_argument("--tasks", type=_names, metavar="NAMES", help="gsm8k,math,...")
    evaluate.add_argument("--form", choices=("cot", "pot", "hybrid"), metavar="FORM", help="cot, pot or hybrid")
    evaluate.add_argument("--limit", type=count, metavar="N", help="ask only the first N questions of each task")
    evaluate.add_argument("--model", help="a hub id or folder, instead of the targets")
    how = evaluate.add_mutually_exclusive_group()
    how.add_argument("--rescore", action="store_true", help="score existing answers again; generate nothing")
    how.add_argument("--dry-run", action="store_true", help="estimate the cost; start nothing")
    how.add_argument("--export-lm-eval", metavar="DIR", help="write tasks for lm-evaluation-harness")
    evaluate.add_argument(
        "--compare",
        type=_models,
        default=[],
        metavar="NAMES",
        help="test whether these models differ: full,s2l-0.11",
    )
    add_json(evaluate)
    evaluate.add_argument("--across-engines", action="store_true", help="also compare answers of different engines")
    # Hidden: the message that requires this option names it, and nobody should find it by chance.
    evaluate.add_argument("--i-know-programs-run-with-my-rights", action="store_true", help=argparse.SUPPRESS)
    evaluate.set_defaults(call=_evaluate)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{shown(text)} has an empty name; give names with commas between them")
    return names


def _models(text: str) -> list[str]:
    from s2l_ray.config.subset_names import canonical

    return [canonical(name) for name in _names(text)]


def _evaluate(arguments: argparse.Namespace) -> int:
    from s2l_ray.observability.progress import Progress
    from s2l_ray.workflow.evaluate import EvaluationRequest, evaluate_run

    overrides = list(arguments.overrides)
    if arguments.i_know_programs_run_with_my_rights:
        overrides.append("evaluation.sandbox.i_know_programs_run_with_my_rights=true")
    request = EvaluationRequest(
        arguments.subset, arguments.tasks, arguments.form, arguments.limit, arguments.model, arguments.rescore,
        arguments.compare, arguments.across_engines, overrides,
    )  # fmt: skip
    if arguments.dry_run:
        return _dry_run(arguments.run, request, arguments.json)
    if arguments.export_lm_eval:
        if arguments.json:
            raise UserError(
                "--export-lm-eval writes tasks and has no results, so --json would do nothing here; leave it out"
            )
        return _export(arguments.run, request, arguments.export_lm_eval)
    progress = Progress(sys.stderr) if arguments.json else Progress()  # stdout is reserved for the JSON
    result = evaluate_run(arguments.run, request, progress=progress)
    if arguments.json:
        print_json(result.plain())
        return 0
    print("\n".join(["", *result.lines]), flush=True)
    print(f"  report: {result.run.storage.uri_of('evaluation/report.md')}")
    return 0


def _dry_run(run: str, request: EvaluationRequest, json: bool) -> int:
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.evaluate import dry_run

    made = dry_run(run, request)
    if json:
        print_json(made.facts)
    else:
        print("\n".join(map(printable, made.lines)))
    return 0


def _export(run: str, request: EvaluationRequest, folder: str) -> int:
    from s2l_ray.workflow.export_lm_eval import export_tasks

    print("\n".join(export_tasks(run, request, folder)))
    return 0
