"""cluster_configs/kuberay/: the files against KubeRay's CRDs and Ray's autoscaler, the checks against broken files."""

from __future__ import annotations

import copy
import functools
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.support.cluster_files import FOLDER, Doc, load, name, runnable, walk
from tests.support.paths import SHARED

CRDS = SHARED / "data" / "kuberay"
RAYCLUSTER = FOLDER / "kuberay" / "raycluster_spot_cpu_l4_proxy_8xh100_target.yaml"
RAYJOB = FOLDER / "kuberay" / "rayjob_spot_cpu_l4_proxy_8xh100_target.yaml"
POLICY = FOLDER / "kuberay" / "network_policy.yaml"

needs_crds = pytest.mark.skipif(
    not CRDS.is_dir(), reason=f"no KubeRay CRDs at {CRDS}, which is not part of the project"
)


@functools.cache
def crd_spec(kind: str) -> Doc:
    """The schema of a kind, refusing what the API server would drop without a word."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 20,000 lines: the C one is ten times faster
    crd = yaml.load(gzip.decompress((CRDS / f"ray.io_{kind}s.yaml.gz").read_bytes()), Loader=loader)
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema: Doc = version["schema"]["openAPIV3Schema"]
    for node in walk(schema):
        # `properties` may itself be the name of a field: a schema's has schemas as values.
        if not isinstance(node, dict) or not isinstance(node.get("properties"), dict) or "type" not in node:
            continue
        if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            node["additionalProperties"] = False
    return schema


@pytest.mark.thorough
@needs_crds
@pytest.mark.parametrize("path", [RAYCLUSTER, RAYJOB], ids=name)
def test_kuberay_file_fits_its_crd(path: Path) -> None:
    doc = load(path)
    validator = jsonschema.Draft202012Validator(crd_spec(doc["kind"].lower()))
    validator.validate(doc)
    cluster = doc["spec"].get("rayClusterSpec", doc["spec"])
    template = cluster["workerGroupSpecs"][0]["template"]["spec"]
    for place, key, value in (
        (doc["spec"], "ttlSecondAfterFinished", 1),
        (cluster["autoscalerOptions"], "version", "v3"),
        (cluster["authOptions"], "mod", "token"),
        (cluster["workerGroupSpecs"][0], "maxReplicas", "many"),
        (template, "nodeselector", {}),
        (template["containers"][0], "envfrom", []),
        (template["containers"][0]["envFrom"][0]["secretRef"], "key", "HF_TOKEN"),
    ):
        kept = dict(place)
        place[key] = value
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(doc)
        place.clear()
        place.update(kept)
    validator.validate(doc)


DRAIN_S = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


def private(spec: Doc) -> None:
    """A RayCluster's spec: nothing of it is reachable from outside, no secret is in it."""
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["enableIngress"] is False
    for node in walk(spec):
        if isinstance(node, dict):
            assert not {"hostPort", "nodePort", "hostNetwork", "privileged"} & set(node), f"open: {node}"
            assert "env" not in node or "containers" not in node
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for container in group["template"]["spec"]["containers"]:
            assert [list(e) for e in container["envFrom"]] == [["secretRef"]]
            literals = {e["name"]: e.get("value") for e in container.get("env", [])}
            assert literals.keys() <= {DRAIN_S}, "a literal in the file; put it into the secret"
            if DRAIN_S in literals:  # the pod must live as long as it has said
                assert int(literals[DRAIN_S]) < group["template"]["spec"]["terminationGracePeriodSeconds"]


