"""Every selector by hand, and what all of them promise; each answer in several orders of rows and partitions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection import MissingSignal, Selection, SelectionInputs, list_selectors, order_examples
from tests.support.selection_data import arrangements, ascending_ids, chosen, options_of, order_of, subset_of, synthetic
from tests.support.tiers import rest_thorough


def scored(**signals: list[float]) -> SelectionInputs:
    """Examples a, b, c … with `column@late` signals."""
    num = len(next(iter(signals.values())))
    late = {f"{name}@late": np.array(values, dtype=np.float32) for name, values in signals.items()}
    return SelectionInputs(ascending_ids(num), signals=late)


def with_losses(*snapshots: list[float], steps: list[int] | None = None) -> SelectionInputs:
    losses = np.array(snapshots, dtype=np.float32).T
    return SelectionInputs(ascending_ids(len(losses)), losses=np.ascontiguousarray(losses), snapshot_steps=steps)


# --- today's rows ---------------------------------------------------------------------------------------------------


def counted(num: int) -> SelectionInputs:
    """Inputs by arithmetic alone, so that no library's random numbers matter."""
    row = np.arange(num, dtype=np.uint64)
    ids = np.stack([row * np.uint64(0x9E3779B97F4A7C15), row * np.uint64(0xD1342543DE82EF95) + np.uint64(7)], axis=1)
    whole = row.astype(np.int64)
    return SelectionInputs(
        ids, (whole**2 % 97 // 5).astype(np.int32), (whole % 11 // 4).astype(np.int32), ["c", "a", "b"]
    )


@pytest.mark.parametrize(
    ("name", "options", "seed", "expected"),
    [
        ("s2l", {}, 0, ["ef798068c2a1f90d", "6c913de19e8f9ffa", "bd1d8dc8d5798590"]),
        ("s2l", {}, 12345678901, ["8242d6a473566b39", "e90f390b570e46e7", "c0d6ba84807722df"]),
        ("s2l", {"stratify": True}, 0, ["1bbc2365d555b942", "da361b0926f3bd28", "88ef9813cf5ec3f4"]),
        ("s2l", {"stratify": True}, 12345678901, ["170aa71057725755", "1832b7c2a385e8e0", "16a1b92ea4025ab4"]),
        ("random", {}, 0, ["9959f652c2eec4ea", "4099bc7e47d73324", "3fbd1cd47b8f2e1a"]),
        ("random", {}, 12345678901, ["460aa4930a3f180a", "6c5dd8a111ecd567", "d5c47d51885da95c"]),
        ("random_per_source", {}, 0, ["97f97eb3e9e6b53d", "68bdc3dd62b4737e", "758c18efb56f0a20"]),
        ("random_per_source", {}, 12345678901, ["13e7659cd1ba13ac", "a909204a5db91184", "4486fe935817811f"]),
    ],
)
def test_rows_are_those_of_the_first_release(
    name: str, options: dict[str, bool], seed: int, expected: list[str]
) -> None:
    """Recorded with the functions that these selectors replace: a change would change every user's subsets."""
    ordering = order_examples(name, counted(3000), seed, options_of(name, **options))

    def digest(selection: Selection) -> str:
        content = selection.rows.astype("<i8").tobytes() + selection.rank.astype("<i8").tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    assert [digest(ordering.take(budget)) for budget in (7, 330, 2999)] == expected


# --- least confidence -----------------------------------------------------------------------------------------------

TOKENS = [[0.9, 0.9], [0.5, 0.7], [0.2, 0.9, 0.1], [0.6], [0.4, 0.2, 0.75]]


def of_tokens(tokens: list[list[float]]) -> SelectionInputs:
    return scored(
        mean_probability=[float(np.mean(one)) for one in tokens],
        min_probability=[min(one) for one in tokens],
        loss_nats=[float(-np.log(one).mean()) for one in tokens],
    )


@pytest.mark.parametrize("confidence", ["mean", "geometric", "minimum"])
def test_least_confidence(confidence: str) -> None:
    inputs = of_tokens(TOKENS)
    assert order_of("least_confidence", inputs, confidence=confidence) == "cebda"
    assert subset_of("least_confidence", inputs, 2, confidence=confidence) == "ce"
    assert subset_of("least_confidence", inputs, 3, confidence=confidence) == "bce"


@pytest.mark.parametrize(("confidence", "expected"), [("mean", "ba"), ("geometric", "ab"), ("minimum", "ab")])
def test_kinds_of_confidence_differ(confidence: str, expected: str) -> None:
    assert order_of("least_confidence", of_tokens([[0.1, 0.9], [0.45, 0.5]]), confidence=confidence) == expected


def test_the_reference_snapshot_is_what_options_say() -> None:
    inputs = with_losses([1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2], steps=[0, 20, 50, 100])
    answers = {
        reference: order_of("least_confidence", inputs, confidence="geometric", reference=reference)
        for reference in ("start", "first", "early", "late")
    }
    assert answers == {"start": "cba", "first": "cba", "early": "abc", "late": "bca"}


# --- middle perplexity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([0.1, 3, 0.7, 1.9, 1.2], "ecdab"), ([2, 1, 4, 3], "adbc"), ([1, 1, 1, 5, 0], "baced"), ([4], "a")],
)
def test_middle_perplexity(losses: list[float], expected: str) -> None:
    assert order_of("middle_perplexity", scored(loss_nats=losses)) == expected


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_middle_perplexity_is_a_window(losses: list[int]) -> None:
    inputs = scored(loss_nats=[float(loss) for loss in losses])
    by_loss = sorted(range(len(losses)), key=lambda i: (losses[i], i))
    ordering = order_examples("middle_perplexity", inputs, 0)
    for budget in range(1, len(losses) + 1):
        start = (len(losses) - budget) // 2
        assert ordering.take(budget).rows.tolist() == sorted(by_loss[start : start + budget])


