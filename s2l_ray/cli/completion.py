"""Shell completion of recipes, files, runs, subsets and configuration fields."""

from __future__ import annotations

import argparse
import os
from typing import Any

from s2l_ray.cli.arguments import Commands

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
_ABOUT = """\
Print a script that lets a shell complete s2l's commands, recipes, subsets and
settings. For bash:

  eval "$(s2l completion bash)"                        in this shell
  echo 'eval "$(s2l completion bash)"' >> ~/.bashrc    in every new shell"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    completion = commands.add_parser(
        "completion", help="print a shell's completion script", description=_ABOUT, usage="s2l completion SHELL"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    completion.set_defaults(call=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["s2l"], shell=arguments.shell))
    return 0


def is_asked_by_a_shell() -> bool:
    """Whether a shell is asking for completions: argcomplete's shell code sets this variable."""
    return "_ARGCOMPLETE" in os.environ


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Print the possible completions and exit, if a shell is asking for them."""
    if is_asked_by_a_shell():
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options="long")


def complete_configs(prefix: str, **_: Any) -> list[str]:
    """Complete recipes, YAML files and folders."""
    from argcomplete.completers import FilesCompleter

    from s2l_ray.config import list_recipes

    return [*(name for name in list_recipes() if name.startswith(prefix)), *FilesCompleter(("yaml", "yml"))(prefix)]


def complete_recipes(prefix: str, **_: Any) -> list[str]:
    from s2l_ray.config import list_recipes

    return [name for name in list_recipes() if name.startswith(prefix)]


def complete_fields(prefix: str, **_: Any) -> list[str]:
    from s2l_ray.config.describe import describe_all

    return [one.path for one in describe_all() if one.path.startswith(prefix)]


def complete_overrides(prefix: str, **_: Any) -> list[str]:
    """Complete `section.field=`; values are left to the user."""
    from s2l_ray.config.describe import describe_all

    return [f"{one.path}=" for one in describe_all() if one.type != "section" and one.path.startswith(prefix)]


def complete_subsets(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Complete the subsets of the named run, if it is local: a keystroke must not wait for a network."""
    return [name for name in _local_run(parsed_args, "subsets") if name.startswith(prefix)]


def complete_targets(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return [name for name in _local_run(parsed_args, "targets") if name.startswith(prefix)]


def _local_run(parsed_args: argparse.Namespace, what: str) -> list[str]:
    where = getattr(parsed_args, "run", None)
    if not where or "://" in where or not os.path.isdir(where):
        return []
    from s2l_ray.artifacts.run import load_run

    try:
        return list(getattr(load_run(where), what))
    except Exception:  # a shell that completes has nowhere to put an error
        return []
