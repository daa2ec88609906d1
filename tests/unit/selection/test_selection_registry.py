"""Selectors by name: built in, registered by hand, offered by installed packages; options and help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from s2l_ray.errors import UserError
from s2l_ray.selection import (
    GuardOptions,
    MissingSignal,
    Ordering,
    SelectionInputs,
    Selector,
    SelectorOptions,
    UnknownSelector,
    describe_selectors,
    get_selector,
    list_selectors,
    needs_of,
    order_examples,
    register,
    registry,
    resolve_options,
)
from s2l_ray.selection.grouping import order_by_score
from tests.support.paths import ROOT
from tests.support.selection_data import ascending_ids, synthetic


class Longest:
    name = "longest"
    summary = "the highest ids"
    label = "longest"
    Options = SelectorOptions

    def needs(self, options: SelectorOptions) -> frozenset[str]:
        return frozenset()

    def order(self, inputs: SelectionInputs, seed: int, options: SelectorOptions, max_budget: int) -> Ordering:
        return order_by_score(inputs, seed, -inputs.example_ids[:, 0].astype(float), stratify=False)


@pytest.fixture
def own_registry():
    known = dict(registry._selectors())
    yield
    registry._selectors().clear()
    registry._selectors().update(known)


@pytest.mark.usefixtures("own_registry")
def test_a_selector_from_outside_is_like_the_others() -> None:
    register(Longest())
    inputs = SelectionInputs(ascending_ids(6))
    assert order_examples("longest", inputs, 0).take(2).rows.tolist() == [4, 5]
    assert get_selector("longest") in list_selectors()
    assert "longest" in describe_selectors()
    assert resolve_options("longest", {}, {"stratify": True}) == SelectorOptions()
    register(Longest())  # a module that is imported again


@pytest.mark.usefixtures("own_registry")
def test_what_is_no_selector_is_refused() -> None:
    class Incomplete:
        name = "incomplete"

    with pytest.raises(UserError, match="lacks summary, label, Options, needs, order"):
        register(Incomplete())  # type: ignore[arg-type]
    for name in ("", "Upper", "with-dash", "../up", "3d"):
        with pytest.raises(UserError, match="cannot be the name of a selector"):
            register(type("Named", (Longest,), {"name": name})())
    with pytest.raises(UserError, match="a selector with the name 's2l' already exists"):
        register(type("Other", (Longest,), {"name": "s2l"})())
    with pytest.raises(UserError, match="must be a subclass of SelectorOptions"):
        register(type("Odd", (Longest,), {"name": "odd", "Options": dict})())


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownSelector, match=r"unknown selector 's2l_robsut'; known: .*random, .*did you mean 's2l_robust'"
    ):
        get_selector("s2l_robsut")
    with pytest.raises(UnknownSelector, match="unknown selector 'zzz'; known") as raised:
        get_selector("zzz")
    assert "did you mean" not in str(raised.value)


def test_built_in_selectors_are_complete_and_told_apart() -> None:
    selectors = list_selectors()
    assert all(isinstance(selector, Selector) for selector in selectors)
    assert [selector.name for selector in selectors[:3]] == ["s2l", "s2l_robust", "random"]
    for one in ("name", "label"):
        values = [getattr(selector, one) for selector in selectors]
        assert len(set(values)) == len(values), one
    help_lines = describe_selectors().splitlines()
    assert [line.split()[0] for line in help_lines] == [selector.name for selector in selectors]
    assert all(selector.summary in line for selector, line in zip(selectors, help_lines, strict=True))
    assert max(map(len, help_lines)) <= 120


def test_options_are_the_selectors_own_before_the_shared_ones() -> None:
    shared = {"stratify": True, "allocation_exponent": 0.3, "reference": "early"}
    set_here = resolve_options("s2l", {"allocation_exponent": 0.7}, shared).model_dump(exclude_unset=True)
    assert {name: set_here[name] for name in ("stratify", "allocation_exponent")} == {
        "stratify": True,
        "allocation_exponent": 0.7,
    }
    assert resolve_options("random", {}, shared).model_dump(exclude={"guard"}) == {}
    with pytest.raises(
        UserError,
        match=r"selection\.options\.random sets stratify, which the selector random does not have.*options are guard",
    ):
        resolve_options("random", {"stratify": True})
    with pytest.raises(ValidationError, match="allocation_exponent"):
        resolve_options("s2l", {"allocation_exponent": 2})
    with pytest.raises(UserError, match="the options of the selector s2l must be ClusterOptions, not SelectorOptions"):
        order_examples("s2l", synthetic(5), 0, SelectorOptions())


def test_single_keys_of_a_guard_leave_the_others_to_the_selector() -> None:
    own = resolve_options("s2l_robust", {"guard": {"max_rise_nats": 0.3}}).guard
    assert (own.rules, own.max_rise_nats) == (["rise", "not_learnt"], 0.3)
    shared = resolve_options("s2l_robust", {"guard": {"max_rise_nats": 0.3}}, {"guard": {"min_kept_share": 0.5}}).guard
    assert (shared.rules, shared.max_rise_nats, shared.min_kept_share) == (["rise", "not_learnt"], 0.3, 0.5)
    assert resolve_options("s2l_robust", {}, {"guard": {"rules": ["rise"]}}).guard.rules == ["rise"]
    assert resolve_options("random", {"guard": GuardOptions(rules=["rise"])}).guard.rules == ["rise"]
    with pytest.raises(ValidationError, match="max_rise"):
        resolve_options("random", {"guard": {"max_rise": 1}})


@pytest.mark.parametrize("selector", [s.name for s in list_selectors()])
def test_one_example_and_none(selector: str) -> None:
    options = relaxed(selector)
    assert order_examples(selector, synthetic(1), 0, options).take(1).rows.tolist() == [0]
    with pytest.raises(UserError, match="there are no examples to choose from"):
        order_examples(selector, synthetic(0), 0, options)


def test_needs_follow_the_options() -> None:
    assert needs_of("random") == frozenset()
    assert needs_of("s2l") == {"clusters"}
    assert needs_of("s2l", resolve_options("s2l", {"stratify": True})) == {"clusters", "sources"}
    assert needs_of("s2l", resolve_options("s2l", {"stratify": "skill"})) == {"clusters", "facet:skill"}
    assert needs_of("s2l_robust") == {"clusters", "losses"}
    minimum = resolve_options("least_confidence", {"confidence": "minimum", "reference": "early"})
    assert needs_of("least_confidence", minimum) == {"min_probability@early"}
    guarded = resolve_options("random", {"guard": {"rules": ["prompt_gain"]}})
    assert needs_of("random", guarded) == {"loss_nats@late", "loss_unconditional@late"}


@pytest.mark.parametrize("selector", [s.name for s in list_selectors()])
def test_needs_are_enough_and_each_is_necessary(selector: str) -> None:
    """With exactly what it names a selector works; without any one of them the error names that one."""
    inputs = synthetic(40)
    needs = needs_of(selector, relaxed(selector))
    order_examples(selector, reduced(inputs, needs), 0, relaxed(selector)).take(7)
    for need in needs:
        with pytest.raises(MissingSignal, match=f"the selector {selector} needs .*{need}"):
            order_examples(selector, reduced(inputs, needs - {need}), 0, relaxed(selector))


def relaxed(selector: str) -> SelectorOptions:
    own = {"num_clusters": 4} if selector == "embedding_kmeans" else {}
    return resolve_options(selector, own | {"guard": {"min_kept_share": 0, **resolve_options(selector).guard.model_dump(
        include={"rules"})}})  # fmt: skip


def reduced(inputs: SelectionInputs, needs: frozenset[str]) -> SelectionInputs:
    """Nothing but `needs`."""
    signals = {need: inputs.signals[need] for need in needs if need in inputs.signals}
    steps = {"late": -1, "first": 0, "early": 1, "start": 0}
    assert inputs.losses is not None
    for need in needs:
        column, _, snapshot = need.partition("@")
        if column == "loss_nats":
            signals[need] = inputs.losses[:, steps[snapshot]]
    return SelectionInputs(
        inputs.example_ids,
        inputs.clusters if "clusters" in needs else None,
        inputs.sources if "sources" in needs else None,
        inputs.source_names if "sources" in needs else [],
        losses=inputs.losses if "losses" in needs else None,
        signals=signals,
        embeddings={need: inputs.embeddings[need] for need in needs if need in inputs.embeddings},
        query_embeddings=inputs.query_embeddings if "query_embeddings" in needs else None,
    )


def test_absent_strata_are_named() -> None:
    bare = SelectionInputs(ascending_ids(3), np.zeros(3, np.int32))
    for stratify, cure in ((True, r"corpus\.source_column"), ("skill", r"the facet skill .*corpus\.facets")):
        with pytest.raises(MissingSignal, match=cure):
            order_examples("s2l", bare, 0, resolve_options("s2l", {"stratify": stratify}))


def test_inputs_must_belong_together() -> None:
    ids = ascending_ids(4)
    with pytest.raises(UserError, match=r"clusters must be \(4,\) integers"):
        SelectionInputs(ids, np.zeros(5, np.int32))
    with pytest.raises(UserError, match="clusters has -1 in row 2"):
        SelectionInputs(ids, np.array([0, 0, -1, 0], np.int32))
    with pytest.raises(UserError, match="code 1, but there are only 1 names"):
        SelectionInputs(ids, None, np.array([0, 0, 1, 0], np.int32), ["a"])
    with pytest.raises(UserError, match="no sources"):
        SelectionInputs(ids, None, None, ["a"])
    with pytest.raises(UserError, match=r"losses must be \(4, T\)"):
        SelectionInputs(ids, losses=np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match="3 snapshot_steps for trajectories of 2 losses"):
        SelectionInputs(ids, losses=np.zeros((4, 2), np.float32), snapshot_steps=[1, 2, 3])
    with pytest.raises(UserError, match="must ascend"):
        SelectionInputs(ids, snapshot_steps=[1, 1])
    with pytest.raises(UserError, match=r"mean_probability@late must have 4 rows and 1 dimension"):
        SelectionInputs(ids, signals={"mean_probability@late": np.zeros((4, 2))})
    with pytest.raises(UserError, match=r"eligible must be \(4,\) bool"):
        SelectionInputs(ids, eligible=np.ones(4))


PLUGIN = """
from s2l_ray.selection import SelectorOptions
from s2l_ray.selection.selectors.random import Random