def autoscales(spec: Doc) -> None:
    """What Ray's autoscaler makes of the spec: a head without CPUs, groups from 0 that say what they will have."""
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    seen = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "s2l", "namespace": "s2l"}, "spec": spec})
    types = seen["available_node_types"]
    assert types.pop("headgroup")["resources"]["CPU"] == 0
    got = {n: (t["min_workers"], {k: v for k, v in t["resources"].items() if k != "memory"}) for n, t in types.items()}
    assert got == {
        "cpu-spot": (0, {"CPU": 15}),
        "l4-proxy": (0, {"CPU": 7, "GPU": 1, "accelerator_type:L4": 1}),
        "h100x8-target": (0, {"CPU": 90, "GPU": 8, "accelerator_type:H100": 1}),
    }
    for group in spec["workerGroupSpecs"]:
        pod, gpus = group["template"]["spec"], got[group["groupName"]][1].get("GPU", 0)
        limits = pod["containers"][0]["resources"]["limits"]
        assert group["replicas"] == 0
        assert int(limits.get("nvidia.com/gpu", 0)) == gpus
        assert int(limits["cpu"]) == got[group["groupName"]][1]["CPU"]
        assert pod["restartPolicy"] == "Never", "autoscaler v2 takes a pod for a node"
        assert pod["nodeSelector"] == {"s2l-ray/pool": group["groupName"]}
        assert any(t["key"] == "nvidia.com/gpu" for t in pod["tolerations"]) == (gpus > 0)
        assert pod["containers"][0]["image"].endswith(":gpu" if gpus else ":cpu")


def test_kuberay_cluster() -> None:
    spec = load(RAYCLUSTER)["spec"]
    private(spec)
    autoscales(spec)


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (private, lambda s: s["headGroupSpec"].update(serviceType="LoadBalancer")),
        (private, lambda s: s.pop("authOptions") and s.update(authOptions={"mode": "disabled"})),
        (private, lambda s: pod_of(s)["containers"][0].update(env=[{"name": "HF_TOKEN", "value": "hf_x"}])),
        (private, lambda s: pod_of(s).update(hostNetwork=True)),
        (private, lambda s: pod_of(s)["containers"][0].update(ports=[{"containerPort": 8265, "hostPort": 8265}])),
        (autoscales, lambda s: s["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
        (autoscales, lambda s: s["workerGroupSpecs"][0].update(minReplicas=1)),
        (autoscales, lambda s: s["workerGroupSpecs"][1]["resources"].pop("accelerator_type:L4")),
        (autoscales, lambda s: pod_of(s).update(restartPolicy="Always")),
        (autoscales, lambda s: pod_of(s).update(tolerations=[{"key": "nvidia.com/gpu"}])),
    ],
)
def test_broken_kuberay_cluster_is_refused(check: Callable[[Doc], None], spoil: Callable[[Doc], Any]) -> None:
    spec = load(RAYCLUSTER)["spec"]
    spoil(spec)
    with pytest.raises(AssertionError):
        check(spec)


def pod_of(spec: Doc) -> Doc:
    pod: Doc = spec["workerGroupSpecs"][0]["template"]["spec"]
    return pod


def test_rayjob_is_the_cluster_for_one_run() -> None:
    job = load(RAYJOB)["spec"]
    assert job["rayClusterSpec"] == load(RAYCLUSTER)["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert 0 < job["ttlSecondsAfterFinished"] <= 600
    assert job["activeDeadlineSeconds"] > 0
    runnable([job["entrypoint"]])


def closes(policy: Doc) -> None:
    spec = policy["spec"]
    assert spec["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert spec["policyTypes"] == ["Ingress"]
    for rule in spec["ingress"]:
        assert rule.get("from"), "a rule without `from` lets in everybody"
        for peer in rule["from"]:
            assert peer.get("podSelector"), f"all pods, or addresses: {peer}"


def test_network_policy() -> None:
    policy = load(POLICY)
    closes(policy)
    for spoil in ({"ports": [{"port": 8265}]}, {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}):
        broken = copy.deepcopy(policy)
        broken["spec"]["ingress"].append(spoil)
        with pytest.raises(AssertionError):
            closes(broken)


@needs_crds
def test_network_policy_fits_the_rules_of_kubernetes() -> None:
    """The RayCluster's CRD embeds the same rules."""
    spec = crd_spec("raycluster")["properties"]["spec"]["properties"]["networkPolicy"]["properties"]
    rule = spec["head"]["properties"]["ingressRules"]["items"]
    rules = load(POLICY)["spec"]["ingress"]
    for r in rules:
        jsonschema.validate(r, rule)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**rules[0], "form": []}, rule)