def test_the_window_may_lie_elsewhere() -> None:
    inputs = scored(loss_nats=[0, 1, 2, 3, 4, 5, 6])
    assert order_of("middle_perplexity", inputs, center=0.0) == "abcdefg"
    assert order_of("middle_perplexity", inputs, center=1.0) == "gfedcba"
    assert order_of("middle_perplexity", inputs, center=0.33) == "cbdaefg"  # the middle is 1.98


# --- high learnability ----------------------------------------------------------------------------------------------


def test_high_learnability() -> None:
    inputs = with_losses([3, 2, 5, 1.5, 4], [1, 1.5, 4.9, 0.1, 4.4])
    assert order_of("high_learnability", inputs) == "adbce"
    assert order_of("high_learnability", inputs, relative=True) == "dabce"
    assert subset_of("high_learnability", inputs, 1) == "a"
    assert subset_of("high_learnability", inputs, 1, relative=True) == "d"


def test_learnability_between_other_snapshots() -> None:
    inputs = with_losses([9, 9, 9], [5, 6, 7], [4, 3, 6], steps=[0, 30, 100])
    assert order_of("high_learnability", inputs) == "bac"
    assert order_of("high_learnability", inputs, before="start") == "bac"
    assert order_of("high_learnability", inputs, before="early") == "bac"
    assert order_examples("high_learnability", inputs, 0, options_of("high_learnability", before="early")).notes == {
        "before": "early",
        "before_step": 30,
    }
    unstarted = with_losses([9, 9], [5, 6], steps=[1, 100])
    with pytest.raises(MissingSignal, match=r"loss_nats@start .*include_step_zero=true"):
        order_examples("high_learnability", unstarted, 0, options_of("high_learnability", before="start"))


