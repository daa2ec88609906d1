"""Ways in from outside: what docs/extending.md shows is registered as it stands there, and runs end to end."""

from __future__ import annotations

import re
import shutil

import pytest

import s2l_ray
from s2l_ray.config import load_config
from s2l_ray.errors import UserError
from s2l_ray.testing.quiet import Quiet
from s2l_ray.workflow import stages
from tests.support.paths import ROOT

DOCS = ROOT / "docs/extending.md"


def example(section: str) -> str:
    """The program of a section."""
    text = DOCS.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def test_a_stage_from_outside_is_built_once_and_skipped_after(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_EXTRA", {})
    folder = shutil.copytree(finished.storage.local_path(), tmp_path / "run")
    config = load_config(finished.config.model_dump(mode="json") | {"run_dir": str(folder)})
    exec(compile(example("A stage"), str(DOCS), "exec"), {"__name__": "outside"})
    first = s2l_ray.run(config, progress=Quiet())
    stage = first.stage("lengths")
    assert not stage.reused
    assert all(one.reused for name, one in first.stages.items() if name != "lengths")
    tokens = first.stage("tokens").manifest
    mean = tokens.extra["num_tokens"] / tokens.row_counts["sequences"]
    assert stage.storage.read_json("lengths.json") == {"mean": mean}
    assert stage.manifest.extra["mean_tokens"] == mean
    assert s2l_ray.run(config, progress=Quiet()).stage("lengths").reused


def test_a_stage_that_could_never_be_built_is_refused(monkeypatch):
    monkeypatch.setattr(stages, "_EXTRA", {})
    with pytest.raises(UserError, match=r"after='tokenss' is no stage .*name one of corpus, tokens"):
        stages.register_stage(lambda context: pytest.fail("built"), after="tokenss")
