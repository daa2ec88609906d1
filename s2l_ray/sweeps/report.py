"""A sweep's report as plain data: `sweep/report.json`."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.models import TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.config.schema import S2LConfig
from s2l_ray.evaluation.metrics import get_metric
from s2l_ray.sweeps.records import TrialResult
from s2l_ray.sweeps.results import (
    Cost,
    Point,
    break_even,
    budget_unit,
    full_point,
    points,
    rank_correlation,
    selection_cost,
    shortfall,
    smallest_good_enough,
    tuned_points,
)

TARGET, PREDICTED = "target", "predicted"
"""Phases: with the target itself, and with the proxy's model in its place."""


def make_report(
    run: Run,
    config: S2LConfig,
    finished: dict[str, list[TrialResult]],
    failed: dict[str, str],
    stopped: list[str],
) -> dict[str, Any]:
    """The report as plain data: curves, the smallest good budgets, the quality of the prediction, costs."""
    curves = curves_of(config, finished)
    sweep, price = config.sweep, config.estimates.price_per_worker_hour
    selecting = selection_cost(run)
    found = curves.get(TARGET) or curves.get(PREDICTED) or []
    full = full_point(found)
    report: dict[str, Any] = {
        "metric": sweep.metric, "judged_by": get_metric(sweep.metric).facts(),
        "within": sweep.within, "seeds": sweep.num_seeds,
        "curves": {phase: _plain_curve(curve, sweep.metric) for phase, curve in curves.items()},
        "parameters": [_plain(p, full, sweep.metric) for p in tuned_points(config, finished.get(TARGET, []))],
        "smallest": {}, "prediction": None, "failed": failed, "stopped_early": stopped,
        "cost": {"selection": selecting.plain(price), "targets": _targets_cost(finished, price)},
        "break_even_share": {},
    }  # fmt: skip
    tried = {point.selector for point in found}
    for selector in (s for s in sweep.selectors if s in tried):
        best = smallest_good_enough(found, selector, sweep.metric, sweep.within)
        report["smallest"][selector] = None if best is None else _plain(best, full, sweep.metric)
    if full is not None:
        report["break_even_share"] = {str(n): break_even(selecting, full.flops, n) for n in (1, 3, 10)}
    if TARGET in curves and PREDICTED in curves:
        report["prediction"] = _prediction(curves, sweep.metric)
    return report


def curves_of(config: S2LConfig, finished: dict[str, list[TrialResult]]) -> dict[str, list[Point]]:
    """Phase → the points of its curves."""
    return {phase: points(config, found) for phase, found in finished.items() if found}


def _plain_curve(curve: list[Point], metric: str) -> list[dict[str, Any]]:
    full = full_point(curve)
    return [_plain(point, full, metric) for point in curve]


def _plain(point: Point, full: Point | None, metric: str) -> dict[str, Any]:
    worse = None if full is None else shortfall(point, full, metric)
    return {"selector": point.selector, "budget": point.budget, "budget_unit": budget_unit(point.budget),
            "share": point.share, "mean": point.mean, "spread": point.spread, "values": list(point.values),
            "flops": point.flops,
            "worse_than_full": worse, "parameters": dict(point.parameters)}  # fmt: skip


def _targets_cost(finished: dict[str, list[TrialResult]], price: float | None) -> dict[str, Any]:
    costs = {}
    for phase, found in finished.items():
        stages = {one.stage.folder: one.stage for one in found}.values()  # identical trials count once
        flops = sum(TargetArtifact.of(stage).summary["flops"] for stage in stages)
        seconds = sum(stage.manifest.device_seconds for stage in stages)
        costs[phase] = Cost(flops, seconds).plain(price) | {"num": len(stages)}
    return costs


def _prediction(curves: dict[str, list[Point]], metric: str) -> dict[str, Any]:
    """How well the proxy model's curve predicted the target's, over the subsets that both were trained on."""
    both = {}
    for phase, found in curves.items():
        both[phase] = {p.subset: p for p in found}
    shared = [k for k in both[TARGET] if k in both[PREDICTED]]
    values = [[both[phase][k].mean for k in shared] for phase in (PREDICTED, TARGET)]
    predicted_full, target_full = full_point(curves[PREDICTED]), full_point(curves[TARGET])
    gap = None
    if predicted_full is not None and target_full is not None and shared:
        told = [shortfall(both[PREDICTED][k], predicted_full, metric) for k in shared]
        was = [shortfall(both[TARGET][k], target_full, metric) for k in shared]
        gap = max(abs(a - b) for a, b in zip(told, was, strict=True))
    return {
        "points": len(shared),
        "rank_correlation": rank_correlation(values[0], values[1]),
        "largest_gap_to_full": gap,
    }
