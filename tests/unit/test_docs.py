"""README and manual: their links, commands, settings and examples are what there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from s2l_ray.cli import parse
from s2l_ray.config import load_config
from s2l_ray.config.describe import describe_all
from tests.support.docs import PAGES, ROOT, blocks, commands, prose

SECTIONS = {one.path.partition(".")[0] for one in describe_all()}
FIELDS = {one.path for one in describe_all()}
TOOLS = {"s2l", "pip", "pytest", "ray", "mkdocs", "helm", "kubectl", "ruff", "mypy", "lint-imports"}


def each(kind: str) -> Iterator[Any]:
    for page in PAGES:
        for content in blocks(page, kind):
            yield pytest.param(content, id=f"{page.relative_to(ROOT)}:{content.strip().splitlines()[0][:30]}")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_as_long_as_those_of_the_code(page):
    """But for rows of tables, which Markdown cannot break."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    made = {"configuration.md", "commands.md", "benchmarks.md", "changelog.md", "contributing.md", "security.md"}
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = target.partition("#")
        if place.startswith(("http://", "https://")):
            assert re.fullmatch(r"https?://[\w.-]+\.[a-z]+(:\d+)?(/\S*)?", place), target
            continue
        if place.rpartition("/")[2] in made and ROOT / "docs" in page.parents:
            continue
        file = page if not place else (page.parent / place)
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, target


@pytest.mark.thorough
def test_every_command_is_one_that_there_is():
    found = [(page, words) for page in PAGES for words in commands(page)]
    assert len(found) >= 45
    for page, words in found:
        assert words[0] in TOOLS or "=" in words[0] or words[0] in ("python", "python3", "source", "export", "eval"), (
            page, words,
        )  # fmt: skip
        if words[0] == "s2l" and len(words) > 1:
            parse(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text_are_valid(page, capsys):
    """`s2l …` in backticks: the command exists, and where it is whole, so do its options."""
    for code in re.findall(r"`(s2l [^`]+)`", prose(page)):
        words = shlex.split(code.replace("…", ""))[1:]
        if words[0] in ("COMMAND", "--version"):
            continue
        try:
            parse(words)
        except SystemExit:
            with pytest.raises(SystemExit) as ended:  # not whole: `s2l select`, `s2l submit --working-dir`
                parse([words[0], "--help"])
            assert ended.value.code == 0, code
            assert set(words[1:]) <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out)), code


def test_the_small_torch_is_the_one_that_is_tested():
    """Another version would be replaced by PyPI's, with its gigabytes of CUDA."""
    [pinned] = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    found = [word for page in PAGES for words in commands(page) for word in words if word.startswith("torch==")]
    assert found == [f"torch=={pinned}+cpu"] * 3


def test_every_extra_is_declared():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in PAGES:
        for words in commands(page):
            for word in words if words[0] == "pip" else ():
                extras = re.fullmatch(r"\.\[([a-z,]+)\]", word)
                assert extras is None or set(extras.group(1).split(",")) <= declared, words
                if word == "-c":
                    assert (ROOT / words[words.index("-c") + 1]).is_file()
    started = (ROOT / "docs/getting-started.md").read_text()
    table = re.findall(r"^\| ((?:`\w+`(?:, | or )?)+) \| ", started, re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`(\w+)`", row)} == declared


@pytest.mark.parametrize("content", each("yaml"))
def test_configurations_are_accepted(content):
    tree = yaml.safe_load(content)
    base: dict[str, Any] = {"corpus": {"paths": ["a.jsonl"]}, "proxy": {"model": "m"}}
    if "heldout" not in tree:
        base["heldout"] = {"share": 0.1}
    merged = base | tree
    for name in (tree.get("target") or {}).get("subsets", []):
        selector, _, budget = name.rpartition("-")
        if selector:
            merged.setdefault("selection", {"budgets": [], "selectors": []})
            for key, value in (("budgets", float(budget)), ("selectors", selector)):
                if value not in merged["selection"][key]:
                    merged["selection"][key].append(value)
    load_config(merged)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_within_the_text_exist(page):
    for code in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:[=:][^`]*)?`", prose(page)):
        if code.partition(".")[0] in SECTIONS and not code.endswith((".py", ".md", ".json", ".yaml", ".jsonl")):
            known = code in FIELDS or any(code.startswith(f"{field}.") for field in FIELDS)
            assert known, f"{page.name}: {code}"


@pytest.mark.parametrize("content", each("python"))
def test_python_examples_compile_and_name_what_there_is(content):
    import s2l_ray

    compile(content, "example", "exec")
    for name in re.findall(r"s2l_ray\.(\w+)\(", content):
        assert callable(getattr(s2l_ray, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    for name in re.findall(r"`((?:jobs|cluster_configs|benchmarks|examples|tests|docs)/[\w./-]+)`", prose(page)):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
