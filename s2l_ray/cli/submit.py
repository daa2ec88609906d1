"""The same commands on a Ray cluster, as a job."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Its arguments."""
    submit = commands.add_parser("submit", help="the same on a Ray cluster, as a job", allow_abbrev=False)
    submit.add_argument(
        "what", metavar="CONFIG", help="a recipe or a YAML file; for finetune and select a run's folder"
    )
    submit.add_argument("overrides", nargs="*", metavar="section.field=value", help="as for the command itself")
    submit.add_argument("--address", help="the cluster's dashboard, http://head:8265; default: $RAY_API_SERVER_ADDRESS")
    submit.add_argument(
        "--command", default="run", choices=("run", "select", "finetune", "sweep"),
        help="which (run); its own options may follow: --command finetune --budget 0.11",
    )  # fmt: skip
    submit.add_argument(
        "--working-dir", metavar="FOLDER", help="send this folder too (at most 100 MB; what .gitignore and .rayignore "
        "name, runs, and files that may hold secrets are left out, and named): the job starts in it, so that relative "
        "paths in CONFIG, which lies in it, hold",
    )  # fmt: skip
    submit.add_argument(
        "--include", metavar="PATTERN", action="append", default=[],
        help="of --working-dir send what this names (as in .gitignore) although it would be left out",
    )  # fmt: skip
    submit.add_argument(
        "--package", metavar="PATH", default="installed",
        help="s2l_ray itself is sent, as it is installed here; or another copy (folder, wheel); none: the nodes' own",
    )  # fmt: skip
    submit.add_argument(
        "--extras", metavar="NAMES", default="",
        help="cpu or gpu,target,…: pip installs what they need on every node (minutes, once); default: it is there",
    )  # fmt: skip
    submit.add_argument(
        "--env", metavar="NAME", action="append", default=[],
        help="give the job this environment variable as it is here, e.g. HF_TOKEN. Everybody who may open Ray's "
        "dashboard can read it: secrets that the nodes have themselves are better",
    )  # fmt: skip
    submit.add_argument("--no-wait", action="store_true", help="print the job's name and return")
    submit.set_defaults(call=_submit, rest=[])


def _submit(arguments: argparse.Namespace) -> int:
    from s2l_ray.submission.submit import submit

    return submit(arguments, arguments.submitted)
