"""Compare every file of a run with its digest."""

from __future__ import annotations

import argparse
import sys

from s2l_ray.cli.arguments import Commands, add_json, print_json

_ABOUT = """\
Read every file of a run and compare it with the digest computed when it was
written. Lists damaged files with the remedy, and files without a digest. The
exit code is 1 if a file is damaged."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    verify = commands.add_parser("verify", help="compare every file of a run with its digest", description=_ABOUT)
    verify.add_argument("run", metavar="RUN", help="the run's folder")
    add_json(verify)
    verify.set_defaults(call=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.verify import verify_run
    from s2l_ray.observability.progress import Progress
    from s2l_ray.storage.folder import Storage

    result = verify_run(Storage.open(arguments.run), Progress(sys.stderr if arguments.json else None))
    if arguments.json:
        print_json(result.__dict__)
    else:
        print("\n".join(result.lines()))
    return 1 if result.problems or not result.num_files else 0
