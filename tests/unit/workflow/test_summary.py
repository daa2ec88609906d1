"""The lines at the end of a run: what was cut is counted, for every stage that cut something."""

from __future__ import annotations

import glob
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.costs import cost_of, is_free
from s2l_ray.reporting.summary import _seconds_of, _selection_lines, cut_lines, summary_lines
from tests.support.report_runs import MadeRun


class CutRun(MadeRun):
    """A made run in which some stages cut examples."""

    cut: dict[str, int]

    def stage(
        self, name: str, kind: str, inputs: Any, counts: Any, extra: Any, files: Any, *rest: Any, **more: Any
    ) -> str:
        if kind in ("tokens", "heldout") and not rest:
            more["settings"] = {"max_length": 64}
        if kind == "tokens":
            counts |= {"cut": self.cut.get(name, 0)}
        if kind == "heldout":
            extra |= {"names": list(self.heldout), "cut": {s: n for s, n in self.cut.items() if s in self.heldout}}
        return super().stage(name, kind, inputs, counts, extra, files, *rest, **more)


@pytest.mark.parametrize(
    ("cut", "line"),
    [
        ({}, None),
        ({"tokens": 1234}, "1,234 at 64 tokens (tokens)."),
        ({"tokens": 3, "target-tokens/s2l-0.2": 1, "balanced": 2},
         "3 at 64 tokens (tokens), 1 at 64 tokens (target-tokens/s2l-0.2), 2 at 64 tokens (heldout: balanced)."),
    ],
)  # fmt: skip
def test_what_was_cut_is_counted_per_stage(tmp_path, cut, line):
    made = CutRun(tmp_path / "run", num_examples=300, heldout={"balanced": 40}, targets=("s2l-0.2",))
    made.cut = cut
    run = load_run(str(made.make()))
    expected = [] if line is None else [f"  Truncated examples longer than max_length: {line}"]
    assert cut_lines(run) == expected
    lines = summary_lines(run)
    assert [one for one in lines if one.startswith("  Truncated")] == expected
    if expected:
        assert lines.index(expected[0]) == next(i for i, one in enumerate(lines) if one.startswith("  Read")) + 1


@pytest.mark.parametrize(
    ("selectors", "comparison"),
    [
        (("s2l",), None),
        (("random",), None),
        (("s2l", "random"), "  For comparison, selected without the proxy: random."),
    ],
)
def test_only_what_was_chosen_is_spoken_of(tmp_path, selectors, comparison):
    run = load_run(str(MadeRun(tmp_path / "run", num_examples=200, targets=(), selectors=selectors).make()))
    lines = summary_lines(run)
    told = "\n".join(lines).replace(run.uri, "")
    assert [line for line in lines if "comparison" in line] == ([] if comparison is None else [comparison])
    assert [name for name in ("s2l", "random") if f"{name} " in told.partition("Look at it")[0]] == sorted(
        selectors, reverse=True
    )
    cost = cost_of(run, None)
    assert cost is not None
    assert {part.selector for part in cost.parts} == {"s2l-0.2" if "s2l" in selectors else "random-0.2"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("full", True),
        ("random", True),
        ("random_per_source", True),
        ("s2l", False),
        ("ifd", False),
        ("unheard_of", False),
    ],
)
def test_what_needs_no_reference_model_is_what_the_selector_says(selector, expected):
    assert is_free(selector) is expected


class RecordedRun(MadeRun):
    """A made run, all losses of which but two were computed by training."""

    def stage(self, name: str, kind: str, inputs: Any, counts: Any, extra: Any, *rest: Any, **more: Any) -> str:
        if kind == "proxy":
            extra["snapshots"] = [s | {"epoch": n if n < 3 else None} for n, s in enumerate(extra["snapshots"])]
        return super().stage(name, kind, inputs, counts, extra, *rest, **more)


def test_losses_that_training_computed_cost_no_pass(tmp_path):
    run = load_run(str(RecordedRun(tmp_path / "run", num_examples=200, targets=()).make()))
    [line] = _selection_lines(run)
    assert "took 150k tokens" in line  # 90,000 of training, twice 30,000 of scoring
    cost = cost_of(run, None)
    assert cost is not None
    assert (1e6, 1e6 * (6 * 90_000 + 2 * 30_000 * 2)) in cost.reference


def test_stages_that_are_made_side_by_side_take_the_time_of_the_longest():
    def made(start: int, end: int) -> StageManifest:
        at = "2026-11-27T00:{:02d}:00+00:00"
        return StageManifest(stage="x", key="k", started_at=at.format(start), finished_at=at.format(end),
                             wall_seconds=60.0 * (end - start))  # fmt: skip

    assert _seconds_of([]) == 0
    assert _seconds_of([made(1, 3), made(3, 9), made(2, 8)]) == 8 * 60


def test_several_subsets_are_named_by_one_pattern(tmp_path):
    made = CutRun(tmp_path / "run", num_examples=300, budgets=(0.1, 0.2), targets=("s2l-0.2",))
    made.cut = {}
    run = load_run(str(made.make()))
    lines = "\n".join(summary_lines(run))
    [pattern] = {word for word in lines.split() if "/subset/s2l-*/" in word}
    assert len(glob.glob(pattern.rpartition("/")[0])) == 2
    [models] = {word for word in lines.split() if word.endswith("/target/*/model")}
    assert models == f"{run.uri}/target/*/model"
    assert len(glob.glob(models.rpartition("/")[0])) == 1
