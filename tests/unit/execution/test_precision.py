"""fp32 or bf16: by processors and the model's size, resolved once for a run and kept with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.artifacts.snapshots import read_snapshot, snapshot_folder
from s2l_ray.config import ProxyConfig, TargetConfig, load_config
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.execution.node_facts import NodeFacts, cpu_multiplies_bf16
from s2l_ray.execution.placement import Placement, PlacementError
from s2l_ray.execution.precision import choose_precision, keep_precision
from s2l_ray.stages.layout import precisions_of
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.storage.folder import Storage
from tests.support.recording import PARTS, RecordingWorker, recording_job

PLAIN = NodeFacts("plain", 64 * 10**9, 8, "2.13.0+cpu", False, 0, None, False)
AMX = replace(PLAIN, name="amx", cpu_multiplies_bf16=True)
AMPERE = NodeFacts("a100", 64 * 10**9, 8, "2.13.0+cu130", True, 1, 80 * 10**9, True)
TURING = replace(AMPERE, name="t4", gpus_have_bf16=False)


def proxy(precision: str = "auto", **fields: Any) -> ProxyConfig:
    return ProxyConfig.model_validate({"model": "EleutherAI/pythia-70m", "precision": precision} | fields)


@pytest.mark.parametrize(
    ("setting", "device", "nodes", "width", "expected"),
    [
        ("auto", "gpu", [AMPERE], 0, "bf16"),
        ("auto", "gpu", [], 0, "bf16"),  # nodes will come
        ("auto", "gpu", [AMPERE, TURING], 0, "fp32"),
        ("auto", "cpu", [PLAIN], 4096, "fp32"),
        ("auto", "cpu", [AMX], 512, "bf16"),
        ("auto", "cpu", [AMX], 511, "fp32"),
        ("auto", "cpu", [AMX, PLAIN], 4096, "fp32"),  # a worker may land on either
        ("auto", "cpu", [], 4096, "fp32"),  # nothing is known of them
        ("fp32", "gpu", [AMPERE], 0, "fp32"),
        ("fp32", "cpu", [AMX], 4096, "fp32"),
        ("bf16", "cpu", [AMX], 0, "bf16"),
        ("bf16", "gpu", [AMPERE], 0, "bf16"),
    ],
)
def test_auto_goes_by_processors_and_size(setting: str, device: str, nodes: list[NodeFacts], width: int, expected: str):
    assert choose_precision(proxy(setting), device, nodes, width) == expected


@pytest.mark.parametrize(
    ("device", "nodes", "says"),
    [
        ("cpu", [AMX, PLAIN], r"proxy.precision=bf16 on plain .*unusably slow.*amx_bf16.*use fp32"),
        ("gpu", [TURING], r"proxy.precision=bf16 on t4 .*compute capability 8.0.*use fp32"),
    ],
)
def test_bf16_where_nothing_computes_it_is_refused(device: str, nodes: list[NodeFacts], says: str):
    with pytest.raises(PlacementError, match=says):
        choose_precision(proxy("bf16"), device, nodes, 4096)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\nprocessor : 1\nflags\t\t: fpu avx2 amx_bf16\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 amx_bf16\nprocessor : 1\nflags\t\t: fpu avx2\n", False),
        ("processor : 0\nflags\t\t: fpu avx512_bf16 amx_int8\n", False),
        ("processor : 0\nFeatures : fp asimd bf16\n", False),
        ("", False),
    ],
)
def test_matrix_units_are_found_in_the_processors_flags(tmp_path: Path, cpuinfo: str, expected: bool):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_multiplies_bf16(str(tmp_path / "cpuinfo")) is (expected and torch.backends.mkldnn.is_available())
    assert cpu_multiplies_bf16(str(tmp_path / "none")) is False


def test_a_run_keeps_its_precision_on_other_machines_and_says_so(tmp_path: Path):
    storage, said = Storage.open(tmp_path), list[str]()
    assert keep_precision(storage, proxy(), "bf16", said.append) == "bf16"
    assert keep_precision(storage, proxy(), "bf16", said.append) == "bf16"
    assert not said
    assert keep_precision(storage, proxy(), "fp32", said.append) == "bf16"
    assert "this run started in bf16" in said[0]
    assert "proxy.precision=fp32" in said[0]
    other = proxy(model="EleutherAI/pythia-160m")
    assert keep_precision(storage, other, "fp32", said.append) == "fp32", "another model has its own"
    assert keep_precision(storage, proxy("fp32"), "fp32", said.append) == "fp32", "what is asked for is done"
    target = TargetConfig.model_validate({"model": "EleutherAI/pythia-70m"})
    assert keep_precision(storage, target, "fp32", said.append) == "fp32"
    assert len(said) == 1


def test_a_changed_note_is_not_used_and_said(tmp_path: Path):
    storage, note = Storage.open(tmp_path), tmp_path / "precision.json"
    keep_precision(storage, proxy(), "bf16", print)
    whole = note.read_text()
    for content in ("", "{", "[1]", "3", '{"a": "fp8"}', whole.replace('"bf16"', '"fp32"'), whole[: len(whole) // 2],
                    '{"digest": 1}', '{"precisions": 1, "digest": 2}'):  # fmt: skip
        note.write_text(content)
        said = list[str]()
        assert keep_precision(storage, proxy(), "fp32", said.append) == "fp32", content
        [line] = said
        assert f"{note}, which says in which precision this run trains, was changed or is damaged" in line
        assert "set proxy.precision" in line
        assert keep_precision(storage, proxy(), "bf16", said.append) == "fp32"  # it is written anew


def test_a_note_without_a_digest_is_that_of_an_earlier_version(tmp_path: Path):
    storage, note = Storage.open(tmp_path), tmp_path / "precision.json"
    keep_precision(storage, proxy(), "bf16", print)
    note.write_text(json.dumps(json.loads(note.read_text())["precisions"]))
    said = list[str]()
    assert keep_precision(storage, proxy(), "fp32", said.append) == "bf16"
    assert len(said) == 1
    assert "this run started in bf16" in said[0]


def test_models_too_small_for_it_ask_no_node(tmp_path: Path):
    """There is no Ray here that could be asked."""
    place = Placement("cpu", 1, 1.0, 0.0, None, 1)
    config = load_config("quickstart")
    found = precisions_of(config, {"proxy": place, "target": place}, False, [], Storage.open(tmp_path), print)
    assert found == {"proxy": "fp32", "target": "fp32"}


@pytest.mark.thorough
def test_the_proxy_trains_and_scores_in_the_precision_it_is_given(tmp_path: Path):
    losses = {}
    torch.set_num_threads(1)
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        job = recording_job(folder, steps=10, precision=precision)
        run_worker(job, RecordingWorker(folder))
        [last] = [s for s in [read_snapshot(job.out, len(job.points) - 1)] if s is not None]
        parts = snapshot_folder(job.out, last.snapshot).sub(last.weights)
        losses[precision] = np.concatenate(
            [parts.read_table(part_name(part))["loss_nats"].to_numpy() for part, _ in PARTS]
        )
    gap = np.abs(losses["fp32"] - losses["bf16"])
    assert 1e-5 < gap.max() < 0.1
