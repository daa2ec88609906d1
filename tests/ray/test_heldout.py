"""Held-out sets: which examples they are, what may not be in them, and the figures made of their losses."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import ConfigError, CorpusConfig, TargetConfig, load_config
from s2l_ray.data.corpus_parts import HoldOut, part_name
from s2l_ray.data.example_id import array_to_ids, content_id, ids_to_array
from s2l_ray.data.render import Renderer, renderer_of
from s2l_ray.data.sources import plan_files
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.data.units import SourceError
from s2l_ray.data.user_files import UserRows, read_split
from s2l_ray.evaluation.metrics import scored_examples, summarise
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.corpus.build import CorpusParts, build_corpus
from s2l_ray.stages.heldout.build import (
    FindInCorpus,
    HeldOutError,
    drop_trained_on,
    read_files,
    tokenise,
)
from s2l_ray.stages.heldout.stage import heldout_inputs
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import SHAPES, write_jsonl
from s2l_ray.workflow.preflight import preflight
from tests.support.colours import colour_rows
from tests.support.tiers import rest_thorough

ROWS = colour_rows(300, seed=0)


def messages_of(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]


def ids_of(rows: list[dict[str, Any]]) -> set[bytes]:
    return {content_id(messages_of(r)) for r in rows}


# --- which examples --------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.floats(0, 1, exclude_max=True), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_an_example_is_held_out_by_its_id_and_the_seed_alone(order, share, seed):
    ids = np.random.default_rng(0).integers(0, 2**63, (200, 2)).astype(np.uint64)
    chosen = HoldOut(share, seed).chosen(ids)
    shuffled = np.random.default_rng(order).permutation(len(ids))
    np.testing.assert_array_equal(HoldOut(share, seed).chosen(ids[shuffled]), chosen[shuffled])
    np.testing.assert_array_equal(HoldOut(share, seed).chosen(ids[:7]), chosen[:7])
    larger = max(share, min(share + 0.1, 0.999))
    assert not (chosen & ~HoldOut(larger, seed).chosen(ids)).any(), "a larger share holds out more"


def test_the_share_is_kept_and_seeds_differ():
    ids = np.random.default_rng(1).integers(0, 2**63, (100_000, 2)).astype(np.uint64)
    first, second = HoldOut(0.1, 0).chosen(ids), HoldOut(0.1, 1).chosen(ids)
    assert abs(first.mean() - 0.1) < 0.005
    assert abs((first & second).mean() - 0.01) < 0.002
    assert not HoldOut().chosen(ids).any()


def build(folder: Path, *files: list[dict[str, Any]], **options: Any) -> tuple[CorpusParts, Storage]:
    share, rows_per_part = options.pop("share", 0.2), options.pop("rows_per_part", None)
    for number, rows in enumerate(files):
        write_jsonl(folder / "files" / f"{number}.jsonl", rows)
    config = CorpusConfig(paths=[str(folder / "files")], **options)
    out = Storage.open(folder / "run")
    return build_corpus(plan_files(config.paths, 4096), config, out, rows_per_part, 4, HoldOut(share, 7)), out


def stored(out: Storage, folder: str) -> list[dict[str, Any]]:
    return [r for e in out.sub(folder).list() for r in out.sub(folder).read_table(e.name).to_pylist()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("duplicates", rest_thorough(["drop", "keep"]))
def test_the_split_depends_on_content_and_seed_alone_and_no_duplicate_of_it_is_trained_on(tmp_path, duplicates):
    """Other files, another order, more parts, more duplicates: the same examples."""
    shuffled = random.Random(3).sample(ROWS, len(ROWS)) + random.Random(4).sample(ROWS, 60)
    one, one_out = build(tmp_path / "one", ROWS, duplicates=duplicates)
    two, two_out = build(tmp_path / "two", shuffled[:100], shuffled[100:], duplicates=duplicates, rows_per_part=16)
    assert len(two.parts) > 2 * len(one.parts)
    held, other = read_split(one_out, one.heldout["parts"]), read_split(two_out, two.heldout["parts"])
    held_ids, trained_ids = (
        ids_of_messages(held.messages),
        ids_of_messages(m["messages"] for m in stored(two_out, "examples")),
    )
    assert held_ids == ids_of_messages(other.messages)
    assert 0.1 * len(ids_of(ROWS)) < len(held_ids) < 0.3 * len(ids_of(ROWS))
    assert held_ids | trained_ids == ids_of(ROWS)
    assert not held_ids & trained_ids
    assert two.heldout["rows"] == len(stored(two_out, "heldout"))
    assert two.num_examples == len(stored(two_out, "examples"))
    if duplicates == "drop":
        np.testing.assert_array_equal(held.ids, other.ids)


def ids_of_messages(messages: Any) -> set[bytes]:
    return {content_id(m) for m in messages}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("share", "message"),
    [(0.999, r"heldout\.share=0\.999 leaves none"), (0.0001, r"holds out none of the \d+ examples; raise")],
)
def test_shares_that_leave_nothing_on_one_side_are_refused(tmp_path, share, message):
    with pytest.raises(SourceError, match=message):
        build(tmp_path, ROWS[:20], share=share)


# --- files -----------------------------------------------------------------------------------------------------------


CONFIG = CorpusConfig(paths=["unused"])
MODEL = {"from_config": SHAPES["llama"] | {"max_position_embeddings": 512}, "train_tokenizer": {"vocab_size": 300}}
TREE = {"corpus": {"paths": ["unused"]}, "proxy": MODEL, "target": MODEL}


def units(path: Path) -> Any:
    return plan_files([str(path)], 2**40, "heldout.files.test")


def test_files_give_each_content_once_sorted_by_id(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS[:40], *ROWS[:10], {"instruction": "no answer", "output": ""}])
    rows, format, unusable = read_files("test", units(path), CONFIG)
    assert (format, unusable) == ("instruction", 1)
    assert len(rows) == len(ids_of(ROWS[:40]))
    ids = array_to_ids(rows.ids).to_pylist()
    assert ids == sorted(ids)
    assert ids == [content_id(m) for m in rows.messages]
    by_id = {content_id(messages_of(r)): r["source"] for r in ROWS[:40]}
    assert rows.sources == [by_id[i] for i in ids]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"heldout\.files\.test: all files under .* are empty"),
        ("\n\n", r"heldout\.files\.test cannot be used: .*have no row"),
        ("not json\n", r"heldout\.files\.test cannot be used: .*none of its first 1 rows can be read"),
        ('{"text": "only"}\n', r"heldout\.files\.test cannot be used: .*format"),
        ('{"instruction": "a", "output": ""}\n', r"heldout\.files\.test cannot be used: none of the first 1 rows"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_anything_starts(tmp_path, content, message):
    (tmp_path / "test.jsonl").write_text(content)
    tree = {**TREE, "heldout": {"files": {"test": [str(tmp_path / "test.jsonl")]}}}
    with pytest.raises((HeldOutError, SourceError), match=message):
        preflight(load_config(tree))


def test_a_missing_file_is_named_with_its_setting(tmp_path):
    tree = {**TREE, "heldout": {"files": {"mine": [str(tmp_path / "none.jsonl")]}}}
    with pytest.raises(SourceError, match=r"heldout\.files\.mine: nothing matches .*none\.jsonl"):
        preflight(load_config(tree))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"split": ["a.jsonl"]}, "'split' cannot name a held-out set"),
        ({"a/b": ["a.jsonl"]}, "'a/b' cannot name a held-out set"),
        ({"a": []}, r"heldout\.files\.a names no file"),
    ],
)
def test_names_that_cannot_be_are_refused(files, message):
    with pytest.raises(ConfigError, match=message):
        load_config({**TREE, "heldout": {"files": files}})


def test_the_quickstarts_own_set_is_not_replaced_in_silence():
    with pytest.raises(ConfigError, match=r"heldout\.files\.balanced has the name of the quickstart's own"):
        load_config("quickstart", ["heldout.files.balanced=[a.jsonl]"])
    load_config("quickstart", ["heldout.files.mine=[a.jsonl]"])


@given(
    st.lists(st.sampled_from(["corpus", "split", "tokenizer", "files", "test", "a-b_C", "files-corpus"]), unique=True)
)
def test_a_set_of_any_name_is_an_input_of_its_own(names):
    fixed = {"corpus": "c", "split": "s", "tokenizer": "t"}
    inputs = heldout_inputs(fixed, {name: f"content of {name}" for name in names})
    assert fixed.items() <= inputs.items()
    assert sorted(inputs.values()) == sorted([*fixed.values(), *(f"content of {name}" for name in names)])
    for name in set(names) - set(fixed):
        assert inputs[name] == f"content of {name}", "the keys of earlier runs stay"


def rows_of(rows: list[dict[str, Any]]) -> UserRows:
    ids = ids_to_array(pa.array([content_id(messages_of(r)) for r in rows], pa.binary(16)))
    return UserRows(ids, [r["source"] for r in rows], [messages_of(r) for r in rows])


def corpus_parts(folder: Path, rows: list[dict[str, Any]], num_parts: int) -> Storage:
    """`examples/` of a corpus, as far as it is looked at."""
    storage = Storage.open(folder)
    for part in range(num_parts):
        storage.write_table(part_name(part), pa.table({"example_id": array_to_ids(rows_of(rows[part::num_parts]).ids)}))
    return storage


def test_examples_of_the_corpus_are_found_in_whatever_part(tmp_path):
    examples, mine = corpus_parts(tmp_path, ROWS, 3), colour_rows(30, seed=9)
    rows = rows_of([mine[0], ROWS[5], mine[1], ROWS[6], ROWS[7]])
    found = [FindInCorpus(examples, rows.ids)(part) for part in range(3)]
    assert sorted(i for f in found for i in f["found"]) == [1, 3, 4]
    assert sum(f["rows"] for f in found) == len(ROWS)
    rest = rows.without(np.array([False, True, False, True, True]))
    assert rest.messages == [messages_of(mine[0]), messages_of(mine[1])]
    assert (len(rest), len(rest.ids), rest.sources) == (2, 2, [mine[0]["source"], mine[1]["source"]])


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_in_the_corpus_is_left_out_and_nothing_else_left_is_refused(tmp_path):
    examples, mine = corpus_parts(tmp_path, ROWS, 3), colour_rows(5, seed=9)
    seen: list[int] = []
    rest, count = drop_trained_on("test", rows_of([*mine, *ROWS[:3]]), examples, [0, 1, 2], 2, seen.append)
    assert (len(rest), count, sum(seen)) == (5, 3, len(ROWS))
    assert rest.messages == [messages_of(r) for r in mine]
    with pytest.raises(HeldOutError, match=r"heldout\.files\.test: all 3 examples are in the corpus too"):
        drop_trained_on("test", rows_of(ROWS[:3]), examples, [0, 1, 2], 2, seen.append)


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer((r["instruction"] for r in ROWS), 280)


def test_tokens_are_the_trainings(tokenizer):
    render = Renderer(tokenizer, "plain", 32)
    table, too_long = tokenise("test", rows_of(ROWS[:9]), render)
    assert table.schema == TOKEN_SCHEMA
    assert too_long == 0
    for row, tokens in zip(ROWS, table.to_pylist(), strict=False):
        prompt = tokenizer(row["instruction"] + "\n")["input_ids"]
        response = tokenizer(row["output"])["input_ids"] + [tokenizer.eos_token_id]
        assert tokens["input_ids"] == prompt + response
        assert tokens["response_mask"] == [False] * len(prompt) + [True] * len(response)
        assert (tokens["example_id"], tokens["source"]) == (content_id(messages_of(row)), row["source"])


def test_examples_without_a_response_token_are_left_out_and_none_left_is_refused(tokenizer):
    long = {"instruction": "9 " * 40, "output": "blue", "source": "easy"}
    table, too_long = tokenise("test", rows_of([long, *ROWS[:3]]), Renderer(tokenizer, "plain", 32))
    assert (table.num_rows, too_long) == (3, 1)
    message = (
        r"'test': none of its 1 examples can be used \(no response token left within max_length=32.*raise max_length"
    )
    with pytest.raises(HeldOutError, match=message):
        tokenise("test", rows_of([long]), Renderer(tokenizer, "plain", 32))


def test_a_set_of_another_format_than_the_corpus_is_rendered_by_its_own(tokenizer, tmp_path):
    turns = [("system", "You calculate."), ("user", "Add 70 and 1."), ("assistant", "71")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    rows, format, _ = read_files("test", units(write_jsonl(tmp_path / "chats.jsonl", [chat])), CONFIG)
    target = TargetConfig(model="any", max_length=128, tokens_per_microbatch=128)
    table, _ = tokenise("test", rows, renderer_of(target, format, tokenizer))
    [row] = table.to_pylist()
    masked = [t for t, m in zip(row["input_ids"], row["response_mask"], strict=True) if m]
    assert tokenizer.decode(masked) == "71" + tokenizer.eos_token
    # The corpus's style has no place for it, and says so.
    alpaca = Renderer(tokenizer, "alpaca", 128)
    with pytest.raises(HeldOutError, match="one prompt and one response, but this chat has the turns system, user, as"):
        tokenise("test", rows, alpaca)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_a_golden_case():
    losses, counts = np.array([1.0, 2.0, 3.0, 10.0], np.float32), np.array([1, 1, 2, 4])
    exact, sources = np.array([True, False, True, True]), np.array(["b", "b", "b", "a"])
    result = summarise(scored_examples(losses, counts, exact, sources))
    assert (result.num_examples, result["micro"], result["macro"]) == (4, 4.0, (2.0 + 10.0) / 2)
    assert result["per_token"] == (1 + 2 + 6 + 40) / 8
    assert result["exact_match"] == 0.75
    assert result.per_source == {
        "a": {"num_examples": 1, "loss": 10.0, "exact_match": 1.0},
        "b": {"num_examples": 3, "loss": 2.0, "exact_match": pytest.approx(2 / 3)},
    }
    assert list(result.per_source) == ["a", "b"]


@given(
    st.lists(
        st.tuples(st.floats(0, 20, width=32), st.integers(1, 50), st.booleans(), st.sampled_from("abc")), min_size=1
    )
)
def test_macro_is_the_mean_of_the_sources_and_micro_of_the_examples(rows):
    losses, counts, exact, sources = (np.array(c) for c in zip(*rows, strict=True))
    result = summarise(scored_examples(losses, counts, exact, sources))
    means = [np.mean([r[0] for r in rows if r[3] == s]) for s in sorted(set(sources))]
    assert result["macro"] == pytest.approx(float(np.mean(means)), abs=1e-9)
    assert result["micro"] == pytest.approx(float(np.mean([r[0] for r in rows])), abs=1e-9)
    weighted = sum(p["num_examples"] * p["loss"] for p in result.per_source.values()) / len(rows)
    assert weighted == pytest.approx(result["micro"], abs=1e-9)