def test_learnability_needs_two_snapshots_and_losses_above_zero() -> None:
    with pytest.raises(UserError, match="is also the last one, so no loss can fall between them"):
        order_examples("high_learnability", with_losses([1, 2]), 0)
    late = with_losses([1, 2], [1, 1], steps=[1, 100])
    with pytest.raises(UserError, match="is also the last one"):
        order_examples("high_learnability", late, 0, options_of("high_learnability", before="early"))
    with pytest.raises(DataError, match=r"which is 0\.0 for example 0{31}5; set relative=false"):
        order_examples(
            "high_learnability", with_losses([0, 2], [1, 1]), 0, options_of("high_learnability", relative=True)
        )


# --- curriculum -----------------------------------------------------------------------------------------------------


def stages_of(confidence: list[float], stages: int) -> str:
    """Bands as `ad|ce|fb`, each by id."""
    inputs = scored(mean_probability=confidence)
    answers = set()
    for arranged in arrangements(inputs):
        ordering = order_examples(
            "confidence_curriculum", arranged, 0, options_of("confidence_curriculum", stages=stages)
        )
        assert ordering.stage is not None
        bands = [chosen(arranged, np.flatnonzero(ordering.stage == stage)) for stage in range(stages)]
        numbers = [tuple(one) for one in inputs.example_ids.tolist()]
        answers.add("|".join("".join("abcdef"[numbers.index(one)] for one in band) for band in bands))
    (answer,) = answers
    return answer


def test_confidence_curriculum() -> None:
    assert stages_of([0.9, 0.1, 0.5, 0.7, 0.3, 0.2], 3) == "ad|ce|bf"  # f before b by confidence
    assert stages_of([0.9, 0.8, 0.7, 0.6, 0.5], 2) == "abc|de"
    assert stages_of([0.5, 0.5, 0.5, 0.5], 2) == "ab|cd"
    assert stages_of([0.5, 0.4], 5) == "a|b|||"


@pytest.mark.parametrize(
    ("confidence", "stages", "budget", "expected"),
    [([0.9, 0.1, 0.5, 0.7, 0.3, 0.2], 3, 3, [1, 1, 1]), ([0.9, 0.8, 0.7, 0.6, 0.5], 2, 4, [2, 2])],
)
def test_stages_give_alike(confidence: list[float], stages: int, budget: int, expected: list[int]) -> None:
    options = options_of("confidence_curriculum", stages=stages)
    selection = order_examples("confidence_curriculum", scored(mean_probability=confidence), 3, options).take(budget)
    assert [(group["stage"], group["taken"]) for group in selection.groups] == list(enumerate(expected))


# --- table look-ups -------------------------------------------------------------------------------------------------


def test_ifd_chooses_last_what_the_prompt_does_not_help() -> None:
    inputs = scored(loss_nats=[1.2, 0.9, 2.5], loss_unconditional=[2.0, 1.0, 2.2])
    assert order_of("ifd", inputs) == "bac"
    selection = order_examples("ifd", inputs, 0).take(3)
    assert selection.num_ineligible == 1
    assert "exceeds the 2 eligible examples, so 1" in selection.warnings[0]
    assert order_examples("ifd", inputs, 0).take(2).warnings == []
    even = scored(loss_nats=[1.0, 2.0, 0.5], loss_unconditional=[1.0, 2.5, 0.6])
    assert order_of("ifd", even) == "cba"  # a ratio of 1 is no help either


def test_cartography() -> None:
    probabilities = np.array([[0.1, 0.2, 0.1], [0.1, 0.9, 0.2], [0.9, 0.9, 0.9], [0.5, 0.2, 0.5]], dtype=np.float32)
    inputs = SelectionInputs(ascending_ids(4), signals={"mean_probability@all": probabilities})
    assert order_of("cartography_hard", inputs) == "abdc"  # both .4: by id
    assert order_of("cartography_ambiguous", inputs) == "bdac"
    single = SelectionInputs(ascending_ids(4), signals={"mean_probability@all": probabilities[:, :1]})
    with pytest.raises(UserError, match="but there is only one"):
        order_examples("cartography_ambiguous", single, 0)


