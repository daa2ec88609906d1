"""Everyday commands: greeting, version, help, names of subsets, schema, explanations, recipes, dry runs, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import s2l_ray
from s2l_ray.cli import main, make_parser
from s2l_ray.cli.arguments import budget
from s2l_ray.config import list_recipes, load_config
from s2l_ray.config.describe import describe_all, json_schema
from s2l_ray.config.subset_names import parse_subset_name
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.report_runs import MadeRun
from tests.support.tiers import rest_thorough

[_SUBPARSERS] = [a for a in make_parser()._actions if isinstance(a.choices, dict)]
COMMANDS = list(_SUBPARSERS.choices or {})


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(list(command)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with subsets, targets and quarantined rows."""
    return MadeRun(
        tmp_path_factory.mktemp("made") / "run", quarantined=(("a.jsonl", "bad JSON"), ("b.jsonl", "bad JSON"))
    ).make()


# --- the first minute -------------------------------------------------------------------------------------------------


def test_bare_s2l_greets_with_three_commands_that_work(capsys):
    greeting = said(capsys)
    tried = re.findall(r"^  s2l (\w+) ?(\S*)", greeting, re.MULTILINE)
    assert tried == [("run", "quickstart"), ("init", "data.jsonl"), ("recipes", "")]
    everyday = {"run", "select", "finetune", "sweep", "submit", "inspect", "report", "verify", "push", "env", "explain"}
    assert {name for name, _ in tried} | everyday <= set(COMMANDS)


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"s2l {s2l_ray.__version__}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_fits_one_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("columns", [40, 60])
def test_help_is_wrapped_to_a_narrow_terminal(columns, capsys, monkeypatch):
    """All but examples, which are there to be copied."""

    def help_at(width: int, command: str) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        return capsys.readouterr().out

    for command in ("", *COMMANDS):
        narrow = help_at(columns, command)
        assert "".join(narrow.split()) == "".join(help_at(80, command).split())
        long = [line for line in narrow.splitlines() if len(line) > columns]
        assert all(re.match("  (s2l|eval|echo|#) ", line) for line in long), (command, long)


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE) == COMMANDS


def test_help_answers_at_once():
    """Half a second of processor time: a busy machine gives the same verdict. And nothing heavy is loaded for it."""
    code = (
        "import sys, time\nfrom s2l_ray.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'pyarrow', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds = done.stderr.splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 0.5


@pytest.mark.thorough
def test_what_reads_the_output_may_end_first():
    shell = f"{sys.executable} -m s2l_ray.cli schema | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


# --- subsets and budgets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("30%", 0.3), ("11%", 0.11), ("0.5%", 0.005), ("100%", 1.0), ("20000", 20_000), ("0.3", 0.3), ("1", 1),
     ("1.0", 1.0), (".3", 0.3), (".5%", 0.005)],
)  # fmt: skip
def test_budgets_are_counts_shares_or_percentages(text, wanted):
    assert (budget(text), type(budget(text))) == (wanted, type(wanted))


@pytest.mark.parametrize(
    "text",
    ["a third", "30 %%", "%", "30%%", "nan", "inf", "1/3", "1_000", "١", "0", "0%", "150%", "1.5", "-1", "1e3"],
)
def test_what_is_no_budget_is_refused_with_what_would_do(text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["select", "x", "--budget", text])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"{text!r} is neither a count" in told
    assert "give, for example, 20000, 0.3 or 30%" in told


def test_a_percentage_in_a_file_says_how_shares_are_written(tmp_path):
    tree = tiny_run_config(tmp_path, selection__budgets=["30%"])
    with pytest.raises(ValueError, match=r"'30%' is text; write a share as a fraction \(0.3 for 30 %\)"):
        load_config(tree)


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("selector", ["s2l", "random_per_source"])
@pytest.mark.parametrize("size", [0.11, 1.0, 1, 20_000, 1e-05, 0.005])
def test_a_subsets_name_says_how_to_choose_it(selector, size, stratify):
    from s2l_ray.config.selection import SelectionConfig

    asked = SelectionConfig(selectors=["s2l", "random_per_source"], stratify=stratify)
    named = parse_subset_name(asked.subset_name(selector, size))
    assert named is not None
    assert (named.selector, named.budget, type(named.budget)) == (selector, size, type(size))
    assert named.stratified == (stratify and selector == "s2l")


