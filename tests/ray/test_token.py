"""A plain `ray start --head`, as in the README: it wants the token that lies in the user's home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.testing.ray_head import RAY, RayHead
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.paths import ROOT

S2L = [sys.executable, "-m", "s2l_ray.cli"]
JOIN = """
import ray
from s2l_ray.execution.session import ray_session
from s2l_ray.config.schema import ResourcesConfig
try:
    with ray_session(ResourcesConfig()):
        print("CPUs:", ray.cluster_resources()["CPU"])
except ValueError as error:
    print("refused:", error)
"""


def make_token(home: Path) -> Path:
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    return home / ".ray/auth_token"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    home = tmp_path_factory.mktemp("homes") / "mine"
    make_token(home)
    plain: dict[str, str | None] = {"HOME": str(home), "RAY_AUTH_MODE": None, "PYTHONPATH": str(ROOT)}
    with RayHead(plain, num_cpus=3) as head:
        yield head


@pytest.fixture(params=["none", "another", "forbidden", "unreadable"])
def wrong(request: pytest.FixtureRequest, head: RayHead, tmp_path: Path) -> tuple[dict[str, str], str]:
    """(environment, what the refusal says)"""
    if request.param == "forbidden":
        return head.environment | {"RAY_AUTH_MODE": "disabled"}, "unset RAY_AUTH_MODE"
    if request.param == "unreadable":
        return head.environment | {"RAY_AUTH_TOKEN_PATH": "/no/such/file"}, "no token can be read from"
    home = tmp_path / "home"
    if request.param == "none":
        home.mkdir()
        return head.environment | {"HOME": str(home)}, "this machine has none"
    make_token(home)
    return head.environment | {"HOME": str(home)}, "rejects this machine's token"


def write_config(folder: Path) -> None:
    (folder / "my.yaml").write_text(yaml.safe_dump(tiny_run_config(folder / "run")))


def call(command: list[str], folder: Path, environment: dict[str, str]) -> Any:
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400
    )


@pytest.mark.thorough
def test_a_job_is_submitted_with_the_token_that_is_there(head: RayHead, tmp_path: Path) -> None:
    write_config(tmp_path)
    done = call([*S2L, "submit", "my.yaml", "--address", head.address, "--dry-run"], tmp_path, head.environment)
    assert done.returncode == 0, done.stdout
    assert "Dry run: nothing was started." in done.stdout


@pytest.mark.thorough
def test_rays_own_submit_works_as_the_readme_says(head: RayHead, tmp_path: Path) -> None:
    write_config(tmp_path)
    shutil.copy(ROOT / "jobs/run_all.py", tmp_path)
    line = f"{RAY} job submit --address {head.address} --working-dir . -- python run_all.py my.yaml --dry-run"
    done = call(line.split(), tmp_path, head.environment | {"RAY_AUTH_MODE": "token"})
    assert done.returncode == 0, done.stdout
    assert "Dry run: nothing was started." in done.stdout


@pytest.mark.thorough
def test_a_cluster_is_joined_with_the_token_that_is_there(head: RayHead, tmp_path: Path) -> None:
    environment = head.environment | {"RAY_ADDRESS": head.gcs_address}
    done = call([sys.executable, "-c", JOIN], tmp_path, environment)
    assert "CPUs: 3" in done.stdout, done.stdout


@pytest.mark.thorough
def test_a_refusal_is_one_line_that_helps(head: RayHead, tmp_path: Path, wrong: tuple[dict[str, str], str]) -> None:
    environment, message = wrong
    write_config(tmp_path)
    done = call([*S2L, "submit", "my.yaml", "--address", head.address], tmp_path, environment)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("warning: ")]
    assert done.returncode == 2, done.stdout
    assert len(lines) == 1, done.stdout
    assert message in lines[0]

    done = call([sys.executable, "-c", JOIN], tmp_path, environment | {"RAY_ADDRESS": head.gcs_address})
    lines = [
        line for line in done.stdout.splitlines() if "gcs_client.cc" not in line
    ]  # Ray's C++ part tries for a while
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith("refused: "), done.stdout
    assert message in lines[0]
