"""The `s2l` command: parse the arguments, call the library, print errors. Each command has a file of its own."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from select import POLLERR, poll

from s2l_ray.cli import (
    completion,
    env,
    evaluate,
    explain,
    finetune,
    gradients,
    init,
    inspect,
    push,
    recipes,
    report,
    run,
    schema,
    select,
    selectors,
    submit,
    sweep,
    verify,
)
from s2l_ray.cli.arguments import Parser, refuse_unknown
from s2l_ray.errors import describe, exit_code

_WELCOME = """\
s2l: which part of your fine-tuning data is worth training on?

Three commands to try:
  s2l run quickstart         a complete run on two CPU cores, in a few minutes
  s2l init data.jsonl        inspect your own data and write a configuration for it
  s2l recipes                configurations to start from

s2l --help lists all commands."""
_TITLE = "Which part of your fine-tuning data is worth training on? The commands"
_EPILOG = "Details: s2l COMMAND --help. Exit codes: 0 done, 1 failed, 2 nothing started."
_COMMANDS = (init, run, select, finetune, evaluate, gradients, sweep, submit, inspect, report, verify, push, recipes,
             selectors, explain, schema, completion, env)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Exit codes: 0 done, 1 failed, 2 refused before anything started, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP. A refusal is
    one of the errors in `s2l_ray.errors`; any other exception is a failure, printed in one line with its type.
    """
    from s2l_ray.execution.signals import INTERRUPTED, ending_signals

    _show_all_characters()
    with ending_signals() as signals:
        try:
            return _call(argv)
        except KeyboardInterrupt:
            code = signals.exit_code
            how = "interrupted" if code == INTERRUPTED else "stopped"
            with contextlib.suppress(OSError):
                print(f"\n{how}; complete stages are kept, run the same command to resume", file=sys.stderr)
            if code == INTERRUPTED:
                return code
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # the interpreter's own clean-up takes seconds; `ray job stop` kills after three


def _show_all_characters() -> None:
    """Have a terminal that knows only ASCII or Latin-1 show other characters as their codes, instead of failing."""
    stream = sys.stdout  # stderr does so by itself
    if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding.lower() != "utf-8"):
        stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Write what is buffered, so that a full disk or a reader that has gone is noticed here."""
    if sys.stdout is not None:  # as after `s2l recipes >&-`
        sys.stdout.flush()


def _call(argv: Sequence[str] | None) -> int:
    try:
        try:
            code = _answer(argv)
        except SystemExit:  # of argparse: --help, --version, arguments that it refuses
            _flush()
            raise
        _flush()
        return code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if os.environ.get("S2L_TRACEBACK"):
            raise
        _say(error)
        _give_up_output()
        return exit_code(error)


def _answer(argv: Sequence[str] | None) -> int:
    if not (sys.argv[1:] if argv is None else argv) and not completion.is_asked_by_a_shell():
        print(_WELCOME)
        return 0
    arguments = parse(argv)
    return int(arguments.call(arguments) or 0)


def _nobody_reads() -> bool:
    """Whether the reader of this output has exited (`s2l schema | head`), so that there is nobody to report to."""
    pipe = poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(state & POLLERR for _, state in pipe.poll(0)):
        return False
    _discard_output()
    return True


def _give_up_output() -> None:
    """Discard what is buffered if it cannot be written; otherwise the interpreter would try once more, print the same
    error again and end with 120."""
    try:
        _flush()
    except OSError:
        with contextlib.suppress(OSError):
            _discard_output()


def _discard_output() -> None:
    """Let the interpreter's final flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: BaseException) -> None:
    """Print an error to stderr, without failing on a terminal that only knows ASCII, or without a terminal (nohup)."""
    with contextlib.suppress(OSError, ValueError):
        encoding = sys.stderr.encoding or "utf-8"
        print(f"s2l: {describe(error)}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line into its arguments, with the function that runs the command in `call`."""
    parser = make_parser()
    completion.answer_shell(parser)
    arguments, rest = parser.parse_known_args(argv)
    if "rest" in arguments:  # the submitted command has options of its own
        arguments.rest = rest
        arguments.submitted = parse([arguments.command, arguments.what, *arguments.overrides, *rest])
        return arguments
    # argparse itself accepts no override after an option: s2l run my.yaml --dry-run proxy.epochs=1
    if "overrides" in arguments:
        arguments.overrides = [*arguments.overrides, *(r for r in rest if "=" in r and not r.startswith("-"))]
        rest = [r for r in rest if r not in arguments.overrides]
    if rest:
        refuse_unknown(parser, arguments.subcommand, rest)
    return arguments


def make_parser() -> Parser:
    """Build the parser of the complete command line."""
    parser = Parser(prog="s2l", add_help=False, usage="s2l [--help] [--version] COMMAND ...", epilog=_EPILOG)
    # --help and --version are named in the usage line and the description in the commands' heading, so that the whole
    # text fits on one screen.
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action=_Version, nargs=0, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, dest="subcommand", metavar="COMMAND", title=_TITLE, prog="s2l")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


class _Version(argparse.Action):
    """Argument that prints the version, which is looked up only on request."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import s2l_ray

        print(f"s2l {s2l_ray.__version__}")
        parser.exit()
