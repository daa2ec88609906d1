"""Random corpora through the real reading and writing code, in this process: `python fuzz_corpora.py SEED CASES`.

Prints one line: cases, cases that were refused, rows used, rows quarantined, peak memory (MiB).
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from s2l_ray.config import CorpusConfig
from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import READ_SCHEMA, part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.sources import plan_files
from s2l_ray.errors import MAX_MESSAGE, S2LError
from s2l_ray.stages.subset.rows import write_rows
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.processes import peak_resident_bytes

MEMORY = "/dev/shm"
"""Where it is there: to wait for a disk is half of the time."""
TEXTS = ["", "a", "é漢😀", "\0", "\u2028", "x" * 3000, " \t", '"', "{'a': 1}", "\ufeff", "[/INST]", "nul\x00l", "1"]
NAMES = ["meta", "s2l_id", "", "A", "a", "a.b", "id", "source", "tags", "x\0", "é", "n" * 500, "messages", "extra"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".zst": zstandard.compress,
}


def some_json(chance: random.Random, depth: int = 0) -> str:
    """The text of a JSON value, now and then of one that is none."""
    kind = chance.randrange(12 if depth < 4 else 8)
    if kind < 3:
        return json.dumps(chance.choice(TEXTS), ensure_ascii=chance.random() < 0.5)
    if kind == 3:
        return str(chance.choice([0, 1, -1, 2**53 + 1, 2**63, -(2**64), 10**300, 1.5, 1e-300, -0.0]))
    if kind == 4:
        return chance.choice(["true", "false", "null", "{}", "[]", "[[]]", "[{}]"])
    if kind == 5:
        return chance.choice(["NaN", "Infinity", "1e400", '"\\ud800"', '"\\udc00x"', "9" * 5000, "01", "'x'"])
    if kind == 6 and chance.random() < 0.2:
        deep = chance.choice([5, 40, 199, 500, 985, 20_000])
        return "[" * deep + "]" * deep if chance.random() < 0.5 else '{"a":' * deep + "1" + "}" * deep
    if kind in (6, 7):
        return json.dumps({"role": chance.choice(["user", "assistant", "me"]), "content": chance.choice(TEXTS)})
    parts = [some_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind < 10:
        return f"[{','.join(parts)}]"
    return (
        "{" + ",".join(f"{json.dumps(name)}:{part}" for name, part in zip(names(chance, 4), parts, strict=False)) + "}"
    )


def names(chance: random.Random, count: int) -> list[str]:
    """Now and then one of them twice."""
    return chance.choices(NAMES, k=count) if chance.random() < 0.03 else chance.sample(NAMES, count)


def some_row(chance: random.Random) -> str:
    """The text of an object in one line; most can be used."""
    cells = [f'"prompt": {json.dumps(str(chance.random()))}', f'"completion": {json.dumps(chance.choice(TEXTS) + "c")}']
    if chance.random() < 0.05:
        cells.pop(chance.randrange(2))
    for name in names(chance, chance.choice([0, 0, 1, 2, 5])):
        cells.append(f"{json.dumps(name)}: {some_json(chance)}")
    if chance.random() < 0.5:
        chance.shuffle(cells)
    return "{" + ", ".join(cells) + "}"


def some_line(chance: random.Random) -> bytes:
    if chance.random() < 0.9:
        return some_row(chance).encode("utf-8", "surrogatepass")
    return chance.choice(
        [b"garbage", b"[1]", b"null", b'{"a": "\xff"}', b'{"prompt": ', b"\xff\xfe", b"[", b"{}", b"\x00"]
    )


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def text_file(chance: random.Random, rows: int) -> tuple[str, bytes]:
    kind = chance.choice(["jsonl", "jsonl", "lines.json", "array.json", "csv"])
    if kind == "csv":
        out = io.StringIO(newline="")
        writer = csv.writer(out, quoting=csv.QUOTE_ALL)
        writer.writerow(["prompt", "completion", "note"])
        for _ in range(rows):
            writer.writerow([chance.random(), "c" + chance.choice(TEXTS), chance.choice(TEXTS)])
        return "csv", out.getvalue().encode()
    if kind == "array.json":
        elements = [some_row(chance) for _ in range(rows)]
        if chance.random() < 0.9:  # one bad element is the end of an array
            elements = [e if is_json(e) else json.dumps({"prompt": e[:50], "completion": "c"}) for e in elements]
        return "json", ("[" + ",\n ".join(elements) + "]").encode("utf-8", "surrogatepass")
    end = chance.choice([b"\n", b"\r\n"])
    lines = [some_line(chance) for _ in range(rows)]
    return kind.split(".")[-1], (b"\xef\xbb\xbf" if chance.random() < 0.1 else b"") + end.join(
        lines
    ) + end * chance.randrange(2)


def parquet_file(chance: random.Random, rows: int) -> tuple[str, bytes]:
    columns: dict[str, Any] = {
        "prompt": [str(chance.random()) for _ in range(rows)],
        "completion": ["c" + chance.choice(TEXTS) for _ in range(rows)],
    }
    others = {
        "day": pa.array([chance.choice([0, 20_000, -800_000, 2**31 - 1]) for _ in range(rows)], pa.date32()),
        "at": pa.array([chance.choice([0, 2**62, -(2**62)]) for _ in range(rows)], pa.timestamp("us")),
        "n": pa.array([chance.choice([1.5, float("nan"), None]) for _ in range(rows)]),
        "big": pa.array([2**64 - 1] * rows, pa.uint64()),
        "raw": pa.array([b"x\xff"] * rows),
        "meta": pa.array([chance.choice([{"a": 1, "b": ["x"]}, None]) for _ in range(rows)],
                         pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
        "map": pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        "twice": pa.StructArray.from_arrays([pa.array([1] * rows), pa.array([2] * rows)], names=["a", "a"]),
        "word": pa.array([chance.choice("ab") for _ in range(rows)]).dictionary_encode(),
        "none": pa.nulls(rows),
    }  # fmt: skip
    often = [name for name in others if name not in ("raw", "twice")]  # with these two all rows are refused
    for name in chance.sample(list(others) if chance.random() < 0.1 else often, chance.randrange(4)):
        columns[name] = others[name]
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        sink,
        row_group_size=chance.choice([1, 7, 1000]),
        compression=chance.choice(["snappy", "zstd", "none"]),
    )
    return "parquet", sink.getvalue()


def some_file(chance: random.Random, folder: Path, number: int) -> int | None:
    """Write a file; → its rows by construction, None where the damage leaves that open."""
    rows = chance.choice([0, *[1, 3, 10, 40] * 5])
    ending, data = (parquet_file if chance.random() < 0.2 else text_file)(chance, rows)
    if ending != "parquet":
        packed = chance.choice([*COMPRESS, ""])
        ending, data = f"{ending}{packed}", COMPRESS[packed](data)
    known: int | None = rows
    if chance.random() < 0.12:
        known = None
        at = chance.randrange(len(data) + 1)
        noise = chance.randbytes(chance.choice([1, 3, 100]))
        inside = data[:at] + noise + data[at + len(noise) :]
        wide = b"\xff\xfe" + data.decode("latin-1").encode("utf-16-le")
        data = chance.choice([data[:at], inside, data[at:], data + noise, data * 2, data.replace(b"p", b"\0"), wide])
    (folder / f"{number}.{ending}").write_bytes(data)
    return known


def run_case(seed: int, folder: Path) -> tuple[bool, int, int]:
    """→ (was refused, rows used, rows quarantined)."""
    chance = random.Random(seed)
    counts = [some_file(chance, folder, number) for number in range(chance.choice([1, 1, 2, 3]))]
    template: dict[str, Any] = (
        {"template": {"prompt": "{prompt}", "response": "{completion}"}} if chance.random() < 0.1 else {}
    )
    dropped = chance.sample([*NAMES, "raw", "prompt", "completion"], chance.choice([0, 0, 0, 2, 17]))
    config = CorpusConfig(
        paths=[str(folder)], drop_columns=dropped, max_row_bytes=chance.choice([1024, *[2**24] * 24]), **template
    )
    columns, bad = Columns(), 0
    good: list[dict[str, Any]] = []
    try:
        units = plan_files(config.paths, chance.choice([300, 4000, 2**20]))
        format = sample_format(units, config)
        for record, raw, reason in chain.from_iterable(read_rows(u, config, format, columns) for u in units):
            if record is None:
                assert reason, raw
                bad += 1
            else:
                good.append(record)
    except S2LError as error:
        if not 0 < len(str(error)) <= MAX_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return True, 0, 0
    expected = None if None in counts else sum(n for n in counts if n is not None)
    assert expected in (None, len(good) + bad), f"{expected} rows in the files, {len(good)} used, {bad} quarantined"
    if good:
        check_written(folder / "out", good, columns)
    return False, len(good), bad


def check_written(folder: Path, records: list[dict[str, Any]], columns: Columns) -> None:
    """What was taken can be written, and comes back."""
    storage = Storage.open(folder)
    ids = array_to_ids(np.arange(2 * len(records), dtype=np.uint64).reshape(-1, 2))
    table = pa.Table.from_pylist(records, schema=READ_SCHEMA)
    storage.write_table(part_name(0), pa.table({"example_id": ids, "row": table["row"]}))
    chosen = pa.table({"example_id": ids, "part": [0] * len(records), "s2l_id": ["i"] * len(records)})
    write_rows("subset", chosen, storage, storage, columns)
    lines = storage.read_bytes("subset.jsonl").decode().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [json.loads(r["row"]) | {"s2l_id": "i"} for r in records]
    assert storage.read_table("subset.parquet").num_rows == len(records)


def main(first_seed: int, num_cases: int) -> None:
    refused = used = quarantined = 0
    for seed in range(first_seed, first_seed + num_cases):
        folder = Path(tempfile.mkdtemp(prefix="s2l-fuzz-", dir=MEMORY if Path(MEMORY).is_dir() else None))
        try:
            outcome = run_case(seed, folder)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            shutil.rmtree(folder)
        refused, used, quarantined = refused + outcome[0], used + outcome[1], quarantined + outcome[2]
    peak = peak_resident_bytes() >> 20
    print(num_cases, refused, used, quarantined, peak)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
