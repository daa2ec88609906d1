"""What `s2l submit` sends and what it refuses to send; no cluster is needed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import s2l_ray
from s2l_ray.cli import main, parse
from s2l_ray.config import load_config
from s2l_ray.submission.prepare import SubmitError, extra_requirements, prepare
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def config(where: str = "my.yaml", **changes: Any) -> str:
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    Path(where).write_text(yaml.safe_dump(tiny_run_config(Path("/shared/run"), **changes)))
    return where


def prepared(*line: str) -> Any:
    options = parse(["submit", *line])
    parsed = parse([options.command, options.what, *options.overrides, *options.rest])
    folder = Path("work")
    folder.mkdir()
    return prepare(options, parsed, folder)


def test_the_resolved_configuration_is_all_that_is_sent(here):
    Path("secret.txt").write_text("mine")
    sent = prepared(config(), "proxy.epochs=1", "--address", "http://x:1", "selection.budgets=[7]", "--dry-run")
    folder = Path(sent.runtime_env["working_dir"])
    assert [p.name for p in folder.iterdir()] == ["config.yaml"]
    assert sent.entrypoint == "python -m s2l_ray.cli run config.yaml --dry-run"
    resolved = load_config(str(folder / "config.yaml"))
    assert resolved == load_config("my.yaml", ["proxy.epochs=1", "selection.budgets=[7]"])
    (package,) = sent.runtime_env["py_modules"]
    assert sorted(os.listdir(package)) == sorted(set(os.listdir(Path(s2l_ray.__file__).parent)) - {"__pycache__"})
    assert "env_vars" not in sent.runtime_env
    assert any("run_dir=/shared/run is a local path" in w for w in sent.warnings)


def test_a_working_folder_keeps_relative_paths(here):
    write_jsonl(Path("project/data/train.jsonl"), [{"prompt": "a", "completion": "b"}])
    name = config("project/my.yaml", corpus__quickstart=None, corpus__paths=["data/*.jsonl"])
    sent = prepared(name, "proxy.epochs=1", "--working-dir", "project", "run_dir=s3://bucket/run")
    folder = Path(sent.runtime_env["working_dir"])
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == ["data/train.jsonl", "my.yaml"]
    assert sent.entrypoint == "python -m s2l_ray.cli run my.yaml proxy.epochs=1 run_dir=s3://bucket/run"
    assert sent.warnings == []


def test_other_commands_are_parsed_here_too(capsys):
    sent = prepared("s3://bucket/runs/my", "target.model=m", "--command", "finetune", "--budget", "0.11")
    assert sent.entrypoint == "python -m s2l_ray.cli finetune s3://bucket/runs/my target.model=m --budget 0.11"
    assert sent.name == "my"
    with pytest.raises(SystemExit):
        main(["submit", "s3://bucket/runs/my", "--command", "finetune", "--budgte", "0.11"])
    assert "--budgte" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({}, ["run_dir=runs/tiny"], "run_dir=runs/tiny is relative"),
        ({}, ["run_dir=null"], "run_dir .not set.=runs/tiny"),
        ({"corpus__quickstart": None, "corpus__paths": ["data/train.jsonl"]}, [], "corpus.paths=data/train.jsonl is"),
        ({"corpus__quickstart": None, "corpus__paths": ["s3://key:word@b/x.jsonl"]}, [], "holds credentials"),
        ({}, ["run_dir=s3://b/run?secret_key=abc"], "holds credentials"),
        ({}, ["resources.ray_address=other:6379"], "use another cluster than the one"),
        ({}, ["--env", "S2L_NOT_THERE"], "no such variable"),
        ({}, ["--env", "HF_TOKEN=abc"], "give only the name"),
        ({}, ["--extras", "cpu,gpu"], "both provide the module faiss"),
        ({}, ["--extras", "gpus"], "no such extra"),
        ({}, ["--package", "/nowhere"], "does not contain the package"),
        ({}, ["--working-dir", "elsewhere"], "is not inside"),
    ],
)
def test_what_would_fail_there_is_refused_here(changes, line, message):
    name = config(**changes)
    with pytest.raises(SubmitError, match=message):
        prepared(name, *line)


@pytest.mark.thorough
def test_refusals_end_with_2(capsys):
    assert main(["submit", config(), "clusters.num_cluster=3"]) == 2
    assert "num_clusters" in capsys.readouterr().err
    assert main(["submit", config()]) == 2
    assert "--address is missing" in capsys.readouterr().err
    assert main(["submit", config(), "--address", "head:6379"]) == 2
    assert "not the URL of a dashboard" in capsys.readouterr().err
    assert main(["submit", config(), "--address", "http://127.0.0.1:1"]) == 2
    assert "no dashboard of a Ray cluster answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_variable_goes_along_only_when_asked_for(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    sent = prepared(config(), "--env", "HF_TOKEN")
    assert sent.runtime_env["env_vars"] == {"HF_TOKEN": "mine"}


def test_of_a_wheel_only_the_package_is_sent():
    with zipfile.ZipFile("s2l_ray-9-py3-none-any.whl", "w") as wheel:
        for name in ("s2l_ray/__init__.py", "s2l_ray/cli/__init__.py", "s2l_ray-9.dist-info/METADATA", "other/x.py"):
            wheel.writestr(name, "")
    sent = prepared(config(), "--package", "s2l_ray-9-py3-none-any.whl")
    (package,) = sent.runtime_env["py_modules"]
    assert sorted(os.listdir(package)) == ["__init__.py", "cli"]
    assert "work/working_dir" not in package


def test_extras_are_what_the_package_says():
    assert any(r.startswith("faiss-cpu") for r in extra_requirements(["cpu"]))
