"""Arguments that are empty, given twice, misspelt or in the wrong place; output that cannot be written."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from s2l_ray.cli import main, make_parser, parse
from s2l_ray.cli.arguments import share

PARSER = make_parser()
[_SUBPARSERS] = [a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)]
COMMANDS: dict[str, argparse.ArgumentParser] = dict(_SUBPARSERS.choices)


def refused(capsys: pytest.CaptureFixture[str], *command: str, parse: Any = main) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(list(command))
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def taking_values() -> Iterator[tuple[list[str], argparse.Action]]:
    """Every argument that takes a value, with a command line up to it."""
    for name, parser in COMMANDS.items():
        positional = [action for action in parser._actions if not action.option_strings]
        for action in parser._actions:
            if action.nargs != 0:
                before = positional if action.option_strings else positional[: positional.index(action)]
                yield [name, *["bash" if one.choices else "x" for one in before]], action


def test_an_empty_value_is_never_dropped(capsys):
    """As from `--subset "$NAME"` without a NAME."""
    cases = list(taking_values())
    assert len(cases) > 50
    for line, action in cases:
        told = refused(capsys, *line, *action.option_strings[-1:], "", parse=PARSER.parse_known_args)
        assert "is empty, so it says nothing; give a value" in told, (line, action.dest, told)


def test_no_option_drops_the_first_of_two_values(capsys):
    cases = [(line, a) for line, a in taking_values() if a.option_strings and not isinstance(a, argparse._AppendAction)]
    assert len(cases) > 30
    for line, action in cases:
        given = [action.option_strings[-1], next(iter(action.choices)) if action.choices else "1"]
        told = refused(capsys, *line, *given, *given, parse=PARSER.parse_known_args)
        assert f"{given[0]}: given twice; one of them would be lost, so give it once" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("instpect runs/my", "'instpect' is not a command; did you mean inspect?"),
        ("Inspect runs/my", "'Inspect' is not a command; did you mean inspect?"),
        ("help", "'help' is not a command; write s2l --help"),
        ("frobnicate", "'frobnicate' is not a command; choose from init, run, select"),
        ("run quickstart --dryrun", "s2l run: error: unknown argument --dryrun; did you mean --dry-run?"),
        ("submit my.yaml --dryrun", "s2l run: error: unknown argument --dryrun; did you mean --dry-run?"),
        ("--json recipes", "unknown argument --json; write it behind the command: s2l recipes … --json"),
        ("recipes quickstart more", "unknown argument more; `s2l recipes --help` lists what it knows"),
        ("completion BASH", "'BASH' is not a known value; did you mean bash?"),
        ("completion cmd", "'cmd' is not a known value; choose from bash, zsh, fish"),
        ("select x --budget 1 --seed x", "--seed: 'x' is not a count; give a whole number, 0 or more"),
        ("evaluate x --limit 1e3", "--limit: '1e3' is not a count; give a whole number, 0 or more"),
        ("sweep x --within five", "--within: 'five' is not a share; give, for example, 0.01 or 1%"),
    ],
)
def test_what_is_misspelt_is_refused_with_what_is_meant(line, message, capsys):
    assert message in refused(capsys, *line.split())


@pytest.mark.parametrize("option", ["--subset", "--tasks", "--compare"])
def test_an_empty_name_among_others_is_not_dropped(option, capsys):
    told = refused(capsys, "evaluate", "x", option, "full,,base")
    assert f"{option}: 'full,,base' has an empty name; give names with commas between them" in told


def test_models_are_named_as_subsets_are():
    parsed = parse(["evaluate", "x", "--subset", "s2l-20%, base", "--compare", "full,random-0.20"])
    assert (parsed.subset, parsed.compare) == (["s2l-0.2", "base"], ["full", "random-0.2"])


@pytest.mark.parametrize("command", ["run", "finetune", "evaluate", "gradients", "sweep", "submit"])
def test_what_may_be_left_out_is_not_called_required(command, capsys):
    told = refused(capsys, command)
    assert "the following arguments are required: " in told
    assert "section.field" not in told


@pytest.mark.parametrize(("text", "wanted"), [("1%", 0.01), ("0.01", 0.01), ("1e-2", 0.01)])
def test_a_share_may_be_a_percentage(text, wanted):
    assert share(text) == wanted


# --- output -----------------------------------------------------------------------------------------------------------


def test_the_greeting_may_lose_its_reader_or_have_no_place_to_go(monkeypatch, capsys):
    """What every command does with `| head`, a full disk and a closed output, it does, too."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as nobody, open("/dev/full", "w") as full:
        for stdout, code in ((nobody, 1), (None, 0), (full, 1)):
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main([]) == code
        monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for what is still buffered
    assert capsys.readouterr().err.startswith("s2l: OSError: [Errno 28] No space left on device")


@pytest.mark.parametrize("command", ["--help", "run --help", "--version", "recipes"])
@pytest.mark.parametrize("buffering", ["", "1"])
def test_what_cannot_be_written_is_no_success(command, buffering):
    environment = {**os.environ, "PYTHONUNBUFFERED": buffering}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "s2l_ray.cli", *command.split()], stdout=full,
                              stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("s2l: OSError: [Errno 28] No space left on device")
    assert done.stderr.count("\n") == 1, "neither a traceback nor the interpreter's own complaint"


def test_a_terminal_that_knows_only_ascii_gets_codes(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["explain", "selection.allocation_exponent"]) == 0
    assert rb"\u03b1: clusters are weighted by size^\u03b1." in written.getvalue()
