"""Compare every file of a run with its digest."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Its arguments."""
    verify = commands.add_parser(
        "verify", help="compare every file of a run with its digest; exit code 1 if one is bad"
    )
    verify.add_argument("run", help="the run's folder")
    verify.set_defaults(call=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.verify import verify_run
    from s2l_ray.observability.progress import Progress
    from s2l_ray.storage.folder import Storage

    result = verify_run(Storage.open(arguments.run), Progress())
    print("\n".join(result.lines()))
    return 1 if result.problems or not result.num_files else 0
