"""Weights & Biases, and what holds for every tracker."""

from __future__ import annotations

import importlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config.loggers import LoggersConfig
from s2l_ray.observability.loggers import LoggerError, Loggers, check_loggers
from s2l_ray.storage.folder import Storage
from tests.support.loggers import KEY, SETTINGS, assert_no_secret, events, log_some

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture
def wandb_offline(private, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()


def wandb_records(path: Path) -> list:
    """The records of an offline run: LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md)."""
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2
    content, records, at, whole = path.read_bytes(), [], 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # padding at a block's end
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            record = proto.Record()
            record.ParseFromString(whole)
            records.append(record)
            whole = b""
    return records


def wandb_history(records: list) -> list[dict]:
    rows = [r.history.item for r in records if r.WhichOneof("record_type") == "history"]
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


@pytest.mark.thorough
@pytest.mark.usefixtures("wandb_offline")
def test_wandb_offline_run_is_read_back_and_resumed(tmp_path):
    import wandb

    config, storage = LoggersConfig(wandb_project="p"), Storage.open(tmp_path / "run")
    check_loggers(config)
    log_some(config, storage)
    log_some(config, storage, (3, 5))
    wandb.teardown()  # as at the process's end: only then wandb's own process has surely written all
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns)
    first, second = (wandb_records(path) for path in files)
    rows = wandb_history(first)
    assert [(row["step"], row["loss_nats"]) for row in rows[:3]] == [(1, 1), (2, 0.5), (4, 0.25)]
    assert math.isnan(float(rows[3]["heldout/balanced/macro"]))
    [run] = [r.run for r in first if r.WhichOneof("record_type") == "run"]
    [again] = [r.run for r in second if r.WhichOneof("record_type") == "run"]
    assert run.run_id == again.run_id
    assert (run.project, run.display_name) == ("p", "trial/target/s2l")
    assert json.loads({u.key: u.value_json for u in run.config.update}["train"]) == SETTINGS["train"]
    assert wandb_history(second)[0]["step"] == 3
    assert any(u.key == "best/loss_nats" for r in first for u in r.summary.update)
    assert_no_secret(tmp_path)


@pytest.mark.thorough
@pytest.mark.usefixtures("wandb_offline")
def test_wandb_offline_run_reaches_the_object_store(tmp_path, s3_uri):
    storage = Storage.open(s3_uri)
    log_some(LoggersConfig(wandb_project="p"), storage)
    [name] = [entry.name for entry in storage.list("wandb", recursive=True) if entry.name.endswith(".wandb")]
    (tmp_path / "copy.wandb").write_bytes(storage.read_bytes(name))
    assert len(wandb_history(wandb_records(tmp_path / "copy.wandb"))) == 4


def test_wandb_without_login_is_refused(tmp_path, monkeypatch):
    import wandb

    wandb.teardown()
    config = LoggersConfig(wandb_project="p")
    with pytest.raises(LoggerError, match=r"WANDB_API_KEY or run `wandb login`.*WANDB_MODE=offline"):
        check_loggers(config)
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    check_loggers(config)
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    check_loggers(config)
    wandb.teardown()


@pytest.mark.parametrize(
    ("module", "extra", "config"),
    [
        ("tensorboard", "tensorboard", LoggersConfig(tensorboard=True)),
        ("wandb", "wandb", LoggersConfig(wandb_project="p")),
        ("mlflow", "mlflow", LoggersConfig(mlflow_uri="http://host:5000")),
        ("sqlalchemy", "mlflow", LoggersConfig(mlflow_uri="sqlite:////tmp/m.db")),
    ],
)
def test_missing_library_is_refused_with_its_cure(module, extra, config, monkeypatch):
    importlib.import_module("mlflow.tracking")  # it looks once which stores there are, and others use it later
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LoggerError, match=rf'pip install "s2l_ray\[{extra}\]"'):
        check_loggers(config)


def test_nothing_asked_for_nothing_done(tmp_path):
    check_loggers(LoggersConfig())
    log_some(LoggersConfig(), Storage.open(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_is_no_number_is_left_out_with_one_warning(tmp_path, caplog):
    with Loggers(LoggersConfig(tensorboard=True), Storage.open(tmp_path), "r", "s", {}) as open_loggers:
        for step in range(3):
            open_loggers.log(step, loss_nats=1.0, words="many")  # type: ignore[arg-type]
    assert [e.step for e in events(tmp_path / "tensorboard/s").Scalars("loss_nats")] == [0, 1, 2]
    assert caplog.text.count("words is a str") == 1


def test_a_logger_that_cannot_start_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way")
    log_some(LoggersConfig(tensorboard=True), Storage.open(tmp_path))
    assert caplog.text.count("TensorBoard fails") == 1


@pytest.mark.parametrize(
    ("fields", "cure"),
    [
        ({"mlflow_uri": "https://me:pass9876@host"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"mlflow_uri": "https://pass9876@host"}, "MLFLOW_TRACKING_TOKEN"),
        ({"mlflow_uri": "https://host?token=pass9876"}, "MLFLOW_TRACKING_TOKEN"),
        ({"mlflow_uri": "mysql://host/db"}, "give http://host:5000"),
        ({"mlflow_uri": "mlruns"}, "give http://host:5000"),
        ({"mlflow_experiment": "x"}, "set the URI or remove"),
        ({"wandb_project": "team/project"}, "set WANDB_ENTITY"),
        ({"wandb_project": ""}, "1 to 128 characters"),
    ],
)
def test_config_refuses_what_could_not_work(fields, cure):
    with pytest.raises(ValueError, match=cure) as caught:
        LoggersConfig(**fields)
    assert "pass9876" not in str(caught.value)
