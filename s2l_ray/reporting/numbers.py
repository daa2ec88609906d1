"""Formats a report's numbers for readers; no-break spaces keep a number and its unit together."""

from __future__ import annotations

from s2l_ray.reporting.facts_worth import MetricFacts


def percent(share: float, digits: int = 2) -> str:
    """A share as `20 %`, `5.3 %` or `0.12 %`: two significant digits, but always all digits before the point."""
    value = share * 100
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f}\u00a0%"
    return f"{value:.{digits}g}\u00a0%" if abs(value) >= 0.1 else f"{value:.1g}\u00a0%"


def figure(value: float, metric: MetricFacts) -> str:
    """A metric's value as `53.1 %` or `0.403`."""
    return f"{value * 100:.1f}\u00a0%" if metric.is_share else f"{value:.3f}"


def signed(value: float, metric: MetricFacts) -> str:
    """A difference: `+18.1 points`, `−0.27`; the minus sign is a real one."""
    return _with_sign(f"{value * 100:+.1f}" if metric.is_share else f"{value:+.3f}", metric.is_share)


def _with_sign(text: str, is_share: bool) -> str:
    text = text if text.strip("+-0.") else text[1:]  # nothing is neither more nor less
    return text.replace("-", "−") + ("\u00a0points" if is_share else "")


def task_figure(value: float, unit: str) -> str:
    """A result of an evaluation: a share as `53.1 %`, a percentage as `46.2`, anything else with three digits."""
    if unit == "share":
        return f"{value * 100:.1f}\u00a0%"
    return f"{value:.1f}" if unit == "percent" else f"{value:.3g}"


def task_signed(value: float, unit: str) -> str:
    """A difference: `+18.1 points`, `−0.3`."""
    text = f"{value * 100:+.1f}" if unit == "share" else f"{value:+.1f}" if unit == "percent" else f"{value:+.3g}"
    return _with_sign(text, unit == "share")


def task_distance(value: float, unit: str) -> str:
    """A difference that is never negative: `18.1 points`, `0.3`."""
    return task_signed(value, unit).removeprefix("+")


def compact(value: float) -> str:
    """A number of FLOPs as `3.1 × 10¹²`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}\u00a0×\u00a010{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def loss(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def direction(metric: MetricFacts) -> str:
    """Which values are better: `lower is better`."""
    return "higher is better" if metric.more_is_better else "lower is better"


def metric_title(metric: MetricFacts) -> str:
    """Title of an axis: `held-out loss (nats/token; lower is better)`."""
    better = direction(metric)
    if metric.label.endswith(")"):  # held-out loss (mean over sources)
        return f"{metric.label[:-1]}; {metric.unit}; {better})"
    return f"{metric.label} ({metric.unit}; {better})"