@pytest.mark.parametrize(
    "name", ["full", "random", "s2l-0.3-1a2b3c4d", "s2l-0.3-12345678", "s2l-", "-0.3", "s2l-x", "s2l-0.3.1"]
)
def test_what_names_no_selector_and_budget_is_no_such_name(name):
    assert parse_subset_name(name) is None


@pytest.mark.thorough
def test_one_name_for_a_subset_in_select(made, capsys):
    by_name = said(capsys, "select", str(made), "--subset", "random-0.3").splitlines()[-2:]
    by_parts = said(capsys, "select", str(made), "--selector", "random", "--budget", "30%").splitlines()[-2:]
    assert by_name == by_parts
    assert "subset/random-0.3-" in by_name[0]
    assert main(["select", str(made), "--subset", "random"]) == 2
    assert "write, for example, s2l-0.3" in capsys.readouterr().err
    assert main(["select", str(made), "--subset", "random-0.3", "--selector", "s2l"]) == 2
    assert "--selector s2l name different selectors; give only one" in capsys.readouterr().err


# --- the configuration in words ---------------------------------------------------------------------------------------


def test_a_setting_behind_stratify_is_no_column(made, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["select", str(made), "--budget", "0.1", "--stratify", "selection.allocation_exponent=0.5"])
    assert ended.value.code == 2
    told = (
        "'selection.allocation_exponent=0.5' is a setting, not a column; put --stratify last, or before another option"
    )
    assert told in capsys.readouterr().err


def test_every_field_is_described():
    described = describe_all()
    assert len(described) > 120
    for one in described:
        assert one.text.strip(), one.path
        assert "typing" not in one.type, one
        assert "<class" not in one.type, one
    assert len({one.path for one in described}) == len(described)


