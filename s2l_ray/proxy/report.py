"""Events of the proxy's workers → progress on the terminal and lines in metrics.jsonl."""

from __future__ import annotations

import contextlib
from typing import Any

from s2l_ray.cluster.mailbox import Event
from s2l_ray.run_folder import MetricsLog, Progress, StageProgress


class ProxyReport:
    """One bar for the steps, and one for the snapshot that is being scored."""

    def __init__(
        self, progress: Progress, metrics: MetricsLog, total_steps: int, num_examples: int, num_snapshots: int
    ) -> None:
        self.progress, self.metrics = progress, metrics
        self.total_steps, self.num_examples, self.num_snapshots = total_steps, num_examples, num_snapshots
        self._stack = contextlib.ExitStack()
        self._bars: tuple[StageProgress, StageProgress] | None = None

    def __enter__(self) -> ProxyReport:
        return self

    def _begin(self) -> tuple[StageProgress, StageProgress]:
        """With the first event, not before: rates must not count the time in which workers start."""
        if self._bars is None:
            steps = self._stack.enter_context(self.progress.stage("proxy: training", self.total_steps, "steps"))
            total = self.num_examples * self.num_snapshots
            scoring = self._stack.enter_context(self.progress.stage("proxy: scoring", total, "examples"))
            self._bars = (steps, scoring)
        return self._bars

    def __exit__(self, *exc: Any) -> bool | None:
        return self._stack.__exit__(*exc)

    def on_event(self, event: Event) -> None:
        steps, scoring = self._begin()
        kind = event["event"]
        if kind == "ready":
            again = f", from step {event['step']:,} on" if event["step"] else ""
            self.progress.say(f"[proxy] the workers are up{again}")
        elif kind == "train":
            steps.update(event["step"], loss=event["loss_nats"])
            self.metrics.log("proxy", **{k: v for k, v in event.items() if k != "rank"})
        elif kind == "scored":
            scoring.update(advance=event["examples"])
        elif kind == "snapshot":
            shown = f"{event['snapshot'] + 1}/{self.num_snapshots}"
            # A resumed snapshot was partly scored before: the manifest knows, the events do not.
            done = (event["snapshot"] + 1) * self.num_examples
            scoring.update(done, snapshot=shown, mean_loss=event["mean_loss_nats"])
            steps.update(event["step"])
            if event["rank"] == 0:
                self.metrics.log("proxy", **{k: v for k, v in event.items() if k != "rank"})
