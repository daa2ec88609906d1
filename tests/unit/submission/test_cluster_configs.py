"""cluster_configs/: each file against the checker that its reader has, and each check against a file that is broken."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.util import accelerators

from tests.support.cluster_files import AWS, AZURE, CLOUDS, FOLDER, LAUNCHERS, Doc, load, name, walk
from tests.support.paths import ROOT


def ray_accepts(config: Doc) -> Doc:
    """What `ray up` does to the file before it calls a cloud."""
    prepared: Doc = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def consistent(config: Doc) -> None:
    """What Ray's own check lets through."""
    types, head = config["available_node_types"], config["head_node_type"]
    assert types[head]["resources"] == {"CPU": 0}, "tasks would run on the head"
    assert types[head]["max_workers"] == 0
    workers = {n: t for n, t in types.items() if n != head}
    for worker, t in workers.items():
        assert t["min_workers"] == 0, f"{worker} costs money when idle"
        assert t["max_workers"] > 0, f"{worker} can never start"
        marked = [r.removeprefix("accelerator_type:") for r in t["resources"] if r.startswith("accelerator_type:")]
        gpus = t["resources"].get("GPU", 0)
        assert len(marked) == (gpus > 0), f"{worker}: one accelerator type where there are GPUs, else none"
        assert all(m in vars(accelerators).values() for m in marked), f"{worker}: Ray knows no {marked}"
        extras = "gpu,target" if gpus else "cpu"
        commands = t.get("worker_setup_commands", config["worker_setup_commands"])
        assert commands == [f"bash ~/s2l/node_setup.sh {extras}"], f"{worker} has the wrong packages"
    assert config["max_workers"] == sum(t["max_workers"] for t in workers.values())
    assert {t["resources"].get("GPU", 0) for t in workers.values()} == {0, 1, 8}


def closed(config: Doc) -> None:
    """Nobody but the cluster and its owner gets in."""
    kind = config["provider"]["type"]
    for node, t in config.get("available_node_types", {}).items():
        if kind == "aws":  # without a group of one's own, Ray makes one with SSH open to everybody
            assert t["node_config"].get("SecurityGroupIds"), f"{node} has no security group"
        if kind == "gcp":  # without a network of one's own, nodes land in `default`, open likewise
            networks = [i.get("subnetwork", "") for i in t["node_config"].get("networkInterfaces", [{}])]
            assert all(n.endswith("/s2l-ray") for n in networks), f"{node} has no network"
    assert not {"0.0.0.0/0", "::/0", "*", "Internet"} & {v for v in walk(config) if isinstance(v, str)}, "world-open"
    assert "security_group" not in config["provider"], "Ray would add SSH from everywhere to it"
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray start" not in command or "RAY_AUTH_MODE=token ray start" in command, "no token"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def installs_what_is_here(config: Doc) -> None:
    """The package gets on nodes: what is copied exists (the wheel is built first), every list of commands uses it."""
    for remote, local in config["file_mounts"].items():
        assert local in ("dist", "~/.ray/auth_token") or (ROOT / local).exists(), f"{remote}: no {local} to copy"
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert len(commands) == 1
        assert commands[0].startswith("bash ~/s2l/node_setup.sh ")
    assert config["setup_commands"] == [], "Ray would run it besides"
    nodes = [config, *config.get("available_node_types", {}).values()]
    asked = [c.split()[2].split(",") for n in nodes for c in n.get("worker_setup_commands", [])]
    asked.append(config["head_setup_commands"][0].split()[2].split(","))
    asked += [e.split(",") for e in re.findall(r"EXTRAS=([\w,]+)", (FOLDER / "kuberay" / "Dockerfile").read_text())]
    have = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)) | {"auto"}
    # pip only warns of an extra that it does not know, and installs without it.
    assert {extra for extras in asked for extra in extras} <= have, f"pyproject.toml lacks one of {asked}"


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_launcher(path: Path) -> None:
    config = load(path)
    ray_accepts(config)
    closed(config)
    installs_what_is_here(config)
    if path in CLOUDS:
        consistent(config)
        assert config["idle_timeout_minutes"] <= 15
        assert config["provider"]["cache_stopped_nodes"] is False, "stopped nodes keep their disks"
        (spot,) = (t for t in config["available_node_types"].values() if "spot" in json.dumps(t).lower())
        assert spot["resources"] == {"CPU": 16}
    else:
        assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])
        assert "--num-cpus=0" in config["head_start_ray_commands"][1]