def test_explain_says_type_default_and_meaning(capsys):
    told = " ".join(said(capsys, "explain", "selection.budgets").split())
    for piece in ("selection.budgets (list of numbers; default [0.11])", "fractions (0, 1] shares of the corpus"):
        assert piece in told
    told = said(capsys, "explain", "resources.target")
    assert re.findall(r"^  resources\.target\.(\w+) ", told, re.MULTILINE)[:2] == ["workers", "min_workers"]
    assert "selection" in said(capsys, "explain")
    [plain] = json.loads(said(capsys, "explain", "proxy.epochs", "--json"))
    assert (plain["type"], plain["default"]) == ("number", "3.0")
    assert main(["explain", "selection.budget"]) == 2
    assert "Did you mean selection.budgets?" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_schema_accepts_what_is_accepted_and_refuses_misspelt_keys(capsys, tmp_path):
    schema = json.loads(said(capsys, "schema"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    folder = Path(s2l_ray.__file__).parent / "config/recipes"
    trees = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in list_recipes()]
    for tree in [*trees, tiny_run_config(tmp_path)]:
        validator.validate(tree)
    refused: list[dict[str, Any]] = [
        {"proxi": {}}, {"selection": {"budget": [0.1]}}, {"seed": -1}, {"clusters": {"init": "best"}},
    ]  # fmt: skip
    for wrong in refused:
        assert not validator.is_valid(trees[0] | wrong), wrong


def test_the_schema_beside_the_recipes_is_the_present_one():
    stored = Path(s2l_ray.__file__).parent / "config/schema.json"
    assert json.loads(stored.read_text()) == json_schema(), "s2l schema > s2l_ray/config/schema.json"
    for name in list_recipes():
        first = (stored.parent / f"recipes/{name}.yaml").read_text().partition("\n")[0]
        assert first == "# yaml-language-server: $schema=../schema.json"


def test_recipes_say_what_they_are_for(capsys):
    lines = said(capsys, "recipes").splitlines()
    assert [line.split()[0] for line in lines] == list_recipes()
    assert all(len(line.split()) > 6 and len(line) <= 110 and line.endswith(".") for line in lines)
    listed = json.loads(said(capsys, "recipes", "--json"))
    assert [one["name"] for one in listed] == list_recipes()
    assert load_config(yaml.safe_load(said(capsys, "recipes", "quickstart"))) == load_config("quickstart")
    assert load_config(json.loads(said(capsys, "recipes", "quickstart", "--json"))) == load_config("quickstart")


# --- completion by the shell ------------------------------------------------------------------------------------------


def completions(line: str, folder: Path) -> set[str]:
    """What argcomplete's protocol answers for this line."""
    environment = {**os.environ, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "out"),
                   "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_LINE": line,
                   "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}  # fmt: skip
    subprocess.run([sys.executable, "-m", "s2l_ray.cli"], env=environment, check=True, timeout=60)
    return set((folder / "out").read_text().splitlines())


@pytest.mark.parametrize(
    ("line", "wanted"),
    rest_thorough([
        ("s2l ", {"run", "select", "push"}), ("s2l run quick", {"quickstart"}),
        ("s2l sweep --find", {"--find-smallest"}),
        ("s2l run quickstart selection.bud", {"selection.budgets="}),
        ("s2l explain clusters.num_c", {"clusters.num_clusters"}),
        ("s2l finetune RUN --subset s2l", {"s2l-0.2"}), ("s2l push RUN --target fu", {"full"}),
        ("s2l finetune /nowhere --subset s2l", set()), ("s2l select RUN --selector s2l_", {"s2l_robust"}),
        ("s2l select RUN selection.allo", {"selection.allocation_exponent="}), ("s2l select RUN proxy.ep", set()),
        ("s2l inspect RUN/sub", {"RUN/subset/"}), ("s2l report RUN/config.y", set()),
        ("s2l submit quickst", {"quickstart"}), ("s2l evaluate RUN evaluation.form", {"evaluation.form="}),
    ], 2),
)  # fmt: skip
def test_the_shell_completes_commands_recipes_fields_and_subsets(line, wanted, made, tmp_path):
    found = completions(line.replace("RUN", str(made)), tmp_path)
    assert {one.replace("RUN", str(made)) for one in wanted} <= found
    if not wanted:
        assert found == set()


def test_completion_scripts_are_those_of_the_shell(capsys):
    assert "complete" in said(capsys, "completion", "bash")
    assert said(capsys, "completion", "bash") != said(capsys, "completion", "fish")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_run_in_a_shell_without_settings(shell, tmp_path, capsys):
    where = shutil.which(shell)
    if where is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(said(capsys, "completion", shell))
    quiet = {"bash": ["--norc"], "zsh": ["-f", "-i"], "fish": ["--no-config"]}[shell]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([where, *quiet, "-c", f"source {script}"], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_zsh_loads_the_script_from_a_file_too(capsys):
    assert said(capsys, "completion", "zsh").startswith("#compdef s2l\n")


def test_every_command_that_only_reads_gives_json():
    # Of run and sweep, the dry run reads; evaluate and gradients print results, too.
    reading = ("inspect", "report", "verify", "recipes", "explain", "env", "selectors", "run", "sweep", "evaluate",
               "gradients")  # fmt: skip
    choices: dict[str, Any] = dict(_SUBPARSERS.choices or {})
    for name in reading:
        assert "--json" in choices[name].format_help(), name
    # What is left writes or trains, or is made for programs already.
    writing = {"init", "select", "finetune", "submit", "push", "schema", "completion"}
    assert set(choices) - set(reading) <= writing
