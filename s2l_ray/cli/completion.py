"""Shell completion of recipes, files, runs, subsets and configuration fields."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from s2l_ray.cli.arguments import Commands

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
_ABOUT = """\
Print a script that lets a shell complete s2l's commands, recipes, subsets and
settings. In this shell:

  eval "$(s2l completion bash)"
  eval "$(s2l completion zsh)"
  s2l completion fish | source

In every new one:

  echo 'eval "$(s2l completion bash)"' >> ~/.bashrc
  echo 'eval "$(s2l completion zsh)"' >> ~/.zshrc
  echo 's2l completion fish | source' >> ~/.config/fish/config.fish"""
_ZSH = "#compdef s2l\n"
_START_ZSH = "(( $+functions[compdef] )) || { autoload -U compinit && compinit }\n"
"""Starts zsh's completion where ~/.zshrc does not: without it, the script ends with `command not found: compdef`."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    completion = commands.add_parser(
        "completion", help="print a shell's completion script", description=_ABOUT, usage="s2l completion SHELL"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    completion.set_defaults(call=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    script = argcomplete.shellcode(["s2l"], shell=arguments.shell)
    if arguments.shell == "zsh":
        script = _ZSH + _START_ZSH + script.removeprefix(_ZSH)
    print(script)
    return 0


def is_asked_by_a_shell() -> bool:
    """Whether a shell is asking for completions: argcomplete's shell code sets this variable."""
    return "_ARGCOMPLETE" in os.environ


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Print the possible completions and exit, if a shell is asking for them."""
    if is_asked_by_a_shell():
        import argcomplete

        _complete_by_kind(parser)
        argcomplete.autocomplete(parser, always_complete_options="long")


def _complete_by_kind(parser: argparse.ArgumentParser) -> None:
    """Give arguments of a known kind a completer, if their command gives them none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_by_kind(command)
        elif not hasattr(action, "completer") and (known := _completer_of(action)):
            action.completer = known  # type: ignore[attr-defined]


def _completer_of(action: argparse.Action) -> Callable[..., list[str]] | None:
    if action.metavar in ("RUN", "FOLDER", "DIR"):
        return complete_folders
    if action.metavar == "CONFIG|RUN":
        return complete_configs
    if "--selector" in action.option_strings:
        return complete_selectors
    if str(action.metavar).endswith(".field=value"):
        section = str(action.metavar).removesuffix("field=value")  # `selection.` or, for any, `section.`
        return complete_overrides if section == "section." else complete_selection
    return None


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


def complete_selection(prefix: str, **_: Any) -> list[str]:
    """Complete `selection.field=`, for commands that take no other section."""
    return [text for text in complete_overrides(prefix) if text.startswith("selection.")]


def complete_folders(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import DirectoriesCompleter

    return list(DirectoriesCompleter()(prefix))


def complete_selectors(prefix: str, **_: Any) -> list[str]:
    from s2l_ray.selection.registry import list_selectors

    return [one.name for one in list_selectors() if one.name.startswith(prefix)]


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