BROKEN: list[tuple[Callable[[Doc], Any], Callable[[Doc], Any], type[Exception]]] = [
    (ray_accepts, lambda c: c.update(max_worker=3), jsonschema.ValidationError),
    (ray_accepts, lambda c: c.pop("head_node_type") and c.update(head_node_type="haed"), ValueError),
    (ray_accepts, lambda c: c["available_node_types"]["cpu_spot"].update(min_worker=1), jsonschema.ValidationError),
    (ray_accepts, lambda c: c["available_node_types"]["cpu_spot"].update(min_workers=99), ValueError),
    (ray_accepts, lambda c: c["available_node_types"]["head"]["resources"].update(CPU=0.5), jsonschema.ValidationError),
    (consistent, lambda c: c["available_node_types"]["head"].update(resources={"CPU": 4}), AssertionError),
    (consistent, lambda c: c["available_node_types"]["cpu_spot"].update(min_workers=1), AssertionError),
    (consistent, lambda c: c.update(max_workers=3), AssertionError),
    (consistent, lambda c: c["available_node_types"]["l4_proxy"].pop("worker_setup_commands"), AssertionError),
    (
        consistent,
        lambda c: c["available_node_types"]["l4_proxy"]["resources"].pop("accelerator_type:L4"),
        AssertionError,
    ),
    (
        consistent,
        lambda c: c["available_node_types"]["l4_proxy"].update(resources={"GPU": 1, "accelerator_type:l4": 1}),
        AssertionError,
    ),
    (closed, lambda c: c["available_node_types"]["head"]["node_config"].pop("SecurityGroupIds"), AssertionError),
    (closed, lambda c: c["provider"].update(security_group={"GroupName": "mine"}), AssertionError),
    (closed, lambda c: c["provider"].update(x=[{"CidrIp": "0.0.0.0/0"}]), AssertionError),
    (closed, lambda c: c.update(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379"]), AssertionError),
    (installs_what_is_here, lambda c: c["file_mounts"].update({"~/x": "cluster_configs/no.sh"}), AssertionError),
    (installs_what_is_here, lambda c: c.update(setup_commands=["pip install s2l_ray"]), AssertionError),
    (installs_what_is_here, lambda c: c.update(head_setup_commands=["bash ~/s2l/node_setup.sh sweap"]), AssertionError),
    (installs_what_is_here, lambda c: c.update(worker_setup_commands=["bash ~/s2l/node_setup.sh cup"]), AssertionError),
]


@pytest.mark.parametrize(("check", "spoil", "error"), BROKEN)
def test_broken_launcher_is_refused(
    check: Callable[[Doc], Any], spoil: Callable[[Doc], Any], error: type[Exception]
) -> None:
    config = load(AWS)
    check(config)
    spoil(config)
    with pytest.raises(error):
        check(config)


@pytest.mark.thorough
def test_aws_fails_closed_and_counts_as_ec2_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's bootstrap against moto's EC2, whose table of instance types is Amazon's."""
    import boto3
    from botocore.exceptions import ParamValidationError
    from moto import mock_aws

    for variable, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(variable, value)
    config = ray_accepts(load(AWS))
    types = config["available_node_types"]
    declared = {n: t["resources"] for n, t in types.items() if n != "head"}
    with mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        with pytest.raises(AssertionError):  # the placeholder: no group is made in its stead
            bootstrap_aws(config)
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        group = ec2.create_security_group(GroupName="s2l-ray", Description="s2l-ray")["GroupId"]
        for t in types.values():
            t["node_config"]["SecurityGroupIds"] = [group]
            fits_ec2(ec2, t["node_config"])
        with pytest.raises(ParamValidationError, match="Instancetype"):
            fits_ec2(ec2, {"Instancetype": "m7i.xlarge"})
        started = bootstrap_aws(config)
        assert all(not g["IpPermissions"] for g in ec2.describe_security_groups()["SecurityGroups"])
        for t in started["available_node_types"].values():
            t["resources"] = {}
        detected = AWSNodeProvider.fillout_available_node_types_resources(started)["available_node_types"]
    for node, resources in declared.items():
        assert {k: v for k, v in detected[node]["resources"].items() if k != "memory"} == resources


def fits_ec2(ec2: Any, node_config: Doc) -> None:
    """EC2's own check of a request's parameters, without the request."""
    from botocore.validate import validate_parameters

    shape = ec2.meta.service_model.operation_model("RunInstances").input_shape
    validate_parameters({"MinCount": 1, "MaxCount": 1, **node_config}, shape)


def test_azure_parameters_are_the_templates() -> None:
    config, ray_azure = load(AZURE), Path(ray.__file__).parent / "autoscaler" / "_private" / "_azure"
    known = set(json.loads((ray_azure / "azure-vm-template.json").read_text())["parameters"]) | {"availability_zone"}
    for node, t in config["available_node_types"].items():
        unknown = set(t["node_config"]["azure_arm_parameters"]) - known
        assert not unknown, f"{node}: Ray's template has no {unknown}"
    assert "vmsize" not in known  # names are case-sensitive, and a wrong one would be found
    # Ray takes over the network under these names, with our rules; under any other name it makes an open one.
    cluster = f"ray-{config['cluster_name']}-{config['provider']['unique_id']}"
    assert f"-n {cluster}-vnet " in AZURE.read_text()
    assert f"--subnet-name {cluster}-subnet " in AZURE.read_text()
    defaults = yaml.safe_load((ray_azure.parents[1] / "azure" / "defaults.yaml").read_text())
    packages = set(defaults["head_setup_commands"][0].split()[3:])
    assert len(packages) > 5
    assert packages <= set(config["head_setup_commands"][0].split())
    assert packages <= set(AZURE.read_text().split("ray up cluster_configs")[0].split())


def node_setup(folder: Path, extras: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a Python that refuses to make an environment: nothing is ever installed."""
    script, python = folder / "node_setup.sh", folder / "python"
    script.write_text((FOLDER / "node_setup.sh").read_text())
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || exit 7\n')
    python.chmod(0o755)
    env = {**os.environ, "HOME": str(folder), "S2L_PYTHON": str(python)}
    return subprocess.run(["bash", str(script), extras], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("extras", "says"),
    [("cpu", "contains no s2l_ray wheel"), ("gpu,cpu", "cannot have both"), ("target", "must include cpu or gpu")],
)
def test_node_setup_refuses(tmp_path: Path, extras: str, says: str) -> None:
    done = node_setup(tmp_path, extras)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_node_setup_takes_the_newest_wheel(tmp_path: Path) -> None:
    for age_s, version in ((100, "2"), (0, "10"), (50, "3")):
        wheel = tmp_path / "dist" / f"s2l_ray-{version}-py3-none-any.whl"
        wheel.parent.mkdir(exist_ok=True)
        wheel.touch()
        os.utime(wheel, (1e9 - age_s, 1e9 - age_s))
    done = node_setup(tmp_path, "cpu")
    assert (done.returncode, done.stdout) == (7, "node_setup: installing s2l_ray-10-py3-none-any.whl[cpu]\n")
