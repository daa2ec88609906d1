"""What guards drop, what they report, and when they say that they found nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from s2l_ray.errors import UserError
from s2l_ray.selection import (
    ArrayEmbeddings,
    Facet,
    GuardOptions,
    HeldOutRecord,
    MissingSignal,
    SelectionInputs,
    evaluate_guard,
    order_examples,
)
from tests.support.selection_data import (
    arrangements,
    ascending_ids,
    chosen,
    options_of,
    order_of,
    random_ids,
    synthetic,
)

TRAJECTORIES = [[3, 1, 0.2, 0.1], [3, 1.2, 1.5, 2.6], [3, 2.9, 2.8, 2.8], [2, 0.5, 0.6, 0.7], [3, 3.1, 3.4, 3.9]]


def guard(*rules: Any, **options: Any) -> GuardOptions:
    return GuardOptions(rules=list(rules), **{"min_kept_share": 0.0} | options)


def of_losses(losses: list[list[float]], **columns: Any) -> SelectionInputs:
    return SelectionInputs(ascending_ids(len(losses)), losses=np.array(losses, dtype=np.float32), **columns)


def dropped(inputs: SelectionInputs, options: GuardOptions) -> str:
    """The dropped examples as letters; the same for every arrangement."""
    answers = set()
    for arranged in arrangements(inputs):
        ids = chosen(arranged, np.flatnonzero(~evaluate_guard(arranged, options).eligible))
        answers.add("".join("abcdefgh"[2 * high + low - 5] for high, low in ids))
    (answer,) = answers
    return answer


def test_rise() -> None:
    inputs = of_losses(TRAJECTORIES)
    assert dropped(inputs, guard("rise")) == "be"
    assert dropped(inputs, guard("rise", max_rise_nats=0.95)) == "b"
    assert dropped(inputs, guard("rise", max_rise_nats=0.1)) == "bde"


@pytest.mark.parametrize(("lowest", "limit"), [(1.0, 0.2), (0.5, 0.2), (2.3, 0.7), (0.1, 0.3)])
def test_a_rise_of_exactly_the_limit_is_kept(lowest: float, limit: float) -> None:
    losses = [[9, lowest, lowest + limit], [9, lowest, lowest + limit + 0.001]]
    assert dropped(of_losses(losses), guard("rise", max_rise_nats=limit)) == "b"


def test_not_learnt() -> None:
    inputs = of_losses([*TRAJECTORIES, [2, 1, 2, 2]])
    assert dropped(inputs, guard("not_learnt")) == "ef"


def test_prompt_gain() -> None:
    unconditional = np.array([2.0, 1.0, 0.9], dtype=np.float32)
    inputs = of_losses([[5, 1.5], [5, 1.0], [5, 2.0]], signals={"loss_unconditional@late": unconditional})
    assert dropped(inputs, guard("prompt_gain")) == "bc"


def test_local() -> None:
    """Two topics: an answer that is much harder than those of prompts like its own."""
    angle = np.array([0, 1, 2, 3, 90, 91, 92, 93]) * np.pi / 180
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    losses = [[9, one] for one in (0.1, 0.2, 2.0, 0.3, 3.0, 3.1, 3.2, 3.5)]
    inputs = of_losses(losses, embeddings={"prompt_embedding@late": ArrayEmbeddings(vectors)})
    assert dropped(inputs, guard("local", neighbours=3)) == "c"
    assert dropped(inputs, guard("local", neighbours=3, max_local_excess_nats=0.25)) == "ch"
    assert dropped(inputs, guard("local", neighbours=1023)) == "fgh"  # all others are neighbours


def test_dropped_examples_come_last_in_their_cluster() -> None:
    inputs = of_losses(TRAJECTORIES, clusters=np.zeros(5, np.int32))
    order = order_of("s2l", inputs, guard={"rules": ["rise"], "min_kept_share": 0})
    assert sorted(order[:3]) == ["a", "c", "d"]
    assert sorted(order[3:]) == ["b", "e"]
    unguarded = order_of("s2l", inputs)
    assert [one for one in unguarded if one in "acd"] == list(order[:3])
    assert [one for one in unguarded if one in "be"] == list(order[3:])


def test_quotas_are_of_the_eligible_while_they_last() -> None:
    """Cluster 1 is wrong answers but for two."""
    clusters = np.repeat(np.arange(2, dtype=np.int32), [50, 50])
    losses = np.tile(np.array([3.0, 1.0, 0.5], dtype=np.float32), (100, 1))
    losses[52:, -1] = 2.9
    inputs = SelectionInputs(random_ids(100), clusters, losses=losses)
    ordering = order_examples("s2l", inputs, 0, options_of("s2l", guard=guard("rise")))
    assert [group["taken"] for group in ordering.take(40).groups] == [38, 2]
    assert [group["eligible"] for group in ordering.take(40).groups] == [50, 2]
    past = ordering.take(60)
    assert [group["taken"] for group in past.groups] == [50, 10]
    assert past.num_ineligible == 8
    assert past.warnings == [
        "the budget 60 exceeds the 52 eligible examples, so 8 that a guard or the selector's own rule excludes were "
        "added last; lower the budget or relax the rule"
    ]


def test_the_report_counts_by_source_cluster_and_facet() -> None:
    inputs = of_losses(
        TRAJECTORIES,
        clusters=np.array([0, 1, 0, 0, 1], np.int32),
        sources=np.array([0, 0, 1, 1, 1], np.int32),
        source_names=["web", "books", "unused"],
        facets={"skill": Facet(np.array([1, 1, 1, 1, 0], np.int32), ["add", "sort"])},
    )
    report = evaluate_guard(inputs, guard("rise", "not_learnt"))
    assert report.num_dropped == 2
    assert report.dropped_by_rule == {"rise": 2, "not_learnt": 1}
    assert report.tables == {
        "source": [
            {"value": "web", "size": 2, "dropped": 1, "by_rule": {"rise": 1, "not_learnt": 0}},
            {"value": "books", "size": 3, "dropped": 1, "by_rule": {"rise": 1, "not_learnt": 1}},
        ],
        "cluster": [
            {"value": "0", "size": 3, "dropped": 0, "by_rule": {"rise": 0, "not_learnt": 0}},
            {"value": "1", "size": 2, "dropped": 2, "by_rule": {"rise": 2, "not_learnt": 1}},
        ],
        "skill": [
            {"value": "add", "size": 1, "dropped": 1, "by_rule": {"rise": 1, "not_learnt": 1}},
            {"value": "sort", "size": 4, "dropped": 1, "by_rule": {"rise": 1, "not_learnt": 0}},
        ],
    }
    assert report.warnings == [
        "the guard drops more than half of skill add (1 of 1): hard examples can look like wrong ones; read "
        "some of them before you trust the guard"
    ]
    assert json.loads(json.dumps(report.to_json()))["num_dropped"] == 2


def test_a_guard_that_found_nothing_says_so() -> None:
    losses = np.tile(np.array([3.0, 1.0, 0.5], dtype=np.float32), (2001, 1))
    losses[:2, -1] = 2.0
    inputs = SelectionInputs(random_ids(2001), losses=losses)
    (warning,) = evaluate_guard(inputs, guard("rise")).warnings
    assert warning.startswith("the guard rise found nothing: 2 of 2,001 examples.")
    assert "too weak" in warning
    assert "memorises" in warning
    losses[2, -1] = 2.0  # .15 %: found something
    assert evaluate_guard(SelectionInputs(random_ids(2001), losses=losses), guard("rise")).warnings == []


def test_a_memorising_proxy_is_named() -> None:
    inputs = of_losses(TRAJECTORIES)

    def warnings(record: HeldOutRecord) -> list[str]:
        return evaluate_guard(inputs, guard("rise"), record).warnings

    assert warnings(HeldOutRecord([3, 2, 1.5], 0.5, 0.59)) == []
    (risen,) = warnings(HeldOutRecord([3, 1.5, 1.8]))
    assert "ended at 1.800, above its lowest of 1.500" in risen
    (gap,) = warnings(HeldOutRecord([3, 2], 0.5, 0.61))
    assert "61.0% on the corpus and 50.0% on held-out examples: it memorises" in gap


def test_whether_a_proxy_memorises_is_told_by_held_out_examples_alone() -> None:
    losses = [[3.0, 2.0, 1.0]] * 2000
    (unknown,) = evaluate_guard(of_losses(losses), guard("rise")).warnings
    assert unknown.endswith("or it memorises them; held-out examples (heldout.share) would show which")
    (known,) = evaluate_guard(of_losses(losses), guard("rise"), HeldOutRecord([2, 1], 0.5, 0.55)).warnings
    assert known.endswith("or it memorises them")


def test_too_much_dropped_stops() -> None:
    with pytest.raises(
        UserError, match=r"keep 3 of 5 examples \(60\.0%\), less than guard\.min_kept_share=0\.8.*rise 2"
    ):
        evaluate_guard(of_losses(TRAJECTORIES), GuardOptions(rules=["rise"]))
    assert evaluate_guard(of_losses(TRAJECTORIES), GuardOptions(rules=["rise"], min_kept_share=0.6)).num_dropped == 2


def test_guards_name_what_they_lack() -> None:
    bare = SelectionInputs(ascending_ids(3))
    for rule, column in (("rise", "losses"), ("prompt_gain", "loss_unconditional@late"), ("local", "prompt_embedding")):
        with pytest.raises(MissingSignal, match=column):
            evaluate_guard(bare, guard(rule))
    with pytest.raises(UserError, match="the guard rise compares snapshots, but there is only one"):
        evaluate_guard(of_losses([[1], [2]]), guard("rise"))


def test_options_of_guards_are_checked() -> None:
    for wrong in ({"rules": ["rise", "rise"]}, {"rules": ["fall"]}, {"max_rise_nats": -1}, {"min_kept_share": 1.5}):
        with pytest.raises(ValidationError):
            GuardOptions.model_validate(wrong)


def test_s2l_robust_is_s2l_with_exponent_and_free_guards() -> None:
    inputs = synthetic(500)
    options = options_of("s2l_robust", guard={"rules": ["rise", "not_learnt"], "min_kept_share": 0.0})
    robust = order_examples("s2l_robust", inputs, 3, options)
    same = options_of("s2l", allocation_exponent=0.5, guard=guard("rise", "not_learnt"))
    plain = order_examples("s2l", inputs, 3, same)
    assert np.array_equal(robust.take(77).rows, plain.take(77).rows)
    assert robust.guard is not None
    assert robust.guard.num_dropped > 50
    assert not np.array_equal(robust.take(77).rows, order_examples("s2l", inputs, 3).take(77).rows)
    default = options_of("s2l_robust")
    assert default.guard == GuardOptions(rules=["rise", "not_learnt"])
    assert default.model_dump()["allocation_exponent"] == 0.5
