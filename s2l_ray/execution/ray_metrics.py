"""Exports a run's record as Ray metrics for Ray's dashboard, Prometheus and Grafana (there with the prefix `ray_`).

Examples scored per second is `rate(ray_s2l_examples_scored_total[1m])`.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping
from typing import Any

from s2l_ray.text.display import one_line

logger = logging.getLogger(__name__)

_TAGS = ("run", "stage")

_GAUGES = {
    "step": ("s2l_step", "Optimiser steps done"),
    "loss_nats": ("s2l_loss_nats", "Training loss, nats per response token"),
    "tokens_per_s": ("s2l_tokens_per_second", "Training tokens per second, mean since the start"),
    "mean_loss_nats": ("s2l_snapshot_loss_nats", "Mean loss of all examples at the newest snapshot, nats per token"),
    "mfu": ("s2l_model_flops_utilisation", "Useful FLOPs as a share of the devices' peak"),
    "peak_memory_bytes": ("s2l_peak_memory_bytes", "Peak memory of a worker (GPU memory, if it has a GPU)"),
    "wall_seconds": ("s2l_stage_seconds", "Duration of the stage"),
}
"""Field of the record → gauge."""
_SNAPSHOTS = ("s2l_snapshots", "Completed snapshots")
_SCORED = ("s2l_examples_scored", "Examples scored by this driver")
_HELDOUT = ("s2l_heldout_loss_nats", "Loss on a held-out set, nats per response token, mean over its sources")


class RayMetrics:
    """Listener for a run's record (`MetricsLog`). Does nothing while Ray is not connected; never ends a run.

    Args:
        run: the run's name, the tag `run` of every series.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._broken = False

    def __call__(self, stage: str, event: str, fields: Mapping[str, Any]) -> None:
        # Ray can be connected only if it was imported; do not import it just to check.
        if self._broken or "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            return
        try:
            self._record({"run": self.run, "stage": stage}, event, fields)
        except Exception as error:
            self._broken = True
            logger.warning("Ray does not accept metrics from this run; the run continues: %s", one_line(str(error)))

    def _record(self, tags: dict[str, str], event: str, fields: Mapping[str, Any]) -> None:
        if event == "scored":
            _metric("Counter", *_SCORED).inc(fields["examples"], tags)
            return
        for name, (gauge, description) in _GAUGES.items():
            if fields.get(name) is not None:
                _metric("Gauge", gauge, description).set(float(fields[name]), tags)
        if event == "snapshot":
            _metric("Gauge", *_SNAPSHOTS).set(fields["snapshot"] + 1, tags)
        for heldout, result in fields.get("results", {}).items():
            _metric("Gauge", *_HELDOUT, (*_TAGS, "set")).set(result["macro"], {**tags, "set": heldout})


@functools.cache
def _metric(kind: str, name: str, description: str, tags: tuple[str, ...] = _TAGS) -> Any:
    """A metric, created once per process: Ray warns about a second one of the same name."""
    import ray.util.metrics

    return getattr(ray.util.metrics, kind)(name, description=description, tag_keys=tags)
