"""Guards: rules that put examples that look like wrong answers last, with counts by source, cluster and facet.

Each rule reads the proxy's losses and is no better than the proxy: a weak one cannot tell wrong answers, and one that
memorises learns them. On generated data with 10 % wrong answers, `rise` found two thirds of them; on 10,000 rows of
real maths text with a small proxy, it found none. Therefore guards report counts and warnings, and promise no recall.

Memory for N examples: about 10 N bytes; `local` adds 4 N bytes for each neighbour, and the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from s2l_ray.errors import UserError, listed
from s2l_ray.selection.inputs import CHUNK_ROWS, Array, Facet, SelectionInputs
from s2l_ray.selection.options import GuardOptions
from s2l_ray.selection.signals import LOSS, LOSS_UNCONDITIONAL, LOSSES, PROMPT_EMBEDDING, at

FOUND_NOTHING_SHARE = 0.001
"""A rule that drops a smaller share of the examples than this has most likely found nothing."""
MEMORISING_GAP = 0.1
"""Amount by which token accuracy on the corpus may exceed that on held-out examples; above it, a proxy memorises."""
_ROUNDING_NATS = 1e-6
"""Tolerance for float32 rounding of a difference of losses, so that a rise of exactly the limit is kept."""


class DroppedFrom(TypedDict):
    """One row of a guard's table; a plain dict, ready for JSON."""

    value: str
    """The source, cluster or category."""
    size: int
    """Number of examples with this value."""
    dropped: int
    """Number of these that at least one rule dropped."""
    by_rule: dict[str, int]


@dataclass(frozen=True)
class HeldOutRecord:
    """Measurements during the proxy's training that show how competent it is."""

    losses: list[float] = field(default_factory=list)
    """Held-out loss at each snapshot (nats per token)."""
    token_accuracy: float | None = None
    """Token accuracy at the last snapshot, on held-out examples."""
    corpus_token_accuracy: float | None = None
    """Token accuracy at the last snapshot, on the corpus."""


@dataclass(frozen=True)
class GuardReport:
    eligible: Array
    """(N,) bool: False where a rule dropped the example."""
    dropped_by_rule: dict[str, int]
    """Rule → number of dropped examples; an example dropped by several rules counts for each."""
    tables: dict[str, list[DroppedFrom]]
    """`source`, `cluster` and each facet → one row for each of its values."""
    warnings: list[str]

    @property
    def num_dropped(self) -> int:
        return len(self.eligible) - int(self.eligible.sum())

    def to_json(self) -> dict[str, Any]:
        """Return everything except the per-example array, for the manifest."""
        return {
            "num_examples": len(self.eligible),
            "num_dropped": self.num_dropped,
            "dropped_by_rule": self.dropped_by_rule,
            "tables": self.tables,
            "warnings": self.warnings,
        }


def evaluate_guard(inputs: SelectionInputs, options: GuardOptions, heldout: HeldOutRecord | None = None) -> GuardReport:
    """Apply every rule, and count the examples it drops by source, cluster and facet.

    Raises:
        UserError: less than `min_kept_share` would remain, or a rule that compares snapshots has only one.
        MissingSignal: a rule needs columns that the run does not have.
    """
    inputs.require(f"the guard {', '.join(options.rules)}", options.needs())
    drops: dict[str, Array] = {rule: _RULES[rule](inputs, options) for rule in options.rules}  # each (N,) bool
    eligible = np.ones(inputs.num_examples, dtype=bool)
    for dropped in drops.values():
        eligible &= ~dropped
    _check_kept(eligible, drops, options)
    tables = {name: _count(facet, eligible, drops) for name, facet in inputs.categories()}
    warnings = [*_found_nothing(drops, heldout), *_emptied(tables), *_incompetence(heldout)]
    return GuardReport(eligible, {rule: int(dropped.sum()) for rule, dropped in drops.items()}, tables, warnings)


def _rise(inputs: SelectionInputs, options: GuardOptions) -> Array:
    losses = _trajectories(inputs, "rise")
    dropped = np.empty(len(losses), dtype=bool)
    for start in range(0, len(losses), CHUNK_ROWS):
        chunk = losses[start : start + CHUNK_ROWS].astype(np.float64)
        dropped[start : start + len(chunk)] = chunk[:, -1] - chunk.min(axis=1) > options.max_rise_nats + _ROUNDING_NATS
    return dropped


def _not_learnt(inputs: SelectionInputs, options: GuardOptions) -> Array:
    losses = _trajectories(inputs, "not_learnt")
    return losses[:, -1] >= losses[:, 0]


def _prompt_gain(inputs: SelectionInputs, options: GuardOptions) -> Array:
    return inputs.signal(at(LOSS_UNCONDITIONAL, "late")) <= inputs.signal(at(LOSS, "late"))


