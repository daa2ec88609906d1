"""Submit a command to a Ray cluster as a job."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands

_ABOUT = """\
Run a command on a Ray cluster as a job: check the configuration here, send it
with the installed s2l_ray, follow the log, and return the job's exit code.
Ctrl-C stops the job; the same command resumes it. See docs/clusters."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    submit = commands.add_parser(
        "submit", help="run a command on a Ray cluster as a job", description=_ABOUT, allow_abbrev=False,
        usage="s2l submit CONFIG|RUN [section.field=value ...] [options]",
    )  # fmt: skip
    submit.add_argument("what", metavar="CONFIG|RUN", help="recipe or YAML file; or a run's folder")
    submit.add_argument("overrides", nargs="*", metavar="section.field=value", help="as for the command itself")
    submit.add_argument("--address", metavar="URL", help="http://head:8265; default: $RAY_API_SERVER_ADDRESS")
    submit.add_argument(
        "--command", default="run", choices=("run", "select", "finetune", "evaluate", "sweep"), metavar="NAME",
        help="run (default), select, finetune, evaluate or sweep",
    )  # fmt: skip
    submit.add_argument("--working-dir", metavar="FOLDER", help="also send this folder, without ignored files")
    submit.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="with --working-dir: also send ignored files that match this",
    )
    submit.add_argument(
        "--package",
        metavar="PATH",
        default="installed",
        help="folder or wheel of s2l_ray to send instead of the installed one; none: already on the nodes",
    )
    submit.add_argument(
        "--extras", metavar="NAMES", default="", help="install these extras on every node with pip: gpu,target"
    )
    submit.add_argument(
        "--env", metavar="NAME", action="append", default=[],
        help="pass this variable on (readable in Ray's dashboard)",
    )  # fmt: skip
    submit.add_argument("--no-wait", action="store_true", help="print the job's name and return")
    submit.set_defaults(call=_submit, rest=[])


def _submit(arguments: argparse.Namespace) -> int:
    from s2l_ray.submission.submit import submit

    return submit(arguments, arguments.submitted)
