"""Generate pages of the manual from the code, so that they are never out of date.

Generated are the configuration fields, the help of every command, the instructions in the launcher files, and copies of
Markdown files from elsewhere in the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIED = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
LAUNCHERS = {
    "aws": "aws_spot_cpu_l4_proxy_8xh100_target.yaml",
    "gcp": "gcp_spot_cpu_l4_proxy_8xh100_target.yaml",
    "azure": "azure_spot_cpu_a100_proxy_8xh100_target.yaml",
    "onprem": "onprem_cpu_head_gpu_workers.yaml",
    "kubernetes": "kuberay/raycluster_spot_cpu_l4_proxy_8xh100_target.yaml",
    "kubernetes-job": "kuberay/rayjob_spot_cpu_l4_proxy_8xh100_target.yaml",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append pages that are missing from the navigation to the guide, so that readers find new pages."""
    assert config.nav is not None
    placed = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    docs = Path(config.docs_dir)
    left = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    guide = next(part["Guide"] for part in config.nav if isinstance(part, dict) and "Guide" in part)
    guide += [page for page in left if page not in placed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"reference/configuration.md": configuration(), "reference/commands.md": commands()}
    pages |= {name: copied(source) for name, source in COPIED.items()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def copied(source: str) -> str:
    """Return a file from elsewhere in the repository, with its links into the manual adapted to its new place."""
    return re.sub(r"\]\((?:\.\./)?docs/", "](", (ROOT / source).read_text(encoding="utf-8"))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `{launcher: aws}` with the instructions at the head of that launcher file."""
    return re.sub(r"^\{launcher: ([a-z-]+)\}$", lambda match: launcher(match[1]), markdown, flags=re.MULTILINE)


def launcher(name: str) -> str:
    """Return the comment at the head of a launcher file as Markdown."""
    lines = []
    for line in (ROOT / "cluster_configs" / LAUNCHERS[name]).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[2:])
    head = f"`cluster_configs/{LAUNCHERS[name]}` begins with these instructions:"
    return "\n".join([head, "", "```text", *lines, "```"])


def configuration() -> str:
    """Return the page of all configuration sections and fields."""
    from s2l_ray.config.describe import describe_all

    lines = [
        "# Every setting", "",
        "A configuration is a YAML file of these sections. Any field can also be set on the command line, as "
        "`section.field=value`. `s2l explain section.field` says the same in a terminal, and `s2l schema` gives the "
        "JSON schema that editors use to complete and check a file.", "", "## Top level", "",
    ]  # fmt: skip
    for one in describe_all():
        if one.type == "section":
            lines += [f"## {one.path}", "", one.text, ""]
            continue
        facts = [one.type, f"default `{one.default}`" if one.default else "required", one.bounds]
        lines += [f"**`{one.path}`** · " + " · ".join(fact for fact in facts if fact), "", f": {one.text}", ""]
    return "\n".join(lines).replace("\n: ", "\n")


def commands() -> str:
    """Return the page with the help of every command."""
    from s2l_ray.cli import make_parser

    os.environ["COLUMNS"] = "88"
    parser = make_parser()
    lines = ["# Every command", "", "```text", parser.format_help().rstrip(), "```", ""]
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, command in action.choices.items():
                lines += [f"## s2l {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)
