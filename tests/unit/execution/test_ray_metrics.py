"""Which series a run's record becomes. (That they reach Prometheus is seen in test_jobs.)"""

from __future__ import annotations

from typing import Any

import pytest
import ray

from s2l_ray.execution import ray_metrics as metrics
from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.storage.folder import Storage


class Series:
    """Stands for Ray's metrics."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.broken = False

    def metric(self, kind: str, name: str, description: str, tags: tuple[str, ...] = ("run", "stage")) -> Any:
        if self.broken:
            raise RuntimeError("no")

        def record(value: float, given: dict[str, str]) -> None:
            key = (name, *(given[t] for t in tags))
            self.values[key] = value + (self.values.get(key, 0) if kind == "Counter" else 0)

        return type("Metric", (), {"inc": staticmethod(record), "set": staticmethod(record)})


@pytest.fixture
def series(monkeypatch) -> Series:
    series = Series()
    monkeypatch.setattr(metrics, "_metric", series.metric)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return series


def test_events_become_series(series, tmp_path):
    with MetricsLog(Storage.open(tmp_path), listener=metrics.RayMetrics("my")) as log:
        log.log("target/s2l-0.1", "train", step=10, loss_nats=2.5, tokens_per_s=900, peak_memory_bytes=7)
        log.log("target/s2l-0.1", "evaluation", step=12, results={"test": {"macro": 1.5, "micro": 1.0}})
        log.log("proxy", "snapshot", step=5, snapshot=1, mean_loss_nats=3.0)
        log.log("proxy", "stage_done", wall_seconds=4.0, peak_memory_bytes=None)
        for _ in range(3):
            log.tell("proxy", "scored", examples=64)
    assert series.values == {
        ("s2l_step", "my", "target/s2l-0.1"): 12,
        ("s2l_loss_nats", "my", "target/s2l-0.1"): 2.5,
        ("s2l_tokens_per_second", "my", "target/s2l-0.1"): 900,
        ("s2l_peak_memory_bytes", "my", "target/s2l-0.1"): 7,
        ("s2l_heldout_loss_nats", "my", "target/s2l-0.1", "test"): 1.5,
        ("s2l_step", "my", "proxy"): 5,
        ("s2l_snapshots", "my", "proxy"): 2,
        ("s2l_snapshot_loss_nats", "my", "proxy"): 3.0,
        ("s2l_stage_seconds", "my", "proxy"): 4.0,
        ("s2l_examples_scored", "my", "proxy"): 192,
    }
    assert len(read_metrics(Storage.open(tmp_path))) == 4, "what is only told is not written"


def test_metrics_never_end_a_run(series, caplog):
    series.broken = True
    listener = metrics.RayMetrics("my")
    for step in range(3):
        listener("proxy", "train", {"step": step})
    assert caplog.text.count("Ray does not accept metrics") == 1


def test_nothing_happens_without_ray(series, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics.RayMetrics("my")("proxy", "train", {"step": 1})
    assert series.values == {}
