"""Losses of the proxy and the targets over training steps, from the event log and the evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.lm.schedule import learning_rate
from s2l_ray.observability.metrics_log import read_metrics
from s2l_ray.reporting.facts import Curve, Training
from s2l_ray.text.display import printable

MAX_POINTS = 400
MAX_CURVES = 8
_RATE_POINTS = 40


def training_facts(run: Run) -> Training | None:
    """The training curves; None if nothing was trained."""
    proxy_stage = run.stages.get("proxy")
    records = read_metrics(run.storage)
    events = _by_folder(records)
    proxy = _curve("proxy", events.get(proxy_stage.folder, [])) if proxy_stage is not None else None
    snapshots = [] if proxy_stage is None else [
        (int(s["step"]), float(s["mean_loss_nats"])) for s in proxy_stage.manifest.extra["snapshots"]
    ]  # fmt: skip
    targets, heldout, restarts = [], [], []
    rates = [] if proxy_stage is None else _rate("proxy", proxy_stage)
    for label, stage in list(run.targets.items())[:MAX_CURVES]:
        curve = _curve(label, events.get(stage.folder, []))
        targets += [curve] if curve else []
        heldout += _evaluations(label, run.heldout_evaluation(stage), events.get(stage.folder, []))
        rates += _rate(label, stage)
    known = {stage.folder for stage in run.stages.values()}
    for folder, found in events.items():
        if folder in known:
            restarts += [
                (printable(str(e["stage"])), int(e.get("step") or 0)) for e in found if e["event"] == "restart"
            ]
    if proxy is None and not snapshots and not targets and not heldout:
        return None
    return Training(proxy, snapshots, targets, rates, heldout, restarts)


def _by_folder(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Folder of a stage → the events of all attempts at building it, in order."""
    folders: dict[str, str] = {}
    events: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        stage, event = record.get("stage"), record.get("event")
        if not isinstance(stage, str) or not isinstance(event, str):
            continue
        if event == "stage_started" and isinstance(record.get("folder"), str):
            folders[stage] = record["folder"]
        elif stage in folders:
            events.setdefault(folders[stage], []).append(record)
    return events


def _curve(name: str, events: list[dict[str, Any]]) -> Curve | None:
    """Training losses by step; for a step repeated after a restart, the last one."""
    by_step: dict[int, float] = {}
    for event in events:
        step, loss = event.get("step"), event.get("loss_nats")
        if event["event"] == "train" and isinstance(step, int) and isinstance(loss, (int, float)):
            by_step[step] = float(loss)
    points = sorted(by_step.items())
    return Curve(name, thinned(points)) if points else None


def _rate(name: str, stage: Stage) -> list[Curve]:
    """The learning rate at some steps, from the stage's settings; empty if they contain none."""
    settings = stage.manifest.settings
    total = settings.get("total_steps") or stage.manifest.extra["summary"]["steps"]
    if "learning_rate" not in settings or not total:
        return []
    peak, share = settings["learning_rate"], settings["warmup_share"]
    steps = {int(step) for step in np.linspace(0, total - 1, _RATE_POINTS)} | {min(round(total * share), total - 1)}
    return [Curve(name, [(step + 1, learning_rate(step, total, peak, share)) for step in sorted(steps)])]


def thinned(points: list[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """Reduce a curve to at most `most` points: the smallest and largest in each interval, so that spikes remain
    visible."""
    if len(points) <= most:
        return points
    losses = np.array([loss for _, loss in points])
    kept = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), (most - 2) // 2):
        kept |= {int(stretch[np.argmin(losses[stretch])]), int(stretch[np.argmax(losses[stretch])])}
    return [points[i] for i in sorted(kept)]


def _evaluations(label: str, evaluation: Stage | None, events: list[dict[str, Any]]) -> list[Curve]:
    """Held-out losses by step, one curve per set: before and after training, and in between as recorded."""
    by_set: dict[str, dict[int, float]] = {}
    if evaluation is not None:
        made = HeldOutEvaluationArtifact.of(evaluation)
        for at, figures in ((0, made.before), (made.step, made.results)):
            for name, result in figures.items():
                by_set.setdefault(name, {})[at] = float(result["micro"])
    for event in events:
        step, results = event.get("step"), event.get("results")
        if event["event"] != "evaluation" or not isinstance(step, int) or not isinstance(results, dict):
            continue
        for name, losses in by_set.items():
            if isinstance(results.get(name), dict) and isinstance(results[name].get("micro"), (int, float)):
                losses.setdefault(step, float(results[name]["micro"]))
    return [Curve(f"{label} on {name}", thinned(sorted(points.items()))) for name, points in by_set.items()]
