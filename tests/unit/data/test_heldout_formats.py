"""A held-out file is rendered by its own format, whatever the corpus's is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import CorpusConfig, TargetConfig, load_config
from s2l_ray.data.render import renderer_of
from s2l_ray.data.sources import plan_files
from s2l_ray.errors import UserError
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.corpus.stage import check_corpus_files
from s2l_ray.stages.heldout.build import HeldOutError, format_of, read_files, tokenise
from s2l_ray.stages.heldout.stage import check_heldout_files
from s2l_ray.testing.tiny import SHAPES, write_jsonl

CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "You calculate."}, {"role": "user", "content": "Add 70 and 1."},
                  {"role": "assistant", "content": "71"}]},
    {"messages": [{"role": "user", "content": "Add 80 and 1."}, {"role": "assistant", "content": "81"},
                  {"role": "user", "content": "And 2?"}, {"role": "assistant", "content": "83"}]},
]  # fmt: skip
TEMPLATE = {"prompt": "{question}", "response": "{answer}"}
MODEL = {"from_config": SHAPES["llama"] | {"max_position_embeddings": 512}, "train_tokenizer": {"vocab_size": 300}}


def units(path: Path) -> Any:
    return plan_files([str(path)], 2**40, "heldout.files.test")


def responses(path: Path, config: CorpusConfig) -> list[str]:
    """The texts that are scored."""
    rows, format, _ = read_files("test", units(path), config)
    assert format_of("test", units(path), config) == format
    tokenizer = train_tokenizer(iter(["Add 70 and 1. 71 81 83"] * 3), 300)
    table, _ = tokenise("test", rows, renderer_of(TargetConfig.model_validate(MODEL), format, tokenizer))
    return sorted(
        tokenizer.decode([i for i, m in zip(row["input_ids"], row["response_mask"], strict=True) if m])
        for row in table.to_pylist()
    )


@pytest.mark.parametrize(
    "corpus",
    [{}, {"format": "instruction"}, {"format": "prompt_completion"}, {"format": "sharegpt"}, {"template": TEMPLATE}],
)
def test_chats_beside_a_corpus_of_another_format(tmp_path, corpus):
    config = CorpusConfig.model_validate({"paths": ["unused"], **corpus})
    path = write_jsonl(tmp_path / "chats.jsonl", CHATS)
    assert responses(path, config) == ["71<|endoftext|>", "81<|endoftext|>83<|endoftext|>"]


@pytest.mark.parametrize("corpus", [{"format": "messages"}, {"format": "sharegpt"}, {"template": TEMPLATE}, {}])
def test_pairs_beside_a_corpus_of_chats(tmp_path, corpus):
    config = CorpusConfig.model_validate({"paths": ["unused"], **corpus})
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"instruction": "Add 70 and 1.", "output": "71"}])
    assert responses(path, config) == ["71<|endoftext|>"]


def test_the_corpuss_format_stays_where_it_fits(tmp_path):
    row = {"question": "Add 70 and 1.", "answer": "71", "prompt": "another", "completion": "100"}
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    config = CorpusConfig.model_validate({"paths": ["unused"], "template": TEMPLATE})
    assert responses(path, config) == ["71<|endoftext|>"]
    both = write_jsonl(tmp_path / "b.jsonl", [{**row, **CHATS[0]}])
    assert responses(both, CorpusConfig(paths=["unused"], format="prompt_completion")) == ["100<|endoftext|>"]


def test_columns_that_fit_nothing_are_refused_by_the_corpuss_format(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(HeldOutError, match="missing column 'messages'"):
        format_of("test", units(path), CorpusConfig(paths=["unused"], format="messages"))


def test_a_style_that_cannot_write_the_set_is_refused_before_anything_starts(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"instruction": f"Add {i} and 1.", "output": "1"} for i in "123"])
    for rows in (CHATS, [{"instruction": "a", "output": "b", "system": "s"}]):
        path = write_jsonl(tmp_path / f"{len(rows)}.jsonl", rows)
        tree = {"corpus": {"paths": [str(corpus)]}, "proxy": MODEL, "target": {**MODEL, "render": "alpaca"},
                "heldout": {"files": {"test": [str(path)]}}}  # fmt: skip
        with pytest.raises(UserError, match=r"render=alpaca supports one instruction .* has turns"):
            check_heldout_files(load_config(tree))


def test_a_style_that_cannot_write_the_corpus_is_refused_before_anything_starts(tmp_path):
    pair = {"instruction": "a", "output": "b"}
    for i, (rows, fits) in enumerate([([pair] * 3, True), ([pair, {**pair, "system": "s"}], False), (CHATS, False)]):
        path = write_jsonl(tmp_path / f"{i}.jsonl", rows)
        for proxy, target in (("alpaca", "auto"), ("auto", "alpaca")):
            tree = {"corpus": {"paths": [str(path)]}, "proxy": {**MODEL, "render": proxy},
                    "target": {**MODEL, "render": target}}  # fmt: skip
            if fits:
                check_corpus_files(load_config(tree))
            else:
                with pytest.raises(UserError, match=r"render=alpaca supports one instruction .* has turns"):
                    check_corpus_files(load_config(tree))
