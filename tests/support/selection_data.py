"""Inputs for tests of selectors: named examples with ascending ids, and the same in other orders of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from s2l_ray.selection import ArrayEmbeddings, Facet, SelectionInputs, SelectorOptions, order_examples, resolve_options

Array = np.ndarray[Any, np.dtype[Any]]


def ascending_ids(num: int) -> Array:
    """(N, 2) uint64; a < b < c …, and halves that both matter."""
    ids = np.zeros((num, 2), dtype=np.uint64)
    ids[:, 0] = np.arange(num) // 2
    ids[:, 1] = np.arange(num) % 2 + 5
    return ids


def random_ids(num: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2**64, size=(num, 2), dtype=np.uint64)


def synthetic(num: int, num_clusters: int = 8, num_sources: int = 3, seed: int = 0, dim: int = 6) -> SelectionInputs:
    """Everything that any selector reads, with ties; sources are not in alphabetical order."""
    rng = np.random.default_rng(seed)
    losses = np.round(rng.gamma(2.0, 1.0, (num, 4)), 1).astype(np.float32) + np.float32(0.1)
    clusters = np.minimum(rng.geometric(0.3, num) - 1, num_clusters - 1).astype(np.int32)
    sources = np.minimum(rng.geometric(0.5, num) - 1, num_sources - 1).astype(np.int32)
    probability = np.round(rng.random((num, 4)), 1).astype(np.float32)
    accuracy = np.minimum(np.round(1.5 * rng.random((num, 4)), 1), 1).astype(np.float32)
    vectors = rng.standard_normal((num, dim)).astype(np.float32)
    signals = {
        "mean_probability@late": probability[:, -1],
        "min_probability@late": probability[:, 0],
        "mean_probability@all": probability,
        "token_accuracy@all": accuracy,
        "loss_unconditional@late": np.round(rng.gamma(2.0, 1.3, num), 1).astype(np.float32),
    }
    kinds = ("embedding", "prompt_embedding", "position_weighted_embedding")
    return SelectionInputs(
        random_ids(num, seed),
        clusters,
        sources,
        [f"source-{chr(ord('a') + (7 * i) % 26)}" for i in range(num_sources)],
        facets={"skill": Facet((clusters + sources) % 4, ["add", "sort", "copy", "count"])},
        losses=losses,
        snapshot_steps=[0, 10, 50, 100],
        signals=signals,
        embeddings={f"{kind}@late": ArrayEmbeddings(vectors) for kind in kinds},
        query_embeddings=rng.standard_normal((3, dim)).astype(np.float32),
    )


def embedded(vectors: Any) -> SelectionInputs:
    """Examples a, b, c … with these embeddings (N, d), of response and prompt."""
    array = np.asarray(vectors, dtype=np.float32)
    kinds = ("embedding@late", "prompt_embedding@late")
    return SelectionInputs(ascending_ids(len(array)), embeddings={kind: ArrayEmbeddings(array) for kind in kinds})


def rearranged(inputs: SelectionInputs, order: Array) -> SelectionInputs:
    """The same examples in another order of rows, and sources numbered the other way round."""

    def rows(column: Array | None) -> Array | None:
        return None if column is None else column[order]

    sources = None if inputs.sources is None else (len(inputs.source_names) - 1 - inputs.sources[order])
    return replace(
        inputs,
        example_ids=inputs.example_ids[order],
        clusters=rows(inputs.clusters),
        sources=sources,
        source_names=inputs.source_names[::-1],
        facets={name: Facet(facet.codes[order], facet.names) for name, facet in inputs.facets.items()},
        losses=rows(inputs.losses),
        signals={name: column[order] for name, column in inputs.signals.items()},
        embeddings={
            name: ArrayEmbeddings(reader.read(0, len(order))[order]) for name, reader in inputs.embeddings.items()
        },
        eligible=rows(inputs.eligible),
    )


def arrangements(inputs: SelectionInputs) -> Iterator[SelectionInputs]:
    """As given, reversed, shuffled, and dealt to three partitions of unequal size that come back in another order."""
    num = inputs.num_examples
    yield inputs
    yield rearranged(inputs, np.arange(num)[::-1])
    yield rearranged(inputs, np.random.default_rng(1).permutation(num))
    partition = np.arange(num) ** 2 % 5 % 3
    yield rearranged(inputs, np.concatenate([np.flatnonzero(partition == one) for one in (2, 0, 1)]))


def chosen(inputs: SelectionInputs, rows: Array) -> list[tuple[int, int]]:
    """The ids of the rows, ascending."""
    return sorted((int(high), int(low)) for high, low in inputs.example_ids[rows])


def order_of(name: str, inputs: SelectionInputs, seed: int = 0, **options: Any) -> str:
    """All examples as letters, in the order in which growing budgets take them; the same for every arrangement."""
    answers = set()
    for arranged in arrangements(inputs):
        ordering = order_examples(name, arranged, seed, resolve_options(name, options))
        answer, before = "", set[tuple[int, int]]()
        for budget in range(1, inputs.num_examples + 1):
            now = set(chosen(arranged, ordering.take(budget).rows))
            assert len(now) == budget
            assert before < now
            (added,) = now - before
            answer += letter(inputs, added)
            before = now
        answers.add(answer)
    assert len(answers) == 1, answers
    return answers.pop()


def subset_of(name: str, inputs: SelectionInputs, budget: int, seed: int = 0, **options: Any) -> str:
    """The chosen examples as ascending letters; the same for every arrangement."""
    answers = set()
    for arranged in arrangements(inputs):
        rows = order_examples(name, arranged, seed, resolve_options(name, options)).take(budget).rows
        answers.add("".join(sorted(letter(inputs, one) for one in chosen(arranged, rows))))
    assert len(answers) == 1, answers
    return answers.pop()


def letter(inputs: SelectionInputs, example: tuple[int, int]) -> str:
    row = np.flatnonzero((inputs.example_ids == np.array(example, dtype=np.uint64)).all(axis=1))
    return "abcdefghijklmnop"[int(row[0])]


def options_of(name: str, **options: Any) -> SelectorOptions:
    return resolve_options(name, options)
