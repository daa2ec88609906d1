"""What clusters and embeddings have to do with topics: figures against plain ones, and what the page says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.cli import main
from s2l_ray.reporting import embeddings
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_meaning import Meaning, Purity
from s2l_ray.reporting.look import LETTERS, TOPICS
from s2l_ray.reporting.parts import Drawing, Section
from s2l_ray.reporting.projection import ASPECT, COLUMNS, LINES, RADIUS, WIDTH, hexagons, principal_plane, project
from s2l_ray.reporting.sections.meaning import meaning_section
from s2l_ray.reporting.svg import to_svg
from s2l_ray.reporting.write import facts_of
from s2l_ray.selection import kmeans
from s2l_ray.selection.cluster_quality import adjusted_rand
from s2l_ray.selection.kmeans import fit_kmeans
from tests.support.embedded_runs import add_embeddings, add_gradients, by_topic
from tests.support.selected_runs import SelectedRun

LAST = 81
BEFORE, AFTER = "embeddings of responses, untrained proxy", "embeddings of responses, trained proxy"


class Made(SelectedRun):
    """A run up to its subsets, to which embeddings are added."""

    def make(self) -> Made:
        from s2l_ray.config import to_yaml
        from s2l_ray.storage.folder import Storage

        self.storage, self.rng = Storage.open(str(self.folder)), np.random.default_rng(self.seed)
        self.config = self._config()
        self.storage.write_bytes("config.yaml", to_yaml(self.config).encode())
        for step in (self._rows, self._corpus, self._tokens_and_proxy, self._trajectories, self._clusters,
                     self._subsets):  # fmt: skip
            step()
        return self


def meaning_of(made: SelectedRun) -> Meaning:
    found = facts_of(load_run(str(made.folder))).meaning
    assert found is not None
    return found


def of(meaning: Meaning, clusters_of: str, column: str = "topic") -> Purity:
    [found] = [p for p in meaning.purity if (p.clusters_of, p.column) == (clusters_of, column)]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run = Made(tmp_path_factory.mktemp("meaning") / "run", num_examples=900).make()
    add_gradients(run, {"start": by_topic(run, 0.0), "last": by_topic(run, 4.0)}, 600)
    return run


@pytest.fixture(scope="module")
def facts(made: Made) -> Facts:
    return facts_of(load_run(str(made.folder)))


@pytest.fixture(scope="module")
def section(facts: Facts) -> Section:
    found = meaning_section(facts, Drawing(facts, to_svg))
    assert found is not None
    return found


def test_embeddings_are_as_pure_as_they_were_made(made: Made, facts: Facts) -> None:
    assert facts.meaning is not None
    assert {(p.clusters_of, p.column) for p in facts.meaning.purity} == {
        (kind, column) for kind in ("trajectories", BEFORE, AFTER) for column in ("source", "topic")
    }
    after, before = of(facts.meaning, AFTER), of(facts.meaning, BEFORE)
    assert after.num_examples == before.num_examples == 600
    assert after.mean > 0.99
    assert after.excess == pytest.approx((after.mean - after.random_mean) / (1 - after.random_mean))
    assert abs(before.mean - before.random_mean) < 0.06
    assert of(facts.meaning, AFTER, "source").mean < 0.5, "topics alone tell them apart"
    assert len(after.values) == made.num_clusters


def test_embeddings_of_a_pass_are_clustered_as_their_selector_would(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", num_examples=600).make()
    vectors = by_topic(run, 0.6)
    add_embeddings(run, vectors, LAST, "prompt_embedding")
    meaning = meaning_of(run)
    [name] = {p.clusters_of for p in meaning.purity} - {"trajectories"}
    assert name == "embeddings of prompts, trained proxy"
    unit = vectors.astype(np.float16).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    clusters = [fit_kmeans(unit, num_clusters=run.num_clusters, seed=seed).assignment for seed in (0, 1)]
    commonest = [np.bincount(run.topic_codes[clusters[0] == k]).max() for k in range(run.num_clusters)]
    assert of(meaning, name).mean == pytest.approx(sum(commonest) / 600)
    [quality] = [q for q in meaning.quality if q.clusters_of == name]
    assert quality.adjusted_rand == pytest.approx(adjusted_rand(*clusters))
    assert (quality.smallest, quality.largest) == (np.bincount(clusters[0]).min(), np.bincount(clusters[0]).max())


def test_stability_of_trajectories_is_that_of_another_seed(made: Made, facts: Facts) -> None:
    assert facts.meaning is not None
    quality = facts.meaning.quality[0]
    other = fit_kmeans(made.losses, num_clusters=made.num_clusters, seed=1)
    assert quality.adjusted_rand == pytest.approx(adjusted_rand(made.clusters, other.assignment))
    assert quality.num_examples == quality.num_compared == made.num_examples


def test_a_sample_is_read_where_there_are_more(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embeddings, "SAMPLE", 300)
    run = Made(tmp_path / "run", num_examples=900).make()
    add_embeddings(run, by_topic(run, 4.0), LAST)
    [sample] = embeddings.embedding_samples(load_run(str(run.folder)))
    assert np.array_equal(sample.ids, run.ids[:300])
    assert [len(s.ids) for s in embeddings.embedding_samples(load_run(str(made.folder)))] == [300, 300]


def test_the_uniform_sample_of_a_gradient_check_is_taken(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", num_examples=900, num_clusters=40).make()
    uniform = add_gradients(run, {"last": by_topic(run, 1.0)}, 200)
    [sample] = embeddings.embedding_samples(load_run(str(run.folder)))
    assert {tuple(one) for one in sample.ids.tolist()} == {tuple(one) for one in run.ids[uniform].tolist()}


def test_embeddings_of_both_models_stand_side_by_side(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", num_examples=300).make()
    for step in (0, LAST):
        add_embeddings(run, by_topic(run, step / LAST), step)
    add_embeddings(run, by_topic(run, 1.0), 41, "prompt_embedding")
    add_embeddings(run, by_topic(run, 1.0), 90, model="target")
    names = [p.embeddings_of for p in meaning_of(run).projections]
    assert names == [BEFORE, AFTER, "embeddings of responses, trained target"]


@pytest.mark.thorough
def test_the_page_says_what_is_above_chance(facts: Facts, section: Section) -> None:
    assert facts.meaning is not None
    purity, quality, projections = section.figures
    assert purity.panels == [
        f"by {column}: {kind}" for column in ("source", "topic") for kind in ("trajectories", BEFORE, AFTER)
    ]
    assert "no more than expected by chance" in purity.caption
    after = of(facts.meaning, AFTER)
    assert f"{AFTER} {after.excess:.2f}" in purity.caption
    assert purity.table is not None
    assert [AFTER in row[1] and row[-1] == f"{after.excess:.2f}" for row in purity.table.rows].count(True) == 1
    assert quality.table is not None
    assert [row[0] for row in quality.table.rows] == ["trajectories", BEFORE, AFTER]
    assert projections.panels == [BEFORE, AFTER]
    assert projections.title == "Embeddings by topic"
    assert [text for _, _, text in projections.legend] == facts.meaning.projections[0].values
    assert "s2l gradients" not in section.how


def test_hexagons_have_letter_colour_and_number(facts: Facts, section: Section) -> None:
    assert facts.meaning is not None
    for of_model, svg in zip(facts.meaning.projections, section.figures[2].svgs, strict=True):
        assert sum(cell.count for cell in of_model.cells) == of_model.num_examples == 600
        assert len(re.findall("data-tip=", svg)) == len(of_model.cells)
        letters = re.findall(r">([A-H])</text>", svg)
        assert len(letters) == len(of_model.cells)
        assert set(letters) <= set(LETTERS[: len(of_model.values)])
    before, after = facts.meaning.projections
    assert after.own_share > 0.9
    assert after.own_share - after.random_share > 4 * (before.own_share - before.random_share)
    assert sum(after.explained) > sum(before.explained)


def test_a_run_without_embeddings_says_what_would_add_them(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", num_examples=200, num_clusters=3).make()
    facts = facts_of(load_run(str(run.folder)))
    found = meaning_section(facts, Drawing(facts, to_svg))
    assert found is not None
    assert "s2l gradients RUN" in found.how
    assert [figure.title for figure in found.figures] == ["Purity", "Are clusters stable?"]


@pytest.mark.thorough
def test_without_faiss_the_rest_is_there_and_the_page_says_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise kmeans.FaissMissing("clustering needs faiss")

    monkeypatch.setattr(kmeans, "import_faiss", missing)
    facts = facts_of(load_run(str(made.folder)))
    assert facts.meaning is not None
    assert {p.clusters_of for p in facts.meaning.purity} == {"trajectories"}
    assert len(facts.meaning.projections) == 2
    found = meaning_section(facts, Drawing(facts, to_svg))
    assert found is not None
    assert "were left out: clustering needs faiss" in found.how


def test_inspect_tells_programs_the_same(made: Made, facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(made.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    plain = facts.plain()["meaning"]
    assert told["purity"] == plain["purity"]
    assert told["quality"] == plain["quality"]


# --- the plane ------------------------------------------------------------------------------------------------------


def test_the_plane_is_that_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((500, 40)) * np.r_[6.0, 4.0, np.linspace(2.0, 0.5, 38)] + 3
    found = principal_plane(vectors.astype(np.float32))
    assert found is not None
    points, explained = found
    _, spread, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert explained == pytest.approx((spread**2 / (spread**2).sum())[:2], rel=1e-5)
    exact = (vectors - vectors.mean(axis=0)) @ axes[:2].T
    for k in (0, 1):
        sign = np.sign(axes[k][np.abs(axes[k]).argmax()])
        assert points[:, k] == pytest.approx(sign * exact[:, k], abs=1e-3)


@pytest.mark.parametrize("vectors", [np.zeros((9, 4)), np.ones((9, 1)), np.outer(np.arange(9), np.ones(4))])
def test_points_on_a_line_have_no_plane(vectors: np.ndarray) -> None:
    assert principal_plane(vectors) is None
    assert project("x", vectors, "topic", np.zeros(9, int), ["a"]) is None


def test_every_place_is_in_its_nearest_hexagon_and_those_in_the_picture() -> None:
    places = np.random.default_rng(0).random((2000, 2))
    places[:4] = [[0, 0], [0, 1], [1, 0], [1, 1]]
    x, y, cell_of = hexagons(places)
    assert (x >= WIDTH / 2 - 1e-9).all()
    assert (x <= 1 - WIDTH / 2 + 1e-9).all()
    assert (y * ASPECT >= RADIUS - 1e-9).all()
    assert (y * ASPECT <= ASPECT - RADIUS + 1e-9).all()
    scaled = np.stack([WIDTH / 2 + places[:, 0] * (1 - WIDTH), places[:, 1] * (ASPECT - 2 * RADIUS) + RADIUS], axis=1)
    centres = np.stack([x, y * ASPECT], axis=1)
    away = np.linalg.norm(scaled - centres[cell_of], axis=1)
    assert away.max() <= RADIUS + 1e-9
    assert len(x) <= COLUMNS * LINES


def test_rare_values_share_a_mark() -> None:
    rng = np.random.default_rng(0)
    values = [f"v{i}" for i in range(12)]
    codes = np.repeat(np.arange(12), np.arange(24, 0, -2))
    vectors = np.eye(12)[codes] * 3 + rng.standard_normal((len(codes), 12)) * 0.1
    found = project("x", vectors, "topic", codes, values)
    assert found is not None
    assert found.values == values[: len(TOPICS)]
    assert {cell.commonest for cell in found.cells if cell.name not in found.values} == {-1}
