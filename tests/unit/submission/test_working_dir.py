"""What `s2l submit --working-dir` sends, and what it leaves out and says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import s2l_ray
from s2l_ray.cli import parse
from s2l_ray.submission import working_dir
from s2l_ray.submission.prepare import SubmitError, prepare
from s2l_ray.submission.working_dir import WorkingDirError, select_files
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "project"


def write(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sent(folder: Path, *include: str) -> set[str]:
    return set(select_files(folder, include).files)


SECRETS = [
    ".env", ".env.local", "deploy/.env.production", ".envrc", "prod.env", "server.pem", "tls/server.key", "KEY.PEM",
    "id_rsa", "id_rsa.bak", "keys/id_ed25519", "my-service-account.json", "service_account_key.json",
    "client_secret_123.json", "application_default_credentials.json", "credentials", "credentials.json",
    ".aws/credentials", ".aws/config", ".ssh/known_hosts", ".netrc", "_netrc", ".pgpass", ".git/config",
    ".config/gcloud/access_tokens.db", ".kube/config", "kubeconfig", "my.kubeconfig", "kubeconfig.yaml", "token",
    ".token", "hf_token", "hf_token.txt", "token.json", ".vault-token", ".docker/config.json", ".npmrc", ".pypirc",
    ".git-credentials", "secrets.yaml", "secrets/api.txt", "terraform.tfstate", "prod.tfvars", "store.p12", "x.jks",
    ".ray/auth_token", ".huggingface/token", ".kaggle/kaggle.json", "rclone.conf", ".s3cfg", "a/b/c/.ssh/x",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_stay_here(folder: Path, name: str) -> None:
    write(folder, name, "train.jsonl")
    selected = select_files(folder)
    assert set(selected.files) == {"train.jsonl"}
    assert "secrets" in selected.describe()[0]
    assert name in sent(folder, name)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "special_tokens_map.json", "tokens/a.py", "auth_token.py", "keys.txt", "environment.yml",
     "monkey.csv", "model.safetensors", "envs/a.py", "my_keyboard.jsonl", ".github/workflows/x.yml"],
)  # fmt: skip
def test_what_only_sounds_like_one_is_sent(folder: Path, name: str) -> None:
    write(folder, name)
    assert sent(folder) == {name}


def test_a_key_is_known_by_its_content(folder: Path) -> None:
    write(folder, "deploy", text=KEY)
    write(folder, "gcp.json", text='{"type": "x", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE", "a": 1}')
    write(folder, "about_keys.md", text="A file that begins with -----BEGIN PRIVATE KEY----- is a key.")
    assert sent(folder) == {"about_keys.md"}


def test_links_do_not_lead_out_nor_around_a_rule(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "data.jsonl")
    write(folder, "a/real.txt", ".env", ".aws/config")
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    (folder / "outside.jsonl").symlink_to(tmp_path / "elsewhere/data.jsonl")
    (folder / "innocent.txt").symlink_to(".env")
    (folder / "innocent").symlink_to(".aws")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "inside").symlink_to("a")
    (folder / "a/loop").symlink_to("..")
    (folder / "itself").symlink_to("itself")
    os.mkfifo(folder / "pipe")
    selected = select_files(folder)
    assert {name for name in selected.files if "loop" not in name} == {"a/real.txt", "inside/real.txt"}
    assert not any(".env" in name or ".aws" in name or "innocent" in name for name in selected.files)
    told = " ".join(selected.describe())
    assert "outside" in told
    assert "pipe" in told
    assert sent(folder, "outside.jsonl") - set(selected.files) == {"outside.jsonl"}


def test_ignore_files_count_as_in_git(folder: Path) -> None:
    write(folder, "a.log", "keep.log", "sub/b.log", "sub/keep.log", "build/x", "sub/build/y", "data/1.jsonl", "z.tmp")
    write(folder, "sub/deep/c.tmp", "sub/deep/d.tmp", "out/dir/x.py")
    write(folder, ".gitignore", text="*.log\n!keep.log\nbuild/\n/data\nout/*\n!out/dir/\n")
    write(folder, "sub/.gitignore", text="keep.log\n*.tmp\n!d.tmp\n")
    write(folder, ".rayignore", text="z.*\n")
    assert sent(folder) == {"keep.log", "sub/deep/d.tmp", "out/dir/x.py"}
    assert sent(folder, "/data/", "z.tmp") == {"keep.log", "sub/deep/d.tmp", "out/dir/x.py", "data/1.jsonl", "z.tmp"}


def test_the_repository_above_counts_too(folder: Path) -> None:
    write(folder.parent, ".git/HEAD", ".git/info/exclude", text="private.txt\n")
    write(folder.parent, ".gitignore", text="*.ckpt\n")
    write(folder, "a.ckpt", "private.txt", "b.txt")
    assert sent(folder) == {"b.txt"}


def test_runs_stay_here(folder: Path) -> None:
    write(folder, "runs/my/config.yaml", "runs/my/metrics.jsonl", "runs/my/proxy/ray_train/model.bin", "runs/notes.txt")
    selected = select_files(folder)
    assert set(selected.files) == {"runs/notes.txt"}
    assert any("(runs of s2l): runs/my/" in line for line in selected.describe())


def test_too_large_is_said_before_anything_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_dir, "MAX_BYTES", 5_000_000)
    write(folder, "big/a.bin", "big/b.bin", text="x" * 3_000_000)
    with pytest.raises(WorkingDirError, match=r"would send 6 MB.*at most 5 MB .largest: big 6 MB"):
        select_files(folder)
    monkeypatch.setattr(working_dir, "_MAX_FILES", 1)
    with pytest.raises(WorkingDirError, match="more than 1 files"):
        select_files(folder)


def test_a_name_that_cannot_be_sent_is_named(folder: Path) -> None:
    write(folder, "ok")
    open(os.fsencode(folder) + b"/caf\xe9.txt", "w").close()
    with pytest.raises(WorkingDirError, match=r"caf.*has a name that cannot be sent"):
        select_files(folder)


def prepared(*line: str) -> Any:
    options = parse(["submit", *line])
    parsed = parse([options.command, options.what, *options.overrides, *options.rest])
    out = Path("out")
    out.mkdir()
    return prepare(options, parsed, out)


def config(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "my.yaml").write_text(yaml.safe_dump(tiny_run_config(Path("/shared/run"), **changes)))
    return str(folder / "my.yaml")


def test_what_the_job_gets(folder: Path) -> None:
    name = config(folder, corpus__quickstart=None, corpus__paths=["data/*.jsonl"])
    write_jsonl(folder / "data/train.jsonl", [{"prompt": "a", "completion": "b"}])
    write(folder, ".env", "id_rsa")
    write(folder, ".gitignore", text="my.yaml\n")  # named on the command line: sent all the same
    got = prepared(name, "--working-dir", str(folder), "--include", "id_rsa", "run_dir=s3://bucket/run")
    there = Path(got.runtime_env["working_dir"])
    assert sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()) == [
        "data/train.jsonl", "id_rsa", "my.yaml",
    ]  # fmt: skip
    assert any("1 left out of --working-dir (may hold secrets" in w and ".env" in w for w in got.warnings)


def test_the_jobs_own_data_may_not_be_left_out_unsaid(folder: Path) -> None:
    name = config(folder, corpus__quickstart=None, corpus__paths=["data/*.jsonl"])
    write_jsonl(folder / "data/train.jsonl", [{"prompt": "a", "completion": "b"}])
    write(folder, ".gitignore", text="data/\n")
    with pytest.raises(
        SubmitError, match=r"corpus\.paths=data/\*\.jsonl: --working-dir would not send 1 of these files.*--include"
    ):
        prepared(name, "--working-dir", str(folder))


def test_the_package_goes_whole_and_without_what_lies_in_it(folder: Path) -> None:
    source = Path(s2l_ray.__file__).parent
    (package,) = prepared(config(folder)).runtime_env["py_modules"]
    names = {
        p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert {p.relative_to(package).as_posix() for p in Path(package).rglob("*") if p.is_file()} == names


def test_include_needs_a_folder(folder: Path) -> None:
    with pytest.raises(SubmitError, match="without --working-dir no files are sent"):
        prepared(config(folder), "--include", "x")
