"""A sweep's results as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2l_ray.errors import MAX_MESSAGE
from s2l_ray.evaluation.metrics import get_metric
from s2l_ray.observability.progress import format_duration
from s2l_ray.text.display import aligned, one_line, printable


def report_lines(
    report: dict[str, Any], where: str, files: list[str], failed: dict[str, str], curves: Sequence[str] = ()
) -> list[str]:
    """The results as lines of text: the curves, the answer, the costs, the files.

    Args:
        curves: lines of the curves with intervals; if empty, their means are listed.
    """
    lines = ["", *curves]
    for phase, curve in report["curves"].items() if not curves else ():
        over = f", mean ± standard deviation over {report['seeds']} seeds" if report["seeds"] > 1 else ", one seed"
        lines.append(f"{phase}: {_judged_by(report['metric'])}{over}")
        lines += ["  " + line for line in _curve_table(curve)]
    if report["parameters"]:
        lines.append(
            "with further parameters, the best first" + (", the first ten" if len(report["parameters"]) > 10 else "")
        )
        lines += ["  " + line for line in _curve_table(report["parameters"][:10])]
    for selector, best in report["smallest"].items():
        if best is None:
            lines.append(f"{selector}: no budget tried is within {report['within']:.2%} of the full data")
        else:
            lines.append(
                f"{selector}: {best['share']:.1%} of the data is the smallest budget tried within "
                f"{report['within']:.2%} of the full data ({best['worse_than_full']:+.2%})"
            )
    prediction = report["prediction"]
    if prediction:
        rank = prediction["rank_correlation"]
        gap = prediction["largest_gap_to_full"]
        close = "" if gap is None else f", largest gap {gap:.2%} of the full data's"
        lines.append(
            f"prediction with the proxy's model, {prediction['points']} budgets: rank correlation "
            f"{'not defined' if rank is None else f'{rank:.2f}'}" + close
        )
    lines += _cost_lines(report)
    early = len(report["stopped_early"])
    if early:
        lines.append(f"{early} trial{'s were' if early > 1 else ' was'} stopped early (sweep.asha)")
    for trial, why in failed.items():
        lines.append(f"failed: {trial}: {one_line(why, MAX_MESSAGE)}")
    lines.append(f"{where}/results.parquet, results.csv, report.json" + (f", {', '.join(files)}" if files else ""))
    return [printable(line) for line in lines]


def _judged_by(name: str) -> str:
    """The metric in words: `held-out loss, mean over sources (macro; nats/token, lower is better)`."""
    metric = get_metric(name)
    detail = f", {metric.detail}" if metric.detail else ""
    return f"{metric.label}{detail} ({metric.name}; {metric.scale}, {metric.direction})"


def _curve_table(curve: list[dict[str, Any]]) -> list[str]:
    rows = [["trained on", "share", "mean", "spread", "worse than full"]]
    for p in curve:
        worse = p["worse_than_full"]
        settings = "".join(f", {path}={value}" for path, value in p["parameters"].items())
        subset = p["selector"] if p["selector"] == "full" else f"{p['selector']} {p['budget']!r}"
        rows.append([subset + settings, f"{p['share']:.1%}", f"{p['mean']:.4f}", f"± {p['spread']:.4f}",
                     "" if worse is None or p["selector"] == "full" else f"{worse:+.2%}"])  # fmt: skip
    return aligned(rows)


def _cost_lines(report: dict[str, Any]) -> list[str]:
    def said(cost: dict[str, float]) -> str:
        money = f", {cost['money']:,.2f}" if "money" in cost else ""
        return f"{cost['flops']:.2e} FLOPs, {format_duration(cost['device_seconds'])} of a device{money}"

    cost = report["cost"]
    lines = [f"cost: selection {said(cost['selection'])}"]
    lines += [f"      {part['num']} {phase} models {said(part)}" for phase, part in cost["targets"].items()]
    shares = {n: s for n, s in report["break_even_share"].items()}
    if shares:
        told = ", ".join(f"{n} target{'s' if n != '1' else ''}: {'never' if s is None else f'below {s:.0%}'}"
                         for n, s in shares.items())  # fmt: skip
        lines.append(f"      selecting pays, at equal epochs, in FLOPs, for {told}")
    return lines
