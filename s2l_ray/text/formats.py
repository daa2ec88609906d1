"""Format numbers for people."""

from __future__ import annotations

import math
from typing import Any


def format_count(count: float) -> str:
    """Format a count: `950`, `17.9k`, `1.2M`, `3.4B`."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,960 would round to 1000.0k
        if abs(count) >= limit * (0.99995 if limit > 1e3 else 1):
            return f"{count / limit:.1f}".removesuffix(".0") + suffix
    return f"{count:.0f}" if count == int(count) or abs(count) >= 100 else f"{count:.3g}"


def format_duration(seconds: float) -> str:
    """Format a duration: `0.4 s`, `47 s`, `3 min 05 s`, `2 h 07 min`, `1 d 03 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def format_rate(per_second: float, unit: str) -> str:
    """Format a rate: `81 steps/s`, or `12 s/step` if slower than one in two seconds and the unit's plural ends in s."""
    if not math.isfinite(per_second) or per_second <= 0:
        return f"0 {unit}/s"
    if per_second < 0.5:
        return f"{format_duration(1 / per_second)}/{unit.removesuffix('s')}"
    return f"{format_count(per_second) if per_second >= 10_000 else _plain(per_second)} {unit}/s"


def format_value(value: Any) -> str:
    """Format a value on a progress line: floats with three significant digits, integers with commas."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")
