"""Nodes that are not up yet: nothing is started to ask them, and every wait for them has a limit and says what for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray

from s2l_ray.config import S2LConfig, load_config
from s2l_ray.execution.capacity_wait import CapacityTimeoutError, Patience
from s2l_ray.execution.placement import PlacementError
from s2l_ray.lm.sharding import InsufficientMemoryError
from s2l_ray.stages.layout import Layout, lay_out
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config

H100 = {"accelerator_type": "H100", "workers": 8}


def laid_out(
    folder: Path, model: Any = None, estimates: Any = None, **resources: Any
) -> tuple[S2LConfig, Layout, Quiet]:
    tree = tiny_run_config(folder)
    tree["target"] = {**tree["proxy"], **(model or {})}
    tree["resources"] = {"device": "gpu", "may_grow": True, **resources}
    tree["estimates"] = estimates or {}
    config, said = load_config(tree), Quiet()
    return config, lay_out(config, said.say), said


def pending_groups() -> int:
    return sum(group["state"] in ("PENDING", "CREATED") for group in ray.util.placement_group_table().values())


def test_an_accelerator_that_comes_in_one_size_is_not_asked(ray_cluster: None, tmp_path: Path):
    before, started = pending_groups(), time.monotonic()
    _, layout, said = laid_out(tmp_path, target=H100)
    assert layout.sharding is not None
    assert "is unknown until" not in said.lines()
    assert pending_groups() == before
    assert time.monotonic() - started < 60


def test_a_target_that_cannot_fit_an_accelerator_is_refused_at_once(ray_cluster: None, tmp_path: Path):
    wide = {"from_config": {"model_type": "llama", "hidden_size": 16384, "intermediate_size": 65536,
                            "num_hidden_layers": 160, "num_attention_heads": 128}, "zero_stage": 0}  # fmt: skip
    with pytest.raises(InsufficientMemoryError, match=r"a worker has 80\.0 GB"):
        laid_out(tmp_path, model=wide, target=H100)


def test_memory_that_nobody_knows_is_asked_when_the_nodes_are_up(ray_cluster: None, tmp_path: Path):
    before = pending_groups()
    config, layout, said = laid_out(tmp_path, target={"workers": 2})
    assert layout.sharding is None
    assert "[target] the memory of its workers is unknown until their nodes are up" in said.lines()
    assert "set estimates.worker_memory_gb to determine it now" in said.lines()
    assert pending_groups() == before, "no node is asked for at the start"
    with pytest.raises(PlacementError, match=r"cannot be determined: .*worker_memory_gb"):
        layout.sharding_of(config)


def test_what_is_told_needs_no_node(ray_cluster: None, tmp_path: Path):
    _, layout, said = laid_out(tmp_path, estimates={"worker_memory_gb": 40}, target={"workers": 2})
    assert layout.sharding is not None
    assert "is unknown until" not in said.lines()


def test_nodes_that_do_not_come_are_waited_for_so_long(ray_cluster: None, tmp_path: Path):
    _, layout, said = laid_out(tmp_path, capacity_wait_s=4, target=H100)
    before = pending_groups()
    with pytest.raises(CapacityTimeoutError) as late:
        layout.wait_for_capacity("target", said.say)
    assert "[target] waiting (at most 4" in said.lines()
    assert (
        "8 workers with 1 CPU + 1 GPU (H100), and 1 CPU for reading, have been requested from the autoscaler"
        in said.lines()
    )
    assert "resources.capacity_wait_s=4" in str(late.value)
    assert "run the same command to resume" in str(late.value)
    assert pending_groups() == before, "the request is taken back"


def test_elastic_targets_are_sized_for_the_fewest(ray_cluster: None, tmp_path: Path):
    """Eight shards fit, two do not: a fleet that begins with two would run out of memory."""
    big = {"from_config": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
                           "num_hidden_layers": 32, "num_attention_heads": 32}, "zero_stage": 3}  # fmt: skip
    _, fixed, _ = laid_out(tmp_path / "fixed", model=big, target=H100)
    assert fixed.sharding is not None
    with pytest.raises(InsufficientMemoryError, match="on 1 workers"):
        laid_out(tmp_path / "elastic", model=big, target={**H100, "min_workers": 1})


def test_a_wait_is_told_again_now_and_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("s2l_ray.execution.capacity_wait._SAY_AGAIN_S", 0.2)
    said: list[str] = []
    patience = Patience("target", 1.0, said.append)

    def wait() -> None:
        while True:
            patience.tell("others hold it")
            time.sleep(0.02)

    with pytest.raises(CapacityTimeoutError, match="others hold it"):
        wait()
    assert 3 <= len(said) <= 6
    assert said[0] == "[target] waiting (at most 1 s): others hold it"
    assert "waiting since" in said[1]