def test_forgetting() -> None:
    accuracy = np.array([[1, 0.5, 1, 0.9], [1, 1, 1, 0], [0, 0.5, 0.9, 0.99], [1, 1, 1, 1]], dtype=np.float32)
    inputs = SelectionInputs(ascending_ids(4), signals={"token_accuracy@all": accuracy})
    assert order_of("forgetting", inputs) == "abcd"
    assert order_of("forgetting", inputs, never_learnt="infinite") == "cabd"
    single = SelectionInputs(ascending_ids(4), signals={"token_accuracy@all": accuracy[:, :1]})
    with pytest.raises(UserError, match="compares snapshots, but there is only one"):
        order_examples("forgetting", single, 0)


# --- what all promise -----------------------------------------------------------------------------------------------

STRATIFIED = [s.name for s in list_selectors() if "stratify" in s.Options.model_fields]
CASES: list[tuple[str, dict[str, object]]] = [(s.name, {}) for s in list_selectors()]
CASES += [(name, {"stratify": True}) for name in STRATIFIED]
CASES += [(name, {"stratify": "skill"}) for name in ("s2l", "ifd", "middle_perplexity", "confidence_curriculum")]
GUARD = {"rules": ["rise", "not_learnt"], "min_kept_share": 0.0}


@pytest.mark.parametrize(("name", "options"), rest_thorough(CASES, 8), ids=str)
@settings(max_examples=12)
@given(
    num=st.integers(2, 70),
    num_clusters=st.integers(1, 12),
    exponent=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    guarded=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_exact_nested_and_the_same_in_any_order_of_rows(
    name: str, options: dict[str, object], num: int, num_clusters: int, exponent: float, guarded: bool, seed: int
) -> None:
    inputs = synthetic(num, num_clusters, 4, seed % 1000)
    options = options | ({"guard": GUARD} if guarded else {"guard": {"rules": []}})
    if "allocation_exponent" in type(options_of(name)).model_fields:
        options["allocation_exponent"] = exponent
    if "num_clusters" in type(options_of(name)).model_fields:
        options["num_clusters"] = num_clusters
    typed = options_of(name, **options)
    orderings = [(arranged, order_examples(name, arranged, seed, typed)) for arranged in arrangements(inputs)]
    eligible = orderings[0][1].eligible
    num_eligible = num if eligible is None else int(eligible.sum())
    before: set[tuple[int, int]] = set()
    for budget in sorted({1, 2, num // 3 + 1, num_eligible or 1, num - 1, num}):
        answers = []
        for arranged, ordering in orderings:
            selection = ordering.take(budget)
            assert len(selection.rows) == budget == sum(group["taken"] for group in selection.groups)
            assert all(group["taken"] <= group["size"] for group in selection.groups)
            assert selection.num_ineligible == max(0, budget - num_eligible)
            assert bool(selection.warnings) == (budget > num_eligible)
            if ordering.eligible is not None:
                assert selection.num_ineligible == int((~ordering.eligible[selection.rows]).sum())
            answers.append((chosen(arranged, selection.rows), selection.groups))
        assert all(answer == answers[0] for answer in answers)
        now = set(answers[0][0])
        assert before <= now
        before = now


@pytest.mark.parametrize("name", [s.name for s in list_selectors() if s.name not in ("random", "random_per_source")])
def test_absent_signals_are_named_with_the_command_that_makes_them(name: str) -> None:
    bare = SelectionInputs(ascending_ids(4))
    with pytest.raises(
        MissingSignal, match=f"the selector {name} needs what this run does not have: .*`s2l run CONFIG`"
    ):
        order_examples(name, bare, 0)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_example(spoil: float) -> None:
    inputs = scored(mean_probability=[0.1, spoil, 0.3])
    with pytest.raises(DataError, match=r"mean_probability@late is not finite for example 0{31}6"):
        order_examples("least_confidence", inputs, 0)


def test_budgets_out_of_range_are_refused() -> None:
    take: Callable[[int], Selection] = order_examples("random", synthetic(10), 0).take
    for budget in (0, 11, -1):
        with pytest.raises(UserError, match=f"budget {budget} cannot be taken from 10"):
            take(budget)
