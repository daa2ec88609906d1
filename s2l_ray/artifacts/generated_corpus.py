"""The quickstart's corpus in the run folder: one pair of files for each choice of settings, rebuilt if damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.outputs import OutputFile
from s2l_ray.data.units import ReadUnit
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

FOLDER = "quickstart"


def quickstart_units(
    run_storage: Storage, num_examples: int, wrong_answer_share: float, seed: int, say: Callable[[str], None]
) -> tuple[ReadUnit, ReadUnit]:
    """Return the files for training and for the balanced test, generating them unless they exist undamaged.

    Args:
        say: called with a message if files are generated again.
    """
    of = {"num_examples": num_examples, "wrong_answer_share": wrong_answer_share, "seed": seed}
    folder, key = run_storage.sub(FOLDER), fingerprint(of)[:12]
    names = (f"train-{key}.jsonl", f"test-{key}.jsonl")
    record = read_record(folder, f"{key}.json")
    if record is None and folder.exists(f"{key}.json"):
        say(f"[corpus] {folder.uri_of(f'{key}.json')} was altered; the quickstart's files are made again.")
    if record is not None and (problems := record.problems(folder)):
        say(f"[corpus] {problems[0].what} The quickstart's files are made again.")
        record = None
    if record is None:
        record = _generate(folder, names, of)
        record.write(folder, f"{key}.json")
    train, test = (recorded_unit(folder, file, "jsonl") for file in record.files)
    return train, test


def _generate(folder: Storage, names: tuple[str, str], of: dict[str, Any]) -> FileRecord:
    from s2l_ray.data.quickstart import generate_corpus

    train, test = generate_corpus(
        num_train=of["num_examples"], wrong_answer_share=of["wrong_answer_share"], seed=of["seed"]
    )
    log = folder.recording()
    for name, rows in zip(names, (train, test), strict=True):
        log.write_bytes(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return FileRecord(of, [OutputFile.model_validate(file) for file in log.take_written()])


def recorded_unit(folder: Storage, file: OutputFile, kind: str) -> ReadUnit:
    """Return a read unit for a file of the run folder, which is compared with its digest when it is read."""
    return ReadUnit(folder.locator(file.name), kind, None, 0, file.size, file.size, digest=file.digest)
