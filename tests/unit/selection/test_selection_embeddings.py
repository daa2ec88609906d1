"""Selectors on embeddings besides facility location: k-means on them, and RDS+."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.errors import UserError
from s2l_ray.selection import ArrayEmbeddings, SelectionInputs, order_examples
from tests.support.selection_data import ascending_ids, embedded, options_of, order_of, random_ids, subset_of, synthetic


def test_embedding_kmeans_by_hand() -> None:
    angle = np.array([0, 11, 18, 90, 84, 96]) * np.pi / 180
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for inputs in (embedded(vectors), embedded(vectors * np.array([[1], [7], [1], [1], [7], [49]]))):
        pair = subset_of("embedding_kmeans", inputs, 2, num_clusters=2)
        assert len(set(pair) & set("abc")) == 1
        assert len(set(pair) & set("def")) == 1
        assert subset_of("embedding_kmeans", inputs, 6, num_clusters=2) == "abcdef"
        ordering = order_examples("embedding_kmeans", inputs, 0, options_of("embedding_kmeans", num_clusters=2))
        assert len(set(ordering.groups[:3])) == len(set(ordering.groups[3:])) == 1
        assert ordering.notes["num_clusters"] == 2
    few = order_examples("embedding_kmeans", embedded(vectors), 0)
    assert few.warnings[0].startswith("K was lowered from 100 to 6")


def test_a_wrong_answer_cannot_move_its_prompt() -> None:
    """Pairs with the same prompt and other answers are in the same clusters by the prompt's embedding."""
    inputs = synthetic(80)
    prompts = np.repeat(np.random.default_rng(0).standard_normal((40, 6)), 2, axis=0).astype(np.float32)
    inputs = replace(inputs, embeddings=dict(inputs.embeddings) | {"prompt_embedding@late": ArrayEmbeddings(prompts)})
    options = options_of("embedding_kmeans", embedding="prompt", num_clusters=9)
    found = order_examples("embedding_kmeans", inputs, 0, options).groups
    assert np.array_equal(found[0::2], found[1::2])
    other = order_examples("embedding_kmeans", inputs, 0, options_of("embedding_kmeans", num_clusters=9)).groups
    assert not np.array_equal(other[0::2], other[1::2])


def queried(similarities: list[list[float]]) -> SelectionInputs:
    """Examples whose cosines to orthogonal queries are given; one more dimension makes up the length."""
    table = np.array(similarities).T  # (N, Q)
    rest = np.diag(np.sqrt(1 - (table**2).sum(axis=1)))
    vectors = np.concatenate([table, rest], axis=1)
    queries = np.eye(table.shape[1], vectors.shape[1])
    reader = ArrayEmbeddings(vectors)
    return SelectionInputs(
        ascending_ids(len(table)), embeddings={"position_weighted_embedding@late": reader}, query_embeddings=queries
    )


def test_rds_plus_takes_turns() -> None:
    half = [[0.45, 0.4, 0.05], [0.35, 0.425, 0.1]]  # the design's .9 .8 .1 and .7 .85 .2, halved: cosines of one vector
    assert order_of("rds_plus", queried(half)) == "abc"
    assert subset_of("rds_plus", queried(half), 1) == "a"
    assert order_of("rds_plus", queried([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])) == "abc"
    assert order_of("rds_plus", queried([[0.1, 0.2, 0.9, 0.8], [0.1, 0.2, 0.3, 0.25]])) == "cdba"


def test_rds_plus_is_the_definition_when_queries_agree() -> None:
    """All queries alike: each wants the same rows, so their lists must be made longer."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 8))
    query = rng.standard_normal(8)
    inputs = SelectionInputs(
        random_ids(400),
        embeddings={"position_weighted_embedding@late": ArrayEmbeddings(vectors)},
        query_embeddings=np.repeat(query[None], 30, axis=0),
    )
    ordering = order_examples("rds_plus", inputs, 0, None, 350)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1)
    by_cosine = np.argsort(-cosine)
    for budget in (1, 30, 31, 200, 350):
        chosen_rows = ordering.take(budget).rows
        assert cosine[chosen_rows].min() >= cosine[by_cosine[budget - 1]] - 1e-3  # the grid's rounding
    with pytest.raises(UserError, match=r"query embeddings must be \(Q, 8\) with at least one query, not \(1, 3\)"):
        order_examples("rds_plus", replace(inputs, query_embeddings=np.ones((1, 3))), 0)
