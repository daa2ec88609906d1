"""The files of cluster_configs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from s2l_ray.cli import make_parser
from s2l_ray.config import list_recipes, load_config
from tests.support.paths import ROOT

Doc = dict[str, Any]


FOLDER = ROOT / "cluster_configs"


LAUNCHERS = sorted(FOLDER.glob("*.yaml"))


CLOUDS = [p for p in LAUNCHERS if not p.name.startswith("onprem")]


AWS, AZURE = (next(p for p in CLOUDS if p.name.startswith(c)) for c in ("aws", "azure"))


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


MY_YAML = {"my.yaml", "/etc/s2l/my.yaml"}  # the reader's own file


def load(path: Path) -> Doc:
    doc = yaml.safe_load(path.read_text())
    assert isinstance(doc, dict)
    return doc


def commands(path: Path) -> list[str]:
    """Commands in comments and in code blocks, continued lines joined, what stands after two spaces and # cut off."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)) + "\n".join(re.findall(r"`([^`\n]+)`", text))
    else:
        text = "\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    lines = [re.sub(r"  +#.*", "", line).strip().removeprefix("(") for line in lines]
    found = [re.search(r"(?:^|: )((?:ray|s2l|kubectl|docker|pip|rm) [a-z-].*?)\)?$", line) for line in lines]
    return [match[1] for match in found if match]


def walk(node: Any) -> Iterator[Any]:
    """The node and all below it, dictionaries' keys left out."""
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from walk(child)


def runnable(lines: list[str]) -> None:
    """Files that commands name exist, `s2l` has the subcommand, recipes and settings are known."""
    choices = next(a.choices for a in make_parser()._actions if isinstance(a.choices, dict))
    for line in lines:
        words = shlex.split(line)
        for word in words:
            if re.match(r"(cluster_configs|jobs|tests)/|constraints\.txt$", word):
                assert (ROOT / word).exists(), f"{line}: there is no {word}"
        ours = words[words.index("--") + 1 :] if "--" in words else words
        if ours[0] == "s2l":
            subcommand, *rest = ours[1:]
            assert subcommand in choices, f"{line}: s2l has no {subcommand}"
            if subcommand == "run":
                assert rest[0] in MY_YAML | set(list_recipes()), f"{line}: no recipe {rest[0]}"
                load_config("quickstart", [word for word in rest[1:] if "=" in word])
        if words[0] == "ray" and words[1] in ("up", "down", "dashboard") and words[2:]:
            assert (ROOT / words[2]) in LAUNCHERS, line
