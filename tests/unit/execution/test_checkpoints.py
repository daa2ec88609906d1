"""Checkpoints that a worker in a task leaves: which count, which go, and what is taken over from Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l_ray.execution.checkpoints import keep_checkpoint, newest_complete, take_over_from_ray_train
from s2l_ray.storage.folder import Storage

LIST = "checkpoint_manager_snapshot.json"


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "ray_train")


def keep(folder: Storage, step: int, tmp_path: Path, num: int = 2) -> None:
    files = tmp_path / f"files-{step}"
    files.mkdir(exist_ok=True)
    (files / "weights").write_text(str(step))
    keep_checkpoint(folder, f"step-{step:08d}", files, num)


def test_the_newest_stay_and_one_is_whole_at_every_moment(folder, tmp_path, monkeypatch):
    assert newest_complete(folder) is None
    for step in (5, 10, 15):
        keep(folder, step, tmp_path)
    assert folder.folders() == ["step-00000010", "step-00000015"]

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Storage, "upload_file", killed)
    with pytest.raises(Killed):
        keep(folder, 20, tmp_path)
    folder.write_bytes("step-00000020/weights", b"2")
    assert newest_complete(folder) == "step-00000015"
    monkeypatch.undo()
    monkeypatch.setattr(Storage, "delete_dir", killed)
    with pytest.raises(Killed):
        keep(folder, 20, tmp_path)
    monkeypatch.undo()
    keep(folder, 20, tmp_path)
    assert folder.read_bytes("step-00000020/weights") == b"20", "nothing of the one that was killed on the way"
    monkeypatch.setattr(folder, "delete_dir", lambda rel: None if rel == "step-00000025" else killed())
    with pytest.raises(Killed):
        keep(folder, 25, tmp_path, num=1)
    assert newest_complete(folder) == "step-00000025"
    assert not folder.exists("step-00000015/complete"), "what is only half deleted is none"


@pytest.mark.parametrize(
    ("listed", "newest"),
    [
        ([7, 14], "step-00000014"), ([], None), (None, None),
    ],
)  # fmt: skip
def test_ray_trains_newest_is_gone_on_from_and_its_list_goes(folder, listed, newest):
    """None: torn."""
    results = [{"checkpoint_dir_name": f"step-{step:08d}"} for step in listed or ()]
    content = json.dumps({"checkpoint_results": results}).encode()
    folder.write_bytes(LIST, content if listed is not None else content[:9])
    for step in (7, 14, 21):  # the last was never listed
        folder.write_bytes(f"step-{step:08d}/progress.json", b"{}")
    take_over_from_ray_train(folder)
    assert newest_complete(folder) == newest
    assert not folder.exists(LIST)
    take_over_from_ray_train(folder)
    assert newest_complete(folder) == newest
