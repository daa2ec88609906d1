"""What a guard speaks against, on the page: how many, by which rule, of what, and when it cannot see."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from s2l_ray.reporting.facts import Facts, SetAside
from s2l_ray.reporting.gather import _guards
from s2l_ray.reporting.numbers import percent
from s2l_ray.reporting.parts import Drawing
from s2l_ray.reporting.sections.examples import aside_section
from s2l_ray.selection import Facet, GuardOptions, HeldOutRecord, SelectionInputs, evaluate_guard
from s2l_ray.storage.folder import Storage
from tests.support.selection_data import ascending_ids


def subset(folder: Path, selector: str, losses: list[list[float]], record: HeldOutRecord | None) -> Any:
    num = len(losses)
    codes = np.arange(num, dtype=np.int32) % 2
    inputs = SelectionInputs(
        ascending_ids(num), sources=codes, source_names=["books", "forms"], losses=np.array(losses, np.float32),
        facets={"topic": Facet(np.zeros(num, np.int32), ["add"])},
    )  # fmt: skip
    guard = GuardOptions(rules=["rise", "not_learnt"], min_kept_share=0)
    storage = Storage.open(folder)
    storage.write_json("guard.json", evaluate_guard(inputs, guard, record).to_json())
    extra = {"selector": selector, "guard": {"num_dropped": 1}}
    return SimpleNamespace(storage=storage, manifest=SimpleNamespace(extra=extra))


def test_what_a_guard_dropped_is_on_the_page(tmp_path: Path) -> None:
    losses = [[3, 1, 0.5], [3, 1, 1.9], [3, 1, 0.5], [1, 0.2, 2.0]]
    one = subset(tmp_path / "a", "s2l_robust", losses, HeldOutRecord([2.0, 1.2, 1.5], 0.5, 0.8))
    bare = SimpleNamespace(manifest=SimpleNamespace(extra={"selector": "random", "guard": None}))
    run: Any = SimpleNamespace(subsets={"s2l_robust-0.1": one, "s2l_robust-0.3": one, "random-0.1": bare})
    (guard,) = _guards(run)
    assert (guard.subset, guard.num_dropped, guard.num_examples) == ("s2l_robust-0.1", 2, 4)
    assert guard.by_rule == {"rise": 2, "not_learnt": 1}
    assert guard.lines == [
        ("source", "forms", 2, 2, {"rise": 2, "not_learnt": 1}),
        ("topic", "add", 2, 4, {"rise": 2, "not_learnt": 1}),
    ]
    aside = SetAside([("read", 4), ("used", 4)], [], [], [guard])
    nothing = (None,) * 4
    facts = Facts("n", "u", "v", "f", 0, *nothing[:3], "p", "t", False, set_aside=aside)
    section = aside_section(facts, Drawing(facts, lambda chart, prefix, label: ""))
    assert section is not None
    figure = section.figures[-1]
    assert figure.caption.startswith(f"2 of 4 examples ({percent(0.5)}) are chosen last: rise 2, not_learnt 1. ")
    assert "The guard drops more than half of source forms (2 of 2)" in figure.caption
    assert "above its lowest of 1.200: it has begun to memorise" in figure.caption
    assert "80.0% on the corpus and 50.0% on held-out examples" in figure.caption
    assert figure.table is not None
    assert figure.table.rows[0] == ["source", "forms", "2 of 2", percent(1.0), "2", "1"]


def test_a_guard_that_found_nothing_says_so_on_the_page(tmp_path: Path) -> None:
    one = subset(tmp_path, "s2l_robust", [[3, 2, 1]] * 6, None)
    run: Any = SimpleNamespace(subsets={"s2l_robust-0.1": one})
    (guard,) = _guards(run)
    assert guard.lines == []
    assert any("would show which" in warning for warning in guard.warnings)
