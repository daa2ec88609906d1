"""Push a subset or a target to the Hugging Face hub."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands
from s2l_ray.cli.completion import complete_subsets, complete_targets

_ABOUT = """\
Push a subset (as a dataset) or a fine-tuned target (as a model) to the Hugging
Face hub, with a card that documents how it was made. New repositories are
private unless --public is given."""
_EXAMPLES = """\
examples:
  s2l push runs/my --subset s2l-0.11 user/name
  s2l push runs/my --target s2l-0.11 user/model --public
  s2l push runs/my --subset s2l-0.11 user/name --dry-run     writes ./name"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    push = commands.add_parser(
        "push", help="push a subset or a target to the Hugging Face hub", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l push RUN (--subset NAME | --target NAME) REPOSITORY [options]",
    )  # fmt: skip
    push.add_argument("run", metavar="RUN", help="the run's folder")
    push.add_argument("repository", metavar="REPOSITORY", help="user/name or organisation/name")
    what = push.add_mutually_exclusive_group(required=True)
    subset = what.add_argument("--subset", metavar="NAME", help="a subset: s2l-0.11")
    target = what.add_argument("--target", metavar="NAME", help="a target, by what it was trained on")
    subset.completer, target.completer = complete_subsets, complete_targets
    push.add_argument("--public", action="store_true", help="make a new repository public")
    push.add_argument("--dry-run", action="store_true", help="write the folder and push nothing")
    push.add_argument("--out", metavar="FOLDER", help="where --dry-run writes; default: the repository's name")
    push.set_defaults(call=_push)


def _push(arguments: argparse.Namespace) -> int:
    import tempfile
    from pathlib import Path

    from s2l_ray.artifacts.run import load_run
    from s2l_ray.storage.output_folder import output_place
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.push import PushError, check_repo_id, package_subset, package_target, upload

    if arguments.out and not arguments.dry_run:
        raise PushError(f"--out {arguments.out} is where --dry-run writes and would do nothing here; add --dry-run")
    check_repo_id(arguments.repository)
    run = load_run(arguments.run)
    make, name = (package_subset, arguments.subset) if arguments.subset else (package_target, arguments.target)
    if arguments.dry_run:
        folder = output_place(arguments.out or arguments.repository.partition("/")[2], "--out")
        package = make(run, name, folder)
        print("\n".join(printable(str(folder / file)) for file in package.files))
        print("Dry run: nothing was pushed.")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        address = upload(make(run, name, Path(temporary)), arguments.repository, arguments.public)
    print(printable(address))
    return 0
