"""Summarise the gradient check in words; every statement follows from an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2l_ray.selection.gradient_errors import GradientError
from s2l_ray.selection.gradient_similarity import Interval, Similarity
from s2l_ray.text.display import capitalised

CLUSTERS = "clusters"
_MODERATELY, _STRONGLY = 0.2, 0.5
"""Lower ends of the interval of within − across (cosines) from which clusters count as moderately or strongly alike."""


@dataclass(frozen=True)
class SnapshotFindings:
    """Results of the gradient check at one snapshot."""

    name: str
    """start, middle or last."""
    step: int
    num_zero: int
    """Number of examples in the uniform sample whose gradient is zero."""
    similarity: Mapping[str, Similarity]
    """Similarity by `clusters`, `sources` and `embeddings`."""
    gap: float | None
    """95th percentile of the distance of two gradients within clusters, divided by the same across clusters."""
    errors: Mapping[str, GradientError]
    """Subset → error; empty if the mean gradient cannot be distinguished from zero."""


def verdict(
    snapshots: Sequence[SnapshotFindings], names: Mapping[str, str] | None = None, has_subsets: bool = False
) -> list[str]:
    """Return the results as sentences, the most important first.

    Args:
        names: names of subsets, if they differ from their labels.
        has_subsets: whether the run has subsets, even if none could be compared.
    """
    found = [_similarity(snapshots)]
    subsets = list(dict.fromkeys(name for one in snapshots for name in one.errors))
    for name in subsets:
        errors = {one.name: one.errors[name] for one in snapshots if name in one.errors}
        found += _of_subset((names or {}).get(name, name), errors)
    flat = [one.name for one in snapshots if not one.errors]
    if flat and (subsets or has_subsets):
        when = _when(flat)
        found.append(
            f"{capitalised(when)}, the sample's mean gradient cannot be distinguished from zero, so no subset "
            "is compared with it."
        )
    return found


def how_similar(similarity: Similarity) -> str:
    """Return `strongly`, `moderately` or `weakly`; `not` if chance could explain it; `less` if they differ more."""
    difference, null = similarity.difference, similarity.null_difference
    if difference is None or null is None:
        return "unknown"
    if difference.low > max(0, null[1]):
        low = difference.low
        return "strongly" if low >= _STRONGLY else "moderately" if low >= _MODERATELY else "weakly"
    return "less" if difference.high < min(0, null[0]) else "not"


def against_random(ratio: Interval | None) -> str:
    """Return `better` or `worse`, or `""` if the interval contains 1 or there is none."""
    if ratio is None:
        return ""
    return "better" if ratio.high < 1 else "worse" if ratio.low > 1 else ""


def _similarity(snapshots: Sequence[SnapshotFindings]) -> str:
    how = {one.name: how_similar(one.similarity[CLUSTERS]) for one in snapshots}
    words = {
        "strongly": "similar, strongly", "moderately": "similar, moderately", "weakly": "similar, weakly",
        "not": "no more similar than chance allows", "less": "less similar than those of different clusters",
        "unknown": "not compared: there are not two clusters with two examples each",
    }  # fmt: skip
    told = [f"{words[word]} ({_when(names)})" for word, names in _grouped(how)]
    only = len(set(how.values())) == 1
    return f"Gradients of one cluster are {words[next(iter(how.values()))] if only else '; '.join(told)}."


def _of_subset(name: str, errors: Mapping[str, GradientError]) -> list[str]:
    found = []
    for what, ratios in (
        (f"{name} estimates", {at: error.rms_by_random for at, error in errors.items()}),
        (f"{name} with weights estimates", {at: error.weighted_by_random for at, error in errors.items()}),
    ):
        if any(ratio is not None for ratio in ratios.values()):
            found.append(f"{what} the full gradient {_compared(ratios)}.")
    return found


def _compared(ratios: Mapping[str, Interval | None]) -> str:
    how = {at: against_random(ratio) or "level" for at, ratio in ratios.items() if ratio is not None}
    words = {"better": "better than random", "worse": "worse than random", "level": "no better or worse than random"}
    if len(set(how.values())) == 1:
        return f"{words[next(iter(how.values()))]}{_range(ratios, list(how))}"
    return "; ".join(f"{words[word]} {_when(names)}{_range(ratios, names)}" for word, names in _grouped(how))


def _range(ratios: Mapping[str, Interval | None], names: Sequence[str]) -> str:
    """Return the range of errors, as ` (error 0.8 to 0.9 times random's)`."""
    values = sorted(ratio.value for name in names if (ratio := ratios[name]) is not None)
    low, high = f"{values[0]:.2f}", f"{values[-1]:.2f}"
    return f" (error {low} times random's)" if low == high else f" (error {low} to {high} times random's)"


def _when(names: Sequence[str]) -> str:
    """Return the names of snapshots as a phrase."""
    if "start" not in names and set(names) == {"middle", "last"}:
        return "once training has begun"
    if list(names) == ["last"]:
        return "at the end of training"
    words = {"start": "before training", "middle": "in the middle of training", "last": "at its end"}
    return _listed([words[name] for name in names])


def _grouped(how: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Group snapshots by word, in the order of time."""
    return [(word, [at for at, own in how.items() if own == word]) for word in dict.fromkeys(how.values())]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
