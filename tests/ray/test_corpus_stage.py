"""The corpus and tokens stages on a real Ray cluster: the same rows give the same parts, whatever the files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.generated_corpus import recorded_unit
from s2l_ray.artifacts.huggingface import export_parquet
from s2l_ray.config import CorpusConfig, HuggingFaceSource
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import content_id, occurrence_id
from s2l_ray.data.formats import UnknownFormat
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.sources import plan_files
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.units import SourceError
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.corpus.build import CorpusParts, build_corpus
from s2l_ray.stages.tokens.build import TokenParts, build_tokens, train_corpus_tokenizer
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import write_jsonl

pytestmark = pytest.mark.usefixtures("ray_cluster")


def make_rows(num: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{i} + {i} =", "completion": f" {2 * i}", "source": f"s{i % 3}", "level": i % 5,
         "tags": [str(i), "é"]}
        for i in range(num)
    ]  # fmt: skip


ROWS = make_rows(200)


def corpus(out: Path, *paths: Any, bytes_per_task: int = 4096, **options: Any) -> tuple[CorpusParts, Storage]:
    config = CorpusConfig(paths=[str(p) for p in paths], **options)
    storage = Storage.open(out)
    return build_corpus(plan_files(config.paths, bytes_per_task), config, storage, None, 4), storage


def examples(storage: Storage, parts: CorpusParts) -> list[dict[str, Any]]:
    rows = []
    for part in parts.parts:
        table = storage.sub("examples").read_table(part_name(part["part"]))
        assert table.num_rows == part["rows"]
        rows += table.to_pylist()
    return rows


def quarantined(storage: Storage) -> list[dict[str, Any]]:
    folder = storage.sub("quarantine")
    return [row for entry in folder.list() for row in folder.read_table(entry.name).to_pylist()]


@pytest.fixture(scope="module")
def plain(ray_cluster, tmp_path_factory) -> tuple[CorpusParts, Storage]:
    """200 rows in one JSONL file."""
    folder = tmp_path_factory.mktemp("plain")
    return corpus(folder / "run", write_jsonl(folder / "all.jsonl", ROWS))


# --- the same rows, the same parts ----------------------------------------------------------------------------------


def test_one_file(plain):
    parts, storage = plain
    assert (parts.num_examples, parts.num_duplicates, parts.num_quarantined) == (200, 0, 0)
    assert parts.format == "prompt_completion"
    found = examples(storage, parts)
    assert sorted((json.loads(e["row"]) for e in found), key=lambda r: int(r["tags"][0])) == ROWS
    for e in found:
        row = json.loads(e["row"])
        assert e["messages"] == [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        assert e["example_id"] == content_id(e["messages"])
        assert e["source"] == row["source"]
    ids = [e["example_id"] for e in found]
    assert ids == sorted(ids)  # parts are ranges of the hash, rows within are in its order
    assert len(set(ids)) == 200


def test_three_files_in_another_order_and_one_row_more_a_slice(plain, tmp_path):
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    for name, start in (("z", 0), ("m", 50), ("a", 120)):
        write_jsonl(tmp_path / f"{name}.jsonl", shuffled[start : {0: 50, 50: 120, 120: 200}[start]])
    parts, _ = corpus(tmp_path / "run", tmp_path / "m.jsonl", tmp_path / "z.jsonl", tmp_path / "a.jsonl")
    assert parts == plain[0]


def test_parquet_of_the_same_rows(plain, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[::-1]), tmp_path / "all.parquet")
    assert corpus(tmp_path / "run", tmp_path / "all.parquet")[0] == plain[0]


def test_a_hugging_face_data_set_on_disk(plain, tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
    source = HuggingFaceSource(name=str(tmp_path / "set"))
    export = export_parquet(source, Storage.open(tmp_path / "run"), print)
    assert [f.name for f in export.files] == ["train-00000-of-00001.parquet"]
    written = export.folder.list()
    assert export_parquet(source, Storage.open(tmp_path / "run"), print) == export
    assert export.folder.list() == written  # not written twice
    units = [recorded_unit(export.folder, file, "parquet") for file in export.files]
    config = CorpusConfig(huggingface=source)
    assert build_corpus(units, config, Storage.open(tmp_path / "out"), None, 4) == plain[0]

    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS[:9])}).save_to_disk(tmp_path / "dict")
    second = export_parquet(HuggingFaceSource(name=str(tmp_path / "dict"), split="test"), export.folder, print)
    assert [f.name for f in second.files] == ["test-00000-of-00001.parquet"]
    assert second.files[0].digest != export.files[0].digest
    for wrong, cure in (
        (HuggingFaceSource(name=str(tmp_path / "dict")), r"its splits are \['test'\]\. Set corpus\.huggingface\.split"),
        (HuggingFaceSource(name="no/such-set"), "local folder"),
    ):
        with pytest.raises(SourceError, match=rf"cannot be loaded, so there is no corpus.*{cure}"):
            export_parquet(wrong, export.folder, print)


# --- duplicates -----------------------------------------------------------------------------------------------------


def doubled_rows() -> list[dict[str, Any]]:
    same = [{"prompt": "p", "completion": "c", "note": n, "source": n} for n in ("b", "a", "a", "c")]
    return [*ROWS[:40], *same, *ROWS[10:20]]


def test_duplicates_dropped_by_content_not_by_file_order(tmp_path):
    rows = doubled_rows()
    parts, storage = corpus(tmp_path / "1", write_jsonl(tmp_path / "all.jsonl", rows))
    assert (parts.num_examples, parts.num_duplicates) == (41, 13)
    kept = [json.loads(e["row"]) for e in examples(storage, parts) if e["messages"][0]["content"] == "p"]
    assert [r["note"] for r in kept] == ["a"]
    write_jsonl(tmp_path / "b.jsonl", rows[:43])
    write_jsonl(tmp_path / "a.jsonl", rows[43:])
    assert corpus(tmp_path / "2", tmp_path / "b.jsonl", tmp_path / "a.jsonl")[0] == parts


def test_duplicates_kept_have_ids_of_their_own(tmp_path):
    rows = doubled_rows()
    parts, storage = corpus(tmp_path / "1", write_jsonl(tmp_path / "all.jsonl", rows), duplicates="keep")
    assert (parts.num_examples, parts.num_duplicates) == (54, 13)
    found = examples(storage, parts)
    assert len({e["example_id"] for e in found}) == 54
    first = content_id([{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}])
    notes = {e["example_id"]: json.loads(e["row"])["note"] for e in found if e["messages"][0]["content"] == "p"}
    assert notes == {occurrence_id(first, n): note for n, note in enumerate("aabc")}
    again, _ = corpus(tmp_path / "2", write_jsonl(tmp_path / "back.jsonl", rows[::-1]), duplicates="keep")
    assert again == parts


# --- rows that cannot be used ---------------------------------------------------------------------------------------


def test_quarantine_says_reason_origin_and_text(tmp_path):
    good = [json.dumps(r).encode() + b"\n" for r in ROWS[:60]]
    bad = {
        b'{"prompt": \n': ("bad JSON", '{"prompt":'),
        b'{"prompt": "p", "completion": "  "}\n': ("empty response", "'completion': '  '"),
        b'{"prompt": "p"}\n': ("missing column 'completion'", "{'prompt': 'p'}"),
        b'{"prompt": "p", "completion": "c", "x": NaN}\n': ("cannot be stored", "'x': nan"),
        b'{"prompt": "p", "completion": "\\udc00"}\n': ("the text is not valid Unicode", "udc00"),
        b'{"prompt": "p", "completion": "\xe9"}\n': ("not UTF-8", "\ufffd"),
    }
    data = b"".join(good[:30]) + b"".join(bad) + b"".join(good[30:])
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    write_jsonl(tmp_path / "only_bad.jsonl", [{"prompt": "p"}])  # a task without one usable row
    parts, storage = corpus(tmp_path / "run", path, tmp_path / "only_bad.jsonl", max_quarantined_share=0.2)
    assert (parts.num_examples, parts.num_quarantined) == (60, 7)
    table = quarantined(storage)
    own = sorted((r for r in table if r["origin"] == str(path)), key=lambda r: r["index"])
    assert [r["index"] for r in own] == [data.index(line) for line in bad]
    for row, (reason, text) in zip(own, bad.values(), strict=True):
        assert row["reason"].startswith(reason)
        assert text in row["text"]
    others = [r for r in table if r["origin"] != str(path)]
    assert [(r["origin"], r["reason"]) for r in others] == [
        (str(tmp_path / "only_bad.jsonl"), "missing column 'completion'")
    ]


def test_too_many_unusable_rows_stop_the_run_and_name_the_reasons(tmp_path):
    rows = [*ROWS[:50], *[{"prompt": "p"}] * 3, {"prompt": None, "completion": "c"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(QuarantineLimitError) as caught:
        corpus(tmp_path / "run", path)
    said = str(caught.value)
    for words in (
        "4 of 54 rows (7.4%)", "corpus.max_quarantined_share=1.0%", "3 × missing column 'completion'",
        "1 × column 'prompt' is null", f"{path} at ", "quarantine", "Fix them, or raise the share",
    ):  # fmt: skip
        assert words in said
    assert corpus(tmp_path / "run", path, max_quarantined_share=0.08)[0].num_quarantined == 4


def test_an_earlier_attempts_leftovers_are_gone(tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", [*ROWS[:50], {"prompt": "p"}])
    corpus(tmp_path / "run", bad, max_quarantined_share=0.5)
    parts, storage = corpus(tmp_path / "run", write_jsonl(tmp_path / "good.jsonl", ROWS[:5]))
    assert parts.num_quarantined == 0
    assert quarantined(storage) == []
    assert [e.name for e in storage.sub("examples").list()] == [part_name(p["part"]) for p in parts.parts]


def test_a_corpus_of_another_format_stops_before_any_task(tmp_path):
    with pytest.raises(UnknownFormat, match="question"):
        corpus(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}]))
    with pytest.raises(QuarantineLimitError, match=r"none of the first 9 rows .* missing column 'messages'"):
        corpus(tmp_path / "run", write_jsonl(tmp_path / "b.jsonl", ROWS[:9]), format="messages")
    (tmp_path / "c.jsonl").write_text("no json\n" * 9)
    with pytest.raises(SourceError, match=r"none of its first 9 rows can be read .*bad JSON"):
        corpus(tmp_path / "run", tmp_path / "c.jsonl")


def test_a_file_damaged_further_on_is_named(tmp_path):
    import gzip

    write_jsonl(tmp_path / "a.jsonl", ROWS)
    lines = b"".join(json.dumps(r).encode() + b"\n" for r in make_rows(20_000))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-9])
    with pytest.raises(SourceError, match=r"^\S*cut\.jsonl\.gz cannot be read \(.*Repair the file, or remove it"):
        corpus(tmp_path / "run", tmp_path / "a.jsonl", tmp_path / "cut.jsonl.gz")


def test_an_empty_first_file_does_not_decide_the_format(tmp_path):
    (tmp_path / "0.json").write_text("[]")
    write_jsonl(tmp_path / "1.jsonl", ROWS[:5])
    assert corpus(tmp_path / "run", tmp_path)[0].num_examples == 5
    with pytest.raises(SourceError, match="no row"):
        corpus(tmp_path / "run2", tmp_path / "0.json")


# --- columns, sizes -------------------------------------------------------------------------------------------------


def test_columns_dropped_and_sources_missing(plain, tmp_path):
    import datetime

    rows = [{**r, "raw": b"\x00", "day": datetime.date(2024, 1, i % 28 + 1)} for i, r in enumerate(ROWS[:30])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(QuarantineLimitError, match=r"column 'raw' holds a value of type bytes; .*corpus\.drop_columns"):
        corpus(tmp_path / "run", tmp_path / "a.parquet")
    options: dict[str, Any] = {"drop_columns": ["raw", "source"]}
    parts, storage = corpus(tmp_path / "run", tmp_path / "a.parquet", **options)
    found = examples(storage, parts)
    assert {tuple(json.loads(e["row"])) for e in found} == {("prompt", "completion", "level", "tags", "day")}
    assert {json.loads(e["row"])["day"] for e in found} == {f"2024-01-{d:02d}" for d in range(1, 29)}
    assert {e["source"] for e in found} == {"s0", "s1", "s2"}  # known, though the column itself does not travel
    other, storage = corpus(tmp_path / "run", tmp_path / "a.parquet", source_column="none_such", **options)
    assert {e["source"] for e in examples(storage, other)} == {""}
    assert other.fingerprint != parts.fingerprint  # what balances by source must not be skipped as unchanged
    numbers, storage = corpus(tmp_path / "run", tmp_path / "a.parquet", source_column="level", **options)
    assert {e["source"] for e in examples(storage, numbers)} == {"0", "1", "2", "3", "4"}


def test_one_row(tmp_path):
    parts, storage = corpus(tmp_path / "run", write_jsonl(tmp_path / "a.jsonl", ROWS[:1]))
    assert [p["rows"] for p in parts.parts] == [1]
    assert [e.name for e in storage.sub("examples").list()] == [part_name(0)]
    made = tokens(storage, parts, tmp_path / "tokens")
    assert (made.num_examples, made.num_quarantined) == (1, 0)


def test_five_thousand_rows(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", make_rows(5000))
    parts, storage = corpus(tmp_path / "run", path, bytes_per_task=100_000)
    assert parts.num_examples == 5000
    assert len(parts.parts) == 40  # ceil(5,000 / 128)
    assert sum(p["rows"] for p in parts.parts) == 5000
    assert max(p["rows"] for p in parts.parts) < 2 * 128  # hash ranges are even
    assert [e.name for e in storage.sub("examples").list()] == [part_name(p["part"]) for p in parts.parts]


# --- tokens ---------------------------------------------------------------------------------------------------------


def tokens(storage: Storage, parts: CorpusParts, out: Path, max_length: int = 64, share: float = 0.0) -> TokenParts:
    tokenizer = train_tokenizer(iter(["1 + 1 = 2"] * 3), 300)
    numbers = [p["part"] for p in parts.parts]
    return build_tokens(
        storage.sub("examples"), numbers, Storage.open(out), tokenizer, "verbatim", max_length, share, 4
    )


def test_tokens_are_those_of_the_examples(plain, tmp_path):
    parts, storage = plain
    made = tokens(storage, parts, tmp_path / "1")
    assert tokens(storage, parts, tmp_path / "2") == made
    read = read_parts(Storage.open(tmp_path / "1" / "parts"), [p["part"] for p in made.parts])
    found = examples(storage, parts)
    assert [a.tobytes() for a in read.ids.astype(">u8")] == [e["example_id"] for e in found]
    tokenizer = train_tokenizer(iter(["1 + 1 = 2"] * 3), 300)
    for i, e in enumerate(found):
        here = slice(read.offsets[i], read.offsets[i + 1])
        assert tokenizer.decode(read.tokens[here]) == "".join(m["content"] for m in e["messages"]) + "<|endoftext|>"
        assert tokenizer.decode(read.tokens[here][read.mask[here]]) == e["messages"][1]["content"] + "<|endoftext|>"
    assert made.num_examples == 200
    assert made.num_tokens == len(read.tokens)
    assert made.num_response_tokens == int(read.mask.sum())
    assert made.max_length == int(read.lengths.max())
    assert made.sum_squared_lengths == int((read.lengths**2).sum())


def test_examples_without_a_response_token_are_quarantined(tmp_path):
    rows = [*ROWS[:50], {"prompt": "far " * 100, "completion": "c"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    parts, storage = corpus(tmp_path / "run", path)
    made = tokens(storage, parts, tmp_path / "tokens", share=0.05)
    assert (made.num_examples, made.num_quarantined) == (50, 1)
    [row] = quarantined(Storage.open(tmp_path / "tokens"))
    assert row["reason"].startswith("no response token left within max_length=64 tokens")
    assert (row["origin"], row["index"]) == (str(path), path.read_bytes().index(b'{"prompt": "far'))
    assert "far far" in row["text"]
    with pytest.raises(QuarantineLimitError, match=r"1 of 51 rows \(2\.0%\)"):
        tokens(storage, parts, tmp_path / "tokens", share=0.01)
    with pytest.raises(QuarantineLimitError, match="no example has a response token left"):
        tokens(storage, parts, tmp_path / "tokens", max_length=1, share=1.0)


def test_a_tokenizer_trained_on_the_corpus_is_a_function_of_it(plain, tmp_path):
    parts, storage = plain
    numbers = [p["part"] for p in parts.parts]

    def trained(folder: str, max_examples: int) -> dict[str, int]:
        made = train_corpus_tokenizer(
            storage.sub("examples"), numbers, "verbatim", 320, max_examples, str(tmp_path / folder)
        )
        assert (tmp_path / folder / "tokenizer.json").exists()
        return dict(made.get_vocab())

    assert trained("1", 1000) == trained("2", 200)
    assert trained("3", 1) != trained("1", 1000)
