"""The chosen rows in the corpus's own columns, as JSONL and Parquet, with the s2l_ columns beside them.

`subset.jsonl` and `subset.parquet`, or numbered shards of at most ROWS_PER_FILE rows; `dataset_info.json` registers
them for LLaMA-Factory. Rows keep the order of the example ids, which is random with respect to the corpus.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray.corpus.example_id import ids_to_array
from s2l_ray.corpus.parts import part_name
from s2l_ray.run_folder.storage import Storage

ROWS_PER_FILE = 250_000


def plan_files(chosen: pa.Table) -> list[tuple[str, pa.Table]]:
    """(name without ending, its rows); rows of one corpus part stay together."""
    if chosen.num_rows <= ROWS_PER_FILE:
        return [("subset", chosen)]
    parts = chosen["part"].to_numpy()
    starts = np.flatnonzero(np.r_[True, parts[1:] != parts[:-1]])
    cuts = [0]
    for start in starts[1:]:
        if start - cuts[-1] >= ROWS_PER_FILE:
            cuts.append(int(start))
    cuts.append(chosen.num_rows)
    count = len(cuts) - 1
    return [(f"subset-{i:05d}-of-{count:05d}", chosen.slice(cuts[i], cuts[i + 1] - cuts[i])) for i in range(count)]


def write_rows(stem: str, chosen: pa.Table, examples: Storage, out: Storage) -> list[str]:
    """Look the rows up in the corpus's parts and write both files."""
    rows: list[dict[str, Any]] = []
    for part in dict.fromkeys(chosen["part"].to_pylist()):
        mine = chosen.filter(pc.equal(chosen["part"], part))
        table = examples.read_table(part_name(part), columns=["example_id", "row"])
        at = {tuple(i): n for n, i in enumerate(ids_to_array(table["example_id"]).tolist())}
        texts = table["row"]
        extras = mine.drop_columns(["example_id", "part"]).to_pylist()
        for example_id, extra in zip(ids_to_array(mine["example_id"]).tolist(), extras, strict=True):
            rows.append(json.loads(texts[at[tuple(example_id)]].as_py()) | extra)
    with out.atomic_output(f"{stem}.jsonl") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    out.write_table(f"{stem}.parquet", to_table(rows), compression="zstd")
    return [f"{stem}.jsonl", f"{stem}.parquet"]


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Columns in the order of first appearance. A column whose values are of no common type becomes JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            columns[name] = pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values])
    return pa.table(columns)


_LLAMA_FACTORY: dict[str, dict[str, Any]] = {
    "instruction": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "prompt_completion": {"columns": {"prompt": "prompt", "response": "completion"}},
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
}


def write_dataset_info(out: Storage, files: list[str], format: str) -> None:
    """https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md; a user's own template has no entry there."""
    layout = copy.deepcopy(_LLAMA_FACTORY.get(format))
    if layout is None:
        return
    jsonl = [f for f in files if f.endswith(".jsonl")]
    with out.open_input(next(f for f in files if f.endswith(".parquet"))) as file:
        names = pq.read_schema(file).names
    # LLaMA-Factory looks up every column that is named here.
    layout["columns"] = {k: v for k, v in layout["columns"].items() if v in names}
    info = {
        ("s2l_subset" if len(jsonl) == 1 else f"s2l_subset_{i:05d}"): {"file_name": name, **layout}
        for i, name in enumerate(jsonl)
    }
    out.write_json("dataset_info.json", info)
