"""The `s2l` command: parse, call the library, say errors in one piece. A file each command."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from s2l_ray.cli import finetune, inspect, recipes, report, run, select, submit, sweep, verify
from s2l_ray.cli.arguments import Parser
from s2l_ray.errors import describe, exit_code
from s2l_ray.text.redact import redact_command


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 refused before anything started, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

    What is refused is one of `s2l_ray.errors`; any other error is a failure, and said in one line with its type.
    """
    from s2l_ray.execution.signals import INTERRUPTED, ending_signals

    arguments = parse(argv)
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """A command line → its arguments, and `call`, what carries them out."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if "rest" in arguments:  # the command that is submitted has options of its own
        arguments.rest = rest
        arguments.submitted = parse([arguments.command, arguments.what, *arguments.overrides, *rest])
        return arguments
    # argparse itself takes no override after an option: s2l run my.yaml --dry-run proxy.epochs=1
    if "overrides" in arguments:
        arguments.overrides += [r for r in rest if "=" in r and not r.startswith("-")]
        rest = [r for r in rest if r not in arguments.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {redact_command(rest)}")
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """The whole command line's parser."""
    parser = Parser(
        prog="s2l", description="Which part of your fine-tuning data is worth training on: S2L data selection on Ray."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, select, finetune, sweep, submit, inspect, report, verify, recipes):
        command.add_to(commands)
    return parser
