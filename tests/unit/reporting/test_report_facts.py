"""The numbers of a report: equal to what the same figures give when they are computed the plain way."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.errors import UserError
from s2l_ray.lm.schedule import learning_rate
from s2l_ray.reporting.gather import gather_facts
from s2l_ray.reporting.look import look_of
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.overlaps import num_common
from s2l_ray.reporting.rows import positions
from s2l_ray.reporting.sketch import BINS, EDGES, Part, Sketch, loss_bins, percentiles
from s2l_ray.reporting.training import thinned
from s2l_ray.selection.registry import list_selectors
from tests.support.paths import ROOT
from tests.support.report_runs import MadeRun


def gathered(run: Any, **options: Any) -> Any:
    """Facts of which a test knows what is there."""
    return gather_facts(run if isinstance(run, Run) else load_run(str(run)), **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> MadeRun:
    run = MadeRun(tmp_path_factory.mktemp("report") / "run", quarantined=(("a.jsonl", "no JSON"), ("a.jsonl", "empty")))
    run.make()
    return run


@pytest.fixture(scope="module")
def facts(made: MadeRun) -> Any:
    return gathered(made.folder)


def test_shares_by_source_and_topic_are_counted(made, facts):
    contents = facts.contents
    for column, codes, names in (("source", made.source_codes, made.sources), ("topic", made.topic_codes, made.topics)):
        assert sum(c.count for c in contents.columns[column]) == made.num_examples
        for category in contents.columns[column]:
            is_it = np.array(names)[codes] == category.value
            assert category.count == is_it.sum()
            assert category.chosen == {label: int(is_it[rows].sum()) for label, rows in made.chosen.items()}
    counts = [c.count for c in contents.columns["topic"]]
    assert counts == sorted(counts, reverse=True)


def test_histograms_hold_every_example_once_and_medians_are_those_of_the_rows(made, facts):
    prompts = np.array([made.prompt_length(row) for row in range(made.num_examples)])
    values = {
        "response length": made.tokens,
        "prompt length": prompts,
        "first loss": made.losses[:, 0],
        "last loss": made.losses[:, -1],
    }
    for histogram in facts.contents.histograms:
        of = values[histogram.what]
        assert sum(histogram.counts[""]) == made.num_examples
        exact = np.histogram(of, histogram.edges)[0]
        if histogram.unit == "tokens":
            assert histogram.counts[""] == exact.tolist()
        assert histogram.medians[""] == pytest.approx(np.median(of), rel=0.07)
        for label, rows in made.chosen.items():
            assert sum(histogram.counts[label]) == len(rows)
            assert histogram.medians[label] == pytest.approx(np.median(of[rows]), rel=0.07)


def test_cards_have_the_clusters_sizes_bands_choice_and_commonest_topics(made, facts):
    cards = facts.clusters.clusters
    assert [c.size for c in cards] == sorted(np.bincount(made.clusters).tolist(), reverse=True)
    for card in cards:
        rows = np.flatnonzero(made.clusters == card.cluster)
        assert (card.size, card.taken) == (len(rows), np.isin(rows, made.chosen["s2l-0.2"]).sum())
        for percentile, band in ((10, card.low), (50, card.median), (90, card.high)):
            assert band == pytest.approx(np.percentile(made.losses[rows], percentile, axis=0), rel=0.13)
        topics = np.bincount(made.topic_codes[rows], minlength=len(made.topics))
        assert card.common[0] == (made.topics[int(topics.argmax())], pytest.approx(topics.max() / len(rows)))
        known = {line.tobytes() for line in made.losses[rows]}
        assert all(np.array(line, np.float32).tobytes() in known for line in card.members)
        assert len(card.members) == min(10, len(rows))


def test_examples_are_the_extremes_of_their_cluster_in_and_out_of_the_subset(made, facts):
    hex_of = [f"{high:016x}{low:016x}" for high, low in made.ids.tolist()]
    row_of = {text: i for i, text in enumerate(hex_of)}
    is_chosen = np.isin(np.arange(made.num_examples), made.chosen["s2l-0.2"])
    last = made.losses[:, -1]
    for example in facts.examples:
        row = row_of[example.id]
        assert example.cluster == made.clusters[row]
        assert example.is_chosen == is_chosen[row]
        assert example.losses == pytest.approx(made.losses[row].tolist())
        assert [text for _, text in example.turns] == list(made.text(row))
        assert example.topic == made.topics[made.topic_codes[row]]
        group = last[(made.clusters == example.cluster) & (is_chosen == example.is_chosen)]
        if example.why in ("easiest", "hardest"):
            assert last[row] == (group.min() if example.why == "easiest" else group.max())
    assert {(e.cluster, e.is_chosen) for e in facts.examples} == {
        (int(k), bool(c)) for k, c in zip(made.clusters, is_chosen, strict=True)
    }


def test_the_map_holds_every_example_and_the_right_has_the_higher_losses(made, facts):
    space = facts.space
    counts = np.array(space.counts)
    assert counts.sum() == made.num_examples
    assert np.array(space.chosen["s2l-0.2"]).sum() == len(made.chosen["s2l-0.2"])
    assert (np.array(space.chosen["s2l-0.2"]) <= counts).all()
    logs = np.log(made.losses.astype(np.float64))
    centred = logs - logs.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    assert space.explained == pytest.approx((spread**2 / (spread**2).sum())[:2])
    first = centred @ (axes[0] * np.sign(axes[0].sum()))
    wanted = np.histogram(first, np.linspace(first.min(), first.max(), counts.shape[1] + 1))[0]
    assert np.abs(counts.sum(axis=0) - wanted).sum() <= 4  # on the edges of cells
    assert np.corrcoef(first, logs.mean(axis=1))[0, 1] > 0.5


def test_purity_stands_beside_that_of_random_clusters_of_the_same_sizes(made, facts):
    purity = {p.column: p for p in facts.meaning.purity}["topic"]
    own = [np.bincount(made.topic_codes[made.clusters == k]).max() for k in range(made.num_clusters)]
    assert (purity.clusters_of, purity.num_examples) == ("trajectories", made.num_examples)
    assert purity.mean == pytest.approx(sum(own) / made.num_examples)
    assert purity.random_mean < purity.mean
    most = np.bincount(made.topic_codes).max() / made.num_examples
    assert purity.random_mean == pytest.approx(most, abs=0.06)


def test_scores_are_the_means_of_the_evaluations_and_differences_are_paired(made, facts):
    worth = facts.worth
    for score in (s for s in worth.scores if s.source is None):
        losses, exact = made.evaluated[score.label, 0, score.heldout_set]
        values = losses if score.metric == "loss" else exact
        assert score.estimate.value == pytest.approx(values.mean(dtype=np.float64))
        assert score.estimate.low < score.estimate.value < score.estimate.high
        assert score.num_examples == len(values)
    for difference in worth.differences:
        own, other = (
            made.evaluated[name, 0, difference.heldout_set] for name in (difference.label, difference.baseline)
        )
        which = 0 if difference.metric == "loss" else 1
        paired = own[which].astype(np.float64) - other[which].astype(np.float64)
        assert difference.estimate.value == pytest.approx(paired.mean())
        error = paired.std() / np.sqrt(len(paired))
        assert difference.estimate.low == pytest.approx(paired.mean() - 1.96 * error, abs=0.4 * error)
        assert difference.estimate.high == pytest.approx(paired.mean() + 1.96 * error, abs=0.4 * error)
    assert {(d.label, d.baseline) for d in worth.differences} == {
        ("s2l-0.2", "full"), ("s2l-0.2", "random-0.2"), ("random-0.2", "full"),
    }  # fmt: skip


def test_scores_by_source_are_those_of_its_examples_the_hardest_first(made, facts):
    scores = [s for s in facts.worth.scores if s.source and (s.metric, s.heldout_set) == ("loss", "balanced")]
    _, sources, _ = made.held["balanced"]
    for score in scores:
        losses, _ = made.evaluated[score.label, 0, "balanced"]
        assert score.estimate.value == pytest.approx(losses[np.array(made.sources)[sources] == score.source].mean())
    mine = [s.estimate.value for s in scores if s.label == facts.main]
    assert mine == sorted(mine, reverse=True)


def test_what_was_set_aside_adds_up(facts):
    counts = dict(facts.set_aside.counts)
    assert counts == {"read": 954, "exact duplicates": 12, "unusable rows": 2, "not renderable": 0, "held out": 40,
                      "used": 900, "chosen": 180}  # fmt: skip
    assert facts.set_aside.reasons == [("no JSON", 1), ("empty", 1)]
    assert [(r.origin, r.index) for r in facts.set_aside.rows] == [("a.jsonl", 0), ("a.jsonl", 1)]


def test_overlaps_are_jaccard_of_this_runs_subsets_and_of_another_runs(made, facts, tmp_path):
    overlap = facts.stability.overlap
    a, b = (set(made.chosen[label].tolist()) for label in overlap.labels)
    assert overlap.matrix[0][1] == overlap.matrix[1][0] == pytest.approx(len(a & b) / len(a | b))
    other = load_run(str(MadeRun(tmp_path / "other", seed=made.seed).make()))
    compared = gathered(made.folder, compared=[("other", other)]).stability.overlap
    assert compared.labels[2:] == ["other: s2l-0.2", "other: random-0.2"]
    assert compared.matrix[0][2] == 1.0  # the same seed made it


def test_training_curves_are_those_of_the_stages_own_tries(facts):
    assert facts.training.proxy.points[0] == (10, 2.5)
    assert [c.name for c in facts.training.targets] == ["s2l-0.2", "full", "random-0.2"]
    assert [step for step, _ in facts.training.snapshots] == [1, 21, 41, 61, 81]
    curve = next(c for c in facts.training.heldout if c.name == "full on balanced")
    assert [step for step, _ in curve.points] == [0, 90]


def test_learning_rates_are_those_that_the_trainings_had(facts):
    rates = {curve.name: dict(curve.points) for curve in facts.training.rates}
    assert set(rates) == {"proxy", "full", "s2l-0.2", "random-0.2"}
    assert rates["full"][1] == pytest.approx(learning_rate(0, 90, 0.003, 0.1))
    assert max(rates["full"].values()) == pytest.approx(0.003)
    assert min(rates["full"].values()) == rates["full"][90] == pytest.approx(learning_rate(89, 90, 0.003, 0.1))


def test_a_leader_is_better_than_each_of_the_others(made, facts):
    leaders = {(one.metric, one.heldout_set): one.label for one in facts.worth.leaders}
    assert leaders["loss", "balanced"] == leaders["loss", "split"] == "s2l-0.2"
    for metric, heldout_set in leaders:
        better = {d.verdict for d in facts.worth.differences
                  if (d.metric, d.heldout_set, d.label) == (metric, heldout_set, "s2l-0.2")}  # fmt: skip
        assert better == {"better"}


def test_the_data_sets_are_the_corpus_and_the_held_out_ones(made, facts):
    assert [(d.name, d.role, d.num_examples) for d in facts.data_sets] == [
        ("made", "selection", made.num_examples), ("balanced", "evaluation", 400), ("split", "evaluation", 150),
    ]  # fmt: skip
    assert [d.num_sources for d in facts.data_sets] == [3, 3, 3]


def test_the_map_is_coarse_where_there_are_few_examples(facts):
    assert (len(facts.space.counts), len(facts.space.counts[0])) == (9, 12)


def test_facts_are_json_without_nan_and_the_same_again(made, facts):
    text = json.dumps(facts.plain(), allow_nan=False)
    assert text == json.dumps(gathered(made.folder).plain())


@pytest.mark.thorough
def test_another_column_is_looked_at_when_asked_for_and_an_unknown_one_refused(made):
    run = load_run(str(made.folder))
    assert gathered(run).clusters.column == "topic"
    assert gathered(run, by="source").clusters.column == "source"
    assert list(gathered(run, by="source").contents.columns) == ["source"]
    with pytest.raises(UserError, match=r"'tpoic' is not a facet.*source.*topic"):
        gathered(run, by="tpoic")


def test_without_text_no_text_is_read(made):
    assert gathered(made.folder, with_text=False).examples == []


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_seeds_that_differ_in_nothing_else_are_taken_together(tmp_path, seeds):
    made = MadeRun(tmp_path / "run", seeds=seeds, num_examples=300)
    worth = gathered(made.make()).worth
    assert worth.num_seeds == len(seeds)
    score = next(s for s in worth.scores if (s.label, s.metric, s.heldout_set) == ("full", "loss", "split"))
    values = [made.evaluated["full", seed, "split"][0].mean(dtype=np.float64) for seed in seeds]
    assert score.estimate.value == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("options", "num_seeds"), [({}, 2), ({"options": {"num_rounds": 7}}, 1)])
def test_a_subset_that_was_chosen_by_other_options_is_no_other_seed(tmp_path, options, num_seeds):
    made = MadeRun(tmp_path / "run", num_examples=300, targets=("s2l-0.2",))
    made.make()
    reads = {"corpus": made.corpus, "trajectories": made.matrix, "clusters": made.cluster_content}
    extra = {"files": [], "selector": "s2l", "budget": 0.2, "per_source": {}}
    settings = {"selector": "s2l", "budget": 60, "seed": 1, "stratify": False, **options}
    subset = made.stage("subset/s2l-0.2", "subset", reads, {"examples": 60}, extra, {}, settings)
    reads = {"corpus": made.corpus, "subset": subset}
    made.target("s2l-0.2", made.stage("target-tokens/s2l-0.2", "tokens", reads, {"examples": 1}, {}, {}), 1)
    run = load_run(str(made.folder))
    assert list(run.seeds_of("s2l-0.2")) == list(range(num_seeds))
    assert gathered(run).worth.num_seeds == num_seeds


def test_a_run_that_has_come_no_further_than_its_corpus_has_facts(tmp_path):
    facts = gathered(MadeRun(tmp_path / "run", only_corpus=True, num_examples=100).make())
    empty = [facts.worth, facts.budgets, facts.cost, facts.contents, facts.clusters, facts.space, facts.training]
    assert empty == [None] * 7
    assert dict(facts.set_aside.counts)["read"] == 152
    json.dumps(facts.plain(), allow_nan=False)


# --- sketches -------------------------------------------------------------------------------------------------------


def test_percentiles_of_bins_are_within_a_bin_of_the_exact_ones():
    losses = np.random.default_rng(0).lognormal(0, 1, 5000)
    counts = np.bincount(loss_bins(losses), minlength=BINS)
    exact = np.percentile(losses, [10, 50, 90])
    assert percentiles(counts, (0.1, 0.5, 0.9)) == pytest.approx(exact, rel=EDGES[1] / EDGES[0] - 1)
    assert np.isnan(percentiles(np.zeros(BINS), (0.5,))).all()


def test_ids_are_found_where_their_first_halves_are_equal():
    ids = np.array([[7, 1], [7, 2], [9, 0], [3, 3]], np.uint64)
    assert positions(ids[[1, 3, 0]], ids).tolist() == [1, 3, 0]
    assert num_common(ids[:2], ids[1:]) == 1


def test_thinned_curves_keep_their_spikes_and_ends():
    points = [(step, 1.0) for step in range(5000)]
    points[1234] = (1234, 99.0)
    few = thinned(points)
    assert len(few) <= 400
    assert (1234, 99.0) in few
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert thinned(points[:100]) == points[:100]


def test_facts_are_frozen(facts):
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.name = "other"


@pytest.mark.thorough
def test_no_ray_and_no_torch_are_imported():
    import subprocess
    import sys

    code = "import s2l_ray.reporting.gather, sys; assert not {'ray', 'torch'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_selectors_are_called_what_they_call_themselves_and_look_different():
    looks = {s.name: look_of(s.name) for s in list_selectors()}
    assert len({(look.colour, look.shape) for look in looks.values()}) == len(looks)
    assert len({look.colour for look in looks.values()}) == len({look.dark for look in looks.values()}) == len(looks)
    assert [selector_name(n) for n in ("s2l", "embedding_kmeans", "full")] == ["S2L", "embedding k-means", "full data"]
    assert selector_name("from_elsewhere") == "from elsewhere"
    assert look_of("from_elsewhere") not in looks.values()


@pytest.mark.thorough
def test_the_first_pass_keeps_nothing_of_the_parts_it_has_seen():
    """What is sampled is copied: a view would keep a part's losses, of 10⁷ rows all together a gigabyte."""
    rows, t, num_parts = 4096, 12, 60
    made = Sketch(num_clusters=5, num_snapshots=t, num_subsets=0, num_rows=num_parts * rows)
    rng = np.random.default_rng(0)
    held = []
    tracemalloc.start()
    for part in range(num_parts):
        losses = rng.gamma(2.0, 0.5, (rows, t)).astype(np.float32)
        clusters, tokens = rng.integers(0, 5, rows).astype(np.int32), rng.integers(1, 50, rows)
        ids = np.zeros((rows, 2), np.uint64)
        made.first_pass(Part(part * rows, ids, losses, tokens, clusters, np.zeros(rows, np.uint8), {}))
        del losses, clusters, tokens, ids
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] - held[9] < 50 * rows * t  # a byte a loss: the sample itself is a twelfth of the rows, in 8 bytes