def _local(inputs: SelectionInputs, options: GuardOptions) -> Array:
    from s2l_ray.selection.neighbours import nearest_rows  # requires faiss

    loss = inputs.signal(at(LOSS, "late"))  # (N,)
    neighbours = nearest_rows(inputs.embeddings[at(PROMPT_EMBEDDING, "late")], inputs.example_ids, options.neighbours)
    dropped = np.empty(len(loss), dtype=bool)
    for start in range(0, len(loss), CHUNK_ROWS):
        near = loss[neighbours[start : start + CHUNK_ROWS]].astype(np.float64)  # (C, k)
        excess = loss[start : start + len(near)] - np.median(near, axis=1)
        dropped[start : start + len(near)] = excess > options.max_local_excess_nats + _ROUNDING_NATS
    return dropped


_RULES: dict[str, Callable[[SelectionInputs, GuardOptions], Array]] = {
    "rise": _rise,
    "not_learnt": _not_learnt,
    "prompt_gain": _prompt_gain,
    "local": _local,
}


def _trajectories(inputs: SelectionInputs, rule: str) -> Array:
    losses = inputs.signal(LOSSES)
    if losses.shape[1] < 2:
        raise UserError(f"the guard {rule} compares snapshots, but there is only one; raise trajectories.num_snapshots")
    return losses


def _check_kept(eligible: Array, drops: dict[str, Array], options: GuardOptions) -> None:
    kept = int(eligible.sum())
    if kept >= options.min_kept_share * len(eligible):
        return
    counts = ", ".join(f"{rule} {int(dropped.sum()):,}" for rule, dropped in drops.items())
    raise UserError(
        f"the guard would keep {kept:,} of {len(eligible):,} examples ({kept / len(eligible):.1%}), less than "
        f"guard.min_kept_share={options.min_kept_share:g}; it drops: {counts}. So many wrong answers are unlikely: "
        "check the proxy's training, relax the rules, or lower guard.min_kept_share"
    )


def _count(facet: Facet, eligible: Array, drops: dict[str, Array]) -> list[DroppedFrom]:
    """Return one row for each value that occurs, in the order of the codes."""
    num = len(facet.names)
    sizes, dropped = np.bincount(facet.codes, minlength=num), np.bincount(facet.codes[~eligible], minlength=num)
    by_rule = {rule: np.bincount(facet.codes[mask], minlength=num) for rule, mask in drops.items()}
    return [
        DroppedFrom(
            value=facet.names[code],
            size=int(sizes[code]),
            dropped=int(dropped[code]),
            by_rule={rule: int(counts[code]) for rule, counts in by_rule.items()},
        )
        for code in np.flatnonzero(sizes).tolist()
    ]


def _found_nothing(drops: dict[str, Array], heldout: HeldOutRecord | None) -> list[str]:
    told = heldout is not None and heldout.token_accuracy is not None
    cure = "" if told else "; held-out examples (heldout.share) would show which"
    return [
        f"the guard {rule} found nothing: {int(dropped.sum()):,} of {len(dropped):,} examples. Either the data are "
        f"clean, or the proxy is too weak to recognise wrong answers, or it memorises them{cure}"
        for rule, dropped in drops.items()
        if dropped.sum() < FOUND_NOTHING_SHARE * len(dropped)
    ]


def _emptied(tables: dict[str, list[DroppedFrom]]) -> list[str]:
    """Warn about rules that drop most of a source, because they have probably found hard examples, not wrong ones."""
    warnings = []
    for category, lines in tables.items():
        if category == "cluster":  # guards are meant to find whole clusters of wrong answers
            continue
        most = [f"{line['value']} ({line['dropped']:,} of {line['size']:,})" for line in lines
                if 2 * line["dropped"] > line["size"]]  # fmt: skip
        if most:
            warnings.append(
                f"the guard drops more than half of {category} {', '.join(listed(most, 5))}: hard examples can look "
                "like wrong ones; read some of them before you trust the guard"
            )
    return warnings


def _incompetence(heldout: HeldOutRecord | None) -> list[str]:
    warnings = []
    if heldout is not None and heldout.losses and heldout.losses[-1] > min(heldout.losses):
        last, lowest = heldout.losses[-1], min(heldout.losses)
        warnings.append(
            f"the proxy's held-out loss ended at {last:.3f}, above its lowest of {lowest:.3f}: it has begun to "
            "memorise, and a memorised wrong answer looks learnt; train the proxy less"
        )
    if heldout is not None and heldout.token_accuracy is not None and heldout.corpus_token_accuracy is not None:
        gap = heldout.corpus_token_accuracy - heldout.token_accuracy
        if gap > MEMORISING_GAP:
            warnings.append(
                f"the proxy's token accuracy is {heldout.corpus_token_accuracy:.1%} on the corpus and "
                f"{heldout.token_accuracy:.1%} on held-out examples: it memorises, which hides wrong answers from the "
                "guard; train the proxy less, or use a smaller one"
            )
    return warnings
