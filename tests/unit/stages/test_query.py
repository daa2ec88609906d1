"""The user's own examples of their task: read by their own format, tokenised for the proxy, embedded as the corpus."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.render import renderer_of
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.units import SourceError
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.query_files import QueryError, check_query_files, query_content
from s2l_ray.stages.signals import query
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import SHAPES, write_jsonl
from s2l_ray.workflow.preflight import preflight

PAIRS = [{"instruction": f"Add {i} and 1.", "output": str(i + 1)} for i in range(7)]
CHAT = {"messages": [{"role": "user", "content": "Add 1."}, {"role": "assistant", "content": "2"},
                     {"role": "user", "content": "And 2?"}, {"role": "assistant", "content": "4"}]}  # fmt: skip


def config_of(tmp_path: Path, *paths: Path, **proxy: Any) -> S2LConfig:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", PAIRS)
    model = {
        "from_config": SHAPES["llama"],
        "train_tokenizer": {"vocab_size": 300},
        "render": "plain",
        "max_length": 128,
    }
    return load_config(
        {
            "run_dir": str(tmp_path / "run"), "corpus": {"paths": [str(corpus)]}, "proxy": model | proxy,
            "selection": {"selectors": ["rds_plus"], "query": {"paths": [str(path) for path in paths]}},
        }
    )  # fmt: skip


def tokenised(config: S2LConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str], Storage]:
    tokenizer = train_tokenizer(iter(["Add 1 and 2. And 3?"] * 3), 300)
    monkeypatch.setattr(query, "open_tokenizer", lambda tokens: tokenizer)
    out = Storage.open(folder)
    parts, warnings = query._tokenise(config, config.proxy, SimpleNamespace(), out)  # type: ignore[arg-type]
    return parts, warnings, out


def test_they_are_tokenised_like_the_corpus_whatever_their_format(tmp_path, monkeypatch):
    monkeypatch.setattr(query, "_PART_SEQUENCES", 3)
    pairs, chats = write_jsonl(tmp_path / "pairs.jsonl", PAIRS), write_jsonl(tmp_path / "chats.jsonl", [CHAT])
    config = config_of(tmp_path, pairs)
    parts, warnings, out = tokenised(config, tmp_path / "tokens", monkeypatch)
    assert (parts, warnings) == ([(0, 3), (1, 3), (2, 1)], [])
    found = read_parts(out, [0, 1, 2])
    render = renderer_of(config.proxy, "instruction", query.open_tokenizer(SimpleNamespace()))  # type: ignore[arg-type]
    turns = [
        [{"role": "user", "content": p["instruction"]}, {"role": "assistant", "content": p["output"]}] for p in PAIRS
    ]
    expected = {tuple(sequence.input_ids) for row in render(turns) for sequence in row}  # type: ignore[union-attr]
    cuts = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    assert {tuple(found.tokens[a:b].tolist()) for a, b in cuts} == expected
    assert len(np.unique(found.ids, axis=0)) == len(PAIRS)
    assert tokenised(config_of(tmp_path, chats), tmp_path / "chats", monkeypatch)[0] == [(0, 1)]


def test_what_cannot_be_used_is_counted_or_refused(tmp_path, monkeypatch):
    mixed = write_jsonl(
        tmp_path / "mixed.jsonl", [*PAIRS, {"instruction": "a"}, {"instruction": "b " * 400, "output": "1"}]
    )
    parts, warnings, _ = tokenised(config_of(tmp_path, mixed, max_length=100), tmp_path / "tokens", monkeypatch)
    assert parts == [(0, len(PAIRS))]
    assert [warning.split(": ")[1].split(" ")[:2] for warning in warnings] == [["1", "rows"], ["1", "examples"]]
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"instruction": "a", "output": ""}])
    with pytest.raises(QueryError, match=r"selection\.query\.paths cannot be used: none of the first 1 rows"):
        tokenised(config_of(tmp_path, bad), tmp_path / "none", monkeypatch)


def test_missing_and_foreign_files_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(SourceError, match=r"selection\.query\.paths: nothing matches .*none\.jsonl"):
        preflight(config_of(tmp_path, tmp_path / "none.jsonl"))
    foreign = write_jsonl(tmp_path / "foreign.jsonl", [{"text": "x"}])
    with pytest.raises(QueryError, match=r"selection\.query\.paths cannot be used"):
        check_query_files(config_of(tmp_path, foreign))
    check_query_files(config_of(tmp_path, write_jsonl(tmp_path / "good.jsonl", [CHAT])))


def test_they_are_known_by_their_bytes(tmp_path):
    first, second = write_jsonl(tmp_path / "a.jsonl", PAIRS), write_jsonl(tmp_path / "b.jsonl", PAIRS)
    content = query_content(config_of(tmp_path, first))
    assert query_content(config_of(tmp_path, second)) == content
    assert query_content(config_of(tmp_path, first, second)) != content
    write_jsonl(second, PAIRS[:3])
    assert query_content(config_of(tmp_path, second)) != content
