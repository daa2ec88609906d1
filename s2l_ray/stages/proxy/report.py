"""Turns events of the proxy's workers into progress on the terminal and lines in metrics.jsonl."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from s2l_ray.artifacts.points import Point
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.execution.event_channel import Event
from s2l_ray.execution.preemption import notice_said
from s2l_ray.execution.restarts import RESTART, WAITING, restart_said
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.observability.progress import Progress, StageProgress

_TRAINING_PASS = 3
"""A training pass over an example costs about three forward passes, so one bar with one remaining time fits both."""


class ProxyReport:
    """Reports on the proxy's stage with one bar for training and scoring, measured in forward passes of an example."""

    def __init__(self, progress: Progress, metrics: MetricsLog, plan: TrainPlan, points: Sequence[Point]) -> None:
        self.progress, self.metrics, self.plan, self.points = progress, metrics, plan, points
        self._num_scored = sum(point.epoch is None for point in points)
        self._stack = contextlib.ExitStack()
        self._bar: StageProgress | None = None
        self._step = self._scored = 0

    def __enter__(self) -> ProxyReport:
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._stack.__exit__(*exc)

    def on_event(self, event: Event) -> None:
        """Handle an event of any worker, in the order of arrival."""
        shown: dict[str, Any] = {}
        if event["event"] == "scored":
            self._scored += event["examples"]
            self.metrics.tell("proxy", "scored", examples=event["examples"])
        elif event["event"] == "ready":
            # Not earlier, because the rate must not include the time in which workers start.
            again = f", resuming from step {event['step']:,}" if event["step"] else ""
            self.progress.say(f"[proxy] the workers are up{again}")
        elif event["event"] == "notice":
            self.progress.say(f"[proxy] {notice_said(event)}")
            self.metrics.log("proxy", **{k: v for k, v in event.items() if k != "rank"})
        elif event["event"] in (RESTART, WAITING):
            self.progress.say(f"[proxy] {restart_said(event)}")
            self.metrics.log("proxy", **{k: v for k, v in event.items() if k != "rank"})
        else:
            self._step = max(self._step, event["step"])
            shown["step"] = f"{self._step:,}/{self.plan.total_steps:,}"
            if event["event"] == "snapshot":
                # A resumed snapshot was partly scored before, so only its end says how many examples are scored.
                if event.get("epoch") is None:
                    done = sum(point.epoch is None for point in self.points[: event["snapshot"] + 1])
                    self._scored = done * self.plan.num_examples
                shown["snapshot"] = f"{event['snapshot'] + 1}/{len(self.points)}"
            else:
                shown["loss"] = event["loss_nats"]
            if event["rank"] == 0:
                self.metrics.log("proxy", **{k: v for k, v in event.items() if k != "rank"})
        self._show(**shown)

    def _show(self, **shown: Any) -> None:
        trained = _TRAINING_PASS * self.plan.global_batch_size
        done = self._scored + trained * self._step
        if self._bar is None:
            total = self._num_scored * self.plan.num_examples + trained * self.plan.total_steps
            self._bar = self._stack.enter_context(self.progress.stage("proxy", total, "passes", done))
        self._bar.update(done, **shown)
