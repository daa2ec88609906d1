"""What trials leave for the next sweep: known again, and never taken for what it is not when it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.manifest import StageManifest, write_manifest
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import S2LConfig, load_config
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.context import SweepContext, Upstream
from s2l_ray.sweeps.records import _name, all_finished, all_stopped, find_finished, write_record, write_stopped
from s2l_ray.sweeps.trials import Trial
from s2l_ray.testing.tiny import tiny_run_config

TRIAL, OTHER, LAST = Trial("s2l", 0.1, 0), Trial("s2l", 0.1, 1), {"step": 5, "objective": 2.5}
UPSTREAM = Upstream("content")
DAMAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b"null",
    b"[]",
    b'{"trial": 3}',
    b'{"of": {}, "files": [], "digest": "x"}',
]


class Sweep:
    """Its records of one finished and one stopped trial."""

    def __init__(self, folder: Path) -> None:
        tree = tiny_run_config(folder)
        tree |= {"target": {**tree["proxy"], "evaluate_every_steps": 5}, "sweep": {"budgets": [0.1], "asha": {}}}
        self.config: S2LConfig = load_config(tree)
        self.storage, self.said = Storage.open(folder), list[str]()
        shared = SweepContext(self.config, self.storage, {}, True, "target", UPSTREAM)
        stages = {"trajectories": self._stage("trajectories", {"trajectories": 600}),
                  "subset/s2l-0.1": self._stage("subset/s2l-0.1", {"examples": 60})}  # fmt: skip
        target = self._stage("target/s2l-0.1-01234567", {"examples": 60})
        evaluation = self._stage("heldout_evaluation/s2l-0.1-76543210", {}, {"target": target.content})
        write_record(shared, TRIAL, Run(self.config, self.storage, stages), target, evaluation)
        write_stopped(shared, OTHER, LAST)
        [self.finished_at] = folder.glob("sweep/trials/*.json")
        [self.stopped_at] = folder.glob("sweep/stopped/*.json")

    def _stage(self, name: str, rows: dict[str, int], inputs: dict[str, str] | None = None) -> Stage:
        manifest = StageManifest(stage=name, key="k", row_counts=rows, inputs=inputs or {}, content_fingerprint=name)
        return Stage(name, name, self.storage.sub(name), write_manifest(self.storage.sub(name), manifest))

    def found(self) -> list[Any]:
        """What every reader finds."""
        config, storage, say = self.config, self.storage, self.said.append
        one = find_finished(config, storage, TRIAL, UPSTREAM, "target", say)
        several = all_finished(config, storage, UPSTREAM, "target", say)
        stopped = all_stopped(config, storage, UPSTREAM, "target", say)
        return [one and one.num_examples, [f.trial for f in several], stopped]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "run")


def test_records_are_known_again(sweep: Sweep) -> None:
    assert sweep.found() == [60, [TRIAL], {OTHER: LAST}]
    assert not sweep.said


@pytest.mark.parametrize("kind", ["target", "heldout_evaluation"])
def test_a_trial_whose_target_or_evaluation_is_gone_or_another_is_done_again(sweep: Sweep, kind: str) -> None:
    [manifest] = sweep.storage.local_path().glob(f"{kind}/*/manifest.json")
    folder = sweep.storage.sub(f"{kind}/{manifest.parent.name}")
    other = StageManifest(stage=kind, key="k", inputs={"target": "another"}, content_fingerprint="another")
    write_manifest(folder, other)
    assert sweep.found() == [None, [], {OTHER: LAST}]
    manifest.unlink()
    assert sweep.found() == [None, [], {OTHER: LAST}]


def test_a_record_of_an_earlier_version_has_no_evaluation_and_its_trial_is_done_again(sweep: Sweep) -> None:
    name = f"sweep/trials/{sweep.finished_at.name}"
    record = read_record(sweep.storage, name)
    assert record is not None
    FileRecord({key: value for key, value in record.of.items() if key != "evaluation"}).write(sweep.storage, name)
    assert sweep.found() == [None, [], {OTHER: LAST}]


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_record_is_said_once_and_its_trial_counts_as_not_done(sweep: Sweep, content: bytes) -> None:
    sweep.finished_at.write_bytes(content)
    assert sweep.found() == [None, [], {OTHER: LAST}]
    sweep.stopped_at.write_bytes(content)
    assert sweep.found() == [None, [], {}]
    assert sweep.found() == [None, [], {}]
    assert len(sweep.said) == 2
    for said, path in zip(sweep.said, (sweep.finished_at, sweep.stopped_at), strict=True):
        assert str(path) in said
        assert "is damaged" in said
        assert not path.exists()


def test_no_changed_figure_of_a_record_is_taken(sweep: Sweep) -> None:
    whole = sweep.finished_at.read_text()
    for old, new in (
        ("60", "61"),
        ("0.1", "0.2"),
        ("s2l-0.1-01234567", "s2l-0.1-89abcdef"),
        ('"seed": 0', '"seed": 1'),
    ):
        assert old in whole
        sweep.finished_at.write_text(whole.replace(old, new))
        assert sweep.found() == [None, [], {OTHER: LAST}], old


def test_all_readers_find_a_damaged_record_by_themselves(sweep: Sweep) -> None:
    sweep.finished_at.write_bytes(b"{")
    assert all_finished(sweep.config, sweep.storage, UPSTREAM, "target", sweep.said.append) == []
    assert len(sweep.said) == 1


def test_only_trials_that_read_a_targets_scores_are_others_with_another_target(tmp_path: Path) -> None:
    tree = tiny_run_config(tmp_path / "run")
    tree |= {"target": dict(tree["proxy"]), "sweep": {"budgets": [0.1], "selectors": ["ifd", "random"]}}
    tree["selection"] = {"selectors": ["ifd"], "reference": {"model": "target"}}
    base = load_config(tree)
    trials = {name: Trial(name, 1.0 if name == "full" else 0.1, 0) for name in ("ifd", "random", "full")}
    assert [name for name, trial in trials.items() if trial.scores_with_target(base)] == ["ifd"]
    names = [{name: _name(base, trial, Upstream("t", target), "target") for name, trial in trials.items()}
             for target in ("one", "another")]  # fmt: skip
    assert {name for name in trials if names[0][name] != names[1][name]} == {"ifd"}
    proxys = load_config(tree | {"selection": {"selectors": ["ifd"]}})
    known = _name(proxys, trials["ifd"], Upstream("t"), "target")
    assert known not in (names[0]["ifd"], _name(proxys, trials["ifd"], Upstream("u"), "target"))