class Longest(Random):
    name, summary = "longest", "the highest ids"

selector = Longest()
"""


@pytest.mark.thorough
def test_an_installed_package_offers_its_selectors_to_every_process(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[s2l_ray.selectors]\nlongest = plugin:selector\n")
    program = "import s2l_ray.selection as s; print(s.get_selector('longest').summary)"
    assert run_with(tmp_path, program).stdout.strip() == "the highest ids"
    (tmp_path / "plugin.py").write_text("selector = 3")
    failed = run_with(tmp_path, program)
    assert "is not a selector: it lacks name" in failed.stderr
    (tmp_path / "plugin.py").write_text("raise RuntimeError('out of order')")
    failed = run_with(tmp_path, program)
    assert "the selector longest of plugin:selector cannot be loaded: RuntimeError: out of order" in failed.stderr


@pytest.mark.thorough
def test_neither_ray_nor_torch_is_imported() -> None:
    program = "import sys, s2l_ray.selection; print({'torch', 'ray', 'faiss', 'pandas'} & set(sys.modules))"
    assert run_with(Path("."), program).stdout.strip() == "set()"


def run_with(path: Path, program: str) -> subprocess.CompletedProcess[str]:
    root = ROOT
    search = f"{path}:{root}:{root / 'tests'}"
    return subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": search}, capture_output=True, text=True, timeout=120
    )
