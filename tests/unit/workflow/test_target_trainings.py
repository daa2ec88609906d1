"""Targets that train at once: in how many threads, in which order they become stages of the run, what an error does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_ray.artifacts.models import Artifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.stage import StageResult, StageSpec
from s2l_ray.config.load import load_config
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.memory import MemoryEstimate
from s2l_ray.lm.sharding import Sharding
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.stages import layout as layouts
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.layout import Layout
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.target_trainings import TargetTrainings, _Training

Build = Callable[[], None]


class Built(TargetTrainings):
    """Whose targets are built by functions of the test."""

    def __init__(self, context: RunContext, at_once: int, builds: dict[str, Build]) -> None:
        super().__init__(context, at_once)
        self.builds = builds

    def _prepare(self, name: str) -> _Training:
        def build(out: Storage) -> StageResult:
            self.builds[name]()
            return StageResult(name, {"examples": 1}, Artifact())

        return _Training(StageSpec(f"target/{name}", {"name": name}, {}, build), None, None, None, name, None)  # type: ignore[arg-type]


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    config = load_config(tiny_run_config(tmp_path / "run"))
    run = Run(config, Storage.open(config.run_uri))
    runner = StageRunner(run, Quiet(), MetricsLog(run.storage))
    return RunContext(config, runner, Layout(config.resources, True))


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_as_many_as_there_is_room_for_and_stages_in_the_order_of_the_names(context, at_once):
    training, most, mutex = 0, 0, threading.Lock()
    together = threading.Barrier(at_once)

    def build() -> None:
        nonlocal training, most
        with mutex:
            training += 1
            most = max(most, training)
        together.wait(timeout=60)  # broken, and an error, if fewer train at once
        with mutex:
            training -= 1

    names = [f"s2l-0.{i}" for i in range(1, 7)]
    with Built(context, at_once, dict.fromkeys(names, build)) as trainings:
        for name in names[::-1]:
            trainings.begin(name)
        stages = [trainings.finish(name) for name in names]
    assert most == at_once
    assert [stage.content for stage in stages] == names
    assert list(context.run.stages) == [f"target/{name}" for name in names]


def test_what_one_ends_with_is_raised_while_another_is_waited_for(context):
    failed = threading.Event()

    def fails() -> None:
        failed.set()
        raise ValueError("no such target")

    def lasts() -> None:
        assert failed.wait(timeout=60)

    builds = {"full": lasts, "s2l-0.1": fails, "random-0.1": lambda: pytest.fail("it was not to begin any more")}

    def train() -> None:
        with Built(context, 2, builds) as trainings:
            for name in builds:
                trainings.begin(name)
                if name == "s2l-0.1":
                    assert failed.wait(timeout=60)
            trainings.finish("full")

    with pytest.raises(ValueError, match="no such target"):
        train()
    assert not context.run.stages


@pytest.mark.thorough
def test_an_interrupt_waits_for_those_that_train_and_begins_no_other(context):
    ended, begun = threading.Event(), []

    def lasts() -> None:
        begun.append("lasts")
        threading.Timer(0.5, ended.set).start()
        assert ended.wait(timeout=60)

    builds: dict[str, Build] = {"full": lasts, "s2l-0.1": lasts, "random-0.1": lambda: begun.append("late")}

    def train() -> None:
        with Built(context, 2, builds) as trainings:
            for name in builds:
                trainings.begin(name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert ended.is_set()
    assert begun == ["lasts"] * 2


def test_alone_each_trains_in_the_thread_that_waits_for_it(context):
    threads = []
    with Built(context, 1, {"full": lambda: threads.append(threading.current_thread())}) as trainings:
        trainings.begin("full")
        assert not threads
        trainings.finish("full")
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize(
    ("cores", "cpus", "gigabytes", "beside_proxy", "at_once"),
    [(2, 2, 64, False, 1), (2, 1, 64, True, 2), (8, 1, 64, True, 3), (8, 3, 64, True, 2), (8, 1, 25, True, 2),
     (8, 1, 10, False, 1)],
)  # fmt: skip
def test_room_by_cores_and_memory(tmp_path, monkeypatch, cores, cpus, gigabytes, beside_proxy, at_once):
    """Three targets of 10 GB each."""
    tree = tiny_run_config(tmp_path / "run", target__subsets=["full", "s2l-0.1", "s2l-0.3"], target__max_steps=1)
    tree["target"] |= {"from_config": tree["proxy"]["from_config"], "train_tokenizer": {"vocab_size": 300}}
    config = load_config(tree)
    monkeypatch.setattr(layouts, "local_cores", lambda: cores)
    monkeypatch.setattr(layouts, "host_memory_bytes", lambda: gigabytes * 1e9)
    monkeypatch.setattr("s2l_ray.execution.training_task.suffices", lambda placement: placement.num_workers == 1)

    def layout(workers: int, embedded: bool = True, stage: int = 0) -> Layout:
        placements = {role: Placement("cpu", workers, cpus, 0, None, cores) for role in ("proxy", "target")}
        sharding = Sharding(stage, None, MemoryEstimate({"weights": 10e9}, {}), 1)
        return Layout(config.resources, embedded, placements, sharding)

    assert layout(1).targets_at_once(config) == at_once
    assert layouts.has_room_beside_proxy(layout(1).placements, at_once) == beside_proxy
    assert layout(2).targets_at_once(config) == layout(1, embedded=False).targets_at_once(config) == 1
    assert layout(1, stage=2).targets_at_once(config) == 1
