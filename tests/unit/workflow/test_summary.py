"""The lines at the end of a run: what was cut is counted, for every stage that cut something."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.summary import cut_lines, summary_lines
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
    expected = [] if line is None else [f"  Cut       examples that were longer than max_length: {line}"]
    assert cut_lines(run) == expected
    lines = summary_lines(run)
    assert [one for one in lines if one.startswith("  Cut")] == expected
    if expected:
        assert lines.index(expected[0]) == next(i for i, one in enumerate(lines) if one.startswith("  Read")) + 1
