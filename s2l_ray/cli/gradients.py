"""Are gradients alike within clusters, and which subset has the corpus's mean gradient?"""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands, add_json, print_json

_ABOUT = """\
Compare gradients of sampled examples within and across the clusters of a
finished run, and the mean gradient of each of its subsets with the corpus's.
Trains nothing; complete work is skipped."""
_EXAMPLES = """\
examples:
  s2l gradients runs/my --dry-run              estimate the cost
  s2l gradients runs/my                        by the language-model head
  s2l gradients runs/my gradients.kind=lora    by adapters in all other layers
  s2l gradients runs/my "gradients.snapshots=[start, last]" --json"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    gradients = commands.add_parser(
        "gradients", help="compare gradients within clusters and subsets", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l gradients RUN [section.field=value ...] [options]",
    )  # fmt: skip
    gradients.add_argument("run", metavar="RUN", help="the run's folder")
    gradients.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="settings of gradients, resources, estimates"
    )
    gradients.add_argument("--dry-run", action="store_true", help="estimate the cost; start nothing")
    add_json(gradients)
    gradients.set_defaults(call=_gradients)


def _gradients(arguments: argparse.Namespace) -> int:
    import sys

    from s2l_ray.artifacts.results import GradientCheck
    from s2l_ray.observability.progress import Progress
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.gradients import check_lines, compare_gradients, dry_run_lines

    if arguments.dry_run:
        lines = dry_run_lines(arguments.run, arguments.overrides)
        if arguments.json:
            print_json({"lines": lines})
        else:
            print("\n".join(map(printable, lines)))
        return 0
    progress = Progress(sys.stderr) if arguments.json else Progress()  # stdout is reserved for the JSON
    check = GradientCheck.of(compare_gradients(arguments.run, arguments.overrides, progress=progress))
    if arguments.json:
        print_json(check.report)
        return 0
    print("\n".join(["", *check_lines(check.report), "", *check.verdict]), flush=True)
    print(f"  all figures: {check.storage.uri_of('gradients.json')}")
    return 0
