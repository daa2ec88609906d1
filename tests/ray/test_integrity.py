"""A changed byte in any file of a finished run: named by `s2l verify`, never used by the next command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import s2l_ray
from s2l_ray.artifacts.manifest import ManifestError, read_manifest
from s2l_ray.artifacts.outputs import verify_digests
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.verify import verify_run
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl

pytestmark = pytest.mark.usefixtures("ray_cluster")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def run(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the tiny run, with a target."""
    folder = tmp_path_factory.mktemp("integrity") / "run"
    shutil.copytree(finished.storage.local_path(), folder)
    tree = tiny_run_config(folder)
    tree["target"] = {**tree["proxy"], "subsets": ["s2l-0.3"], "max_steps": 3}
    return s2l_ray.run(tree, progress=Quiet())


def kinds(run: Run) -> dict[str, list[Path]]:
    """Files by stage and what they are, numbers and keys left out."""
    found: dict[str, list[Path]] = {}
    for stage in run.stages.values():
        base = run.storage.local_path(stage.folder)
        for output in stage.manifest.outputs:
            if output.size:
                kind = "".join("#" if c.isdigit() else c for c in f"{stage.name}/{output.name}")
                found.setdefault(kind[:40] + kind[-20:], []).append(base / output.name)
    return found


def test_digests_of_a_run_are_those_of_its_files(run):
    """Of what workers wrote, too: nothing was read back for them."""
    for stage in run.stages.values():
        assert verify_digests(stage.storage, stage.manifest.outputs) == []
    result = verify_run(run.storage, Quiet())
    assert result.problems == []
    assert (
        result.num_files
        == 3 + sum(len(s.manifest.outputs) for s in {s.folder: s for s in run.stages.values()}.values()) - 1
    )  # the quickstart's two files


def test_a_flipped_byte_in_each_kind_of_file_is_named_and_cannot_be_read(run):
    found = kinds(run)
    assert len(found) > 20
    for kind, paths in found.items():
        path = paths[len(paths) // 2]
        whole = path.read_bytes()
        flip(path)
        try:
            problems = verify_run(run.storage, Quiet()).problems
            assert len(problems) == 1, kind
            assert path.name in problems[0]
            assert "Delete it and run the command that made it again" in problems[0]
            (stage,) = [s for s in run.stages.values() if path.is_relative_to(run.storage.local_path(s.folder))][:1]
            name = str(path.relative_to(run.storage.local_path(stage.folder)))
            read = stage.storage.read_table if name.endswith(".parquet") else stage.storage.read_bytes
            with pytest.raises(DamagedFile, match=r"is damaged.*Delete it and run"):
                read(name)
        finally:
            path.write_bytes(whole)
    assert verify_run(run.storage, Quiet()).problems == []


def test_a_flipped_byte_in_a_manifest_is_named_and_stops_the_next_command(run):
    for stage in run.stages.values():
        path = run.storage.local_path(stage.folder) / "manifest.json"
        whole = path.read_bytes()
        flip(path)
        try:
            assert len(verify_run(run.storage, Quiet()).problems) == 1
            with pytest.raises(ManifestError, match="Delete"):
                read_manifest(run.storage.sub(stage.folder))
        finally:
            path.write_bytes(whole)


def fingerprints(run: Run) -> dict[str, str]:
    return {name: stage.manifest.content_fingerprint for name, stage in run.stages.items()}


@pytest.mark.slow
def test_the_next_command_makes_every_damaged_stage_again(run, tmp_path):
    """One file of every stage at once; the quickstart's too."""
    folder = tmp_path / "run"
    shutil.copytree(run.storage.local_path(), folder)
    victims = []
    for stage in run.stages.values():
        largest = max(stage.manifest.outputs, key=lambda o: o.size)
        victims.append(folder / stage.folder / largest.name)
    victims += list((folder / "quickstart").glob("*.jsonl"))
    before = [path.read_bytes() for path in victims]
    for path in victims:
        flip(path)
    tree = run.config.model_dump(mode="json") | {"run_dir": str(folder)}
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    for stage in run.stages.values():
        assert f"[{stage.name}] " in progress.lines()
    assert progress.lines().count("Made again.") == len({s.folder for s in run.stages.values()})
    assert "The quickstart's files are made again." in progress.lines()
    assert not any(stage.reused for stage in repaired.stages.values())
    assert fingerprints(repaired) == fingerprints(run)
    # Byte for byte, but for the corpus, whose rows say where they came from: this run lies elsewhere.
    for path, content in zip(victims, before, strict=True):
        assert path.read_bytes() == content or "corpus" in path.relative_to(folder).parts, path
    assert verify_run(repaired.storage, Quiet()).problems == []


def test_a_subset_whose_ids_were_exchanged_is_not_fine_tuned_on(run, tmp_path, monkeypatch):
    """A whole and valid file of other rows, larger than what is checked at the start."""
    from s2l_ray.artifacts import outputs

    folder = tmp_path / "run"
    shutil.copytree(run.storage.local_path(), folder)
    monkeypatch.setattr(outputs, "_FULL_CHECK_BYTES", 0)
    subset = Storage.open(folder).sub(run.subset("s2l-0.1").folder)
    ids = subset.read_table("ids.parquet")
    backwards = ids.take(list(range(ids.num_rows))[::-1])
    subset.write_table("ids.parquet", backwards, compression="zstd", row_group_size=65_536)
    path = folder / run.subset("s2l-0.1").folder / "ids.parquet"
    if path.stat().st_size != run.storage.local_path(run.subset("s2l-0.1").folder + "/ids.parquet").stat().st_size:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"ids\.parquet is damaged"):
        s2l_ray.finetune(str(folder), "s2l-0.1", progress=Quiet())


def rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"say {i}", "output": f"{i * 7919 % 10_007}"} for i in range(count)]


@pytest.mark.slow
def test_a_corpus_that_is_moved_and_touched_is_read_again_and_nothing_else_is_made_again(tmp_path):
    def tree_of(path: Path) -> dict[str, Any]:
        tree = tiny_run_config(tmp_path / "run", proxy__epochs=1, trajectories__num_snapshots=2)
        tree["corpus"] = {"paths": [str(path)]}
        return tree

    first = s2l_ray.run(tree_of(write_jsonl(tmp_path / "a/train.jsonl", rows(300))), progress=Quiet())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b/train.jsonl", ns=(1, 10**18))
    again = s2l_ray.run(tree_of(tmp_path / "b/train.jsonl"), progress=Quiet())
    assert {name for name, stage in again.stages.items() if not stage.reused} == {"corpus"}
    assert fingerprints(again) == fingerprints(first)
    write_jsonl(tmp_path / "b/train.jsonl", rows(301))
    other = s2l_ray.run(tree_of(tmp_path / "b/train.jsonl"), progress=Quiet())
    assert not any(stage.reused for stage in other.stages.values())


@pytest.mark.slow
def test_a_run_of_the_earlier_layout_is_made_again_and_that_is_said_once_a_stage(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.storage.local_path(), folder)
    for stage in run.stages.values():
        path = folder / stage.folder / "manifest.json"
        content = json.loads(path.read_text())
        content["schema_version"] = 1
        del content["digest"]
        content["outputs"] = [{"name": o["name"], "size": o["size"]} for o in content["outputs"]]
        path.write_text(json.dumps(content))
    for command in (s2l_ray.select, s2l_ray.finetune):
        with pytest.raises(ValueError, match=r"no complete corpus stage.*run `s2l run` on its configuration"):
            command(str(folder), budget=0.2, progress=Quiet())
    progress = Quiet()
    made = s2l_ray.run(run.config.model_dump(mode="json") | {"run_dir": str(folder)}, progress=progress)
    assert progress.lines().count("was written by an earlier s2l_ray") == len({s.folder for s in run.stages.values()})
    assert not any(stage.reused for stage in made.stages.values())
    assert fingerprints(made) == fingerprints(run)
