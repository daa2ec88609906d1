"""Turns events of the target's workers into progress on the terminal, lines in metrics.jsonl, and logger entries."""

from __future__ import annotations

import contextlib
from typing import Any

from s2l_ray.evaluation.metrics import SetResult
from s2l_ray.execution.event_channel import Event
from s2l_ray.execution.preemption import notice_said
from s2l_ray.execution.restarts import RESTART, WAITING, restart_said
from s2l_ray.observability.loggers import Loggers
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.observability.progress import Progress, StageProgress


class TargetReport:
    """Reports on the training of one target, with a progress bar over its optimiser steps."""

    def __init__(self, name: str, progress: Progress, metrics: MetricsLog, loggers: Loggers, total_steps: int) -> None:
        self.name, self.progress, self.metrics, self.loggers = name, progress, metrics, loggers
        self.total_steps = total_steps
        self._stack = contextlib.ExitStack()
        self._bar: StageProgress | None = None

    def __enter__(self) -> TargetReport:
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._stack.__exit__(*exc)

    def on_event(self, event: Event) -> None:
        """Handle an event of any worker, in the order of arrival."""
        if event["event"] == "ready":
            again = f", resuming from step {event['step']:,}" if event["step"] else ""
            self.progress.say(f"[{self.name}] the workers are up{again}")
        elif event["event"] == "train":
            if self._bar is None:  # not earlier, because the rate must not include the first evaluation
                self._bar = self._stack.enter_context(self.progress.stage(self.name, self.total_steps, "steps"))
            self._bar.update(event["step"], loss=event["loss_nats"])
            figures = {k: v for k, v in event.items() if k not in ("event", "rank", "step")}
            self.loggers.log(event["step"], **figures)
        elif event["event"] == "notice":
            self.progress.say(f"[{self.name}] {notice_said(event)}")
        elif event["event"] in (RESTART, WAITING):
            self.progress.say(f"[{self.name}] {restart_said(event)}")
        else:
            self._evaluation(event)
        self.metrics.log(self.name, **{k: v for k, v in event.items() if k != "rank"})

    def _evaluation(self, event: Event) -> None:
        said = []
        for name, result in event["results"].items():
            said.append(f"{name} {result['micro']:.3f} (exact {result['exact_match']:.1%})")
            figures = SetResult.of(result).figures
            self.loggers.log(event["step"], **{f"heldout/{name}/{k}": v for k, v in figures.items()})
        self.progress.say(f"[{self.name}] held-out loss after {event['step']:,} steps: {', '.join(said)}")
