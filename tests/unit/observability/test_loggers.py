"""Experiment loggers with the real libraries: what was logged is read back, and nothing that fails there ends a run."""

from __future__ import annotations

import logging
import math
import socket
import sqlite3
import time
from pathlib import Path

import pytest
from pyarrow import fs

from s2l_ray.config.loggers import LoggersConfig
from s2l_ray.observability import loggers
from s2l_ray.observability.loggers import LoggerError, Loggers, check_loggers
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import RetryPolicy
from tests.support.loggers import SETTINGS, assert_no_secret, events, log_some

pytestmark = pytest.mark.usefixtures("private")


def test_tensorboard_files_are_read_back(tmp_path):
    log_some(LoggersConfig(tensorboard=True), Storage.open(tmp_path / "run"))
    read = events(tmp_path / "run/tensorboard/target/s2l")
    assert [(e.step, e.value) for e in read.Scalars("loss_nats")] == [(1, 1), (2, 0.5), (4, 0.25)]
    assert math.isnan(read.Scalars("heldout/balanced/macro")[0].value)
    assert math.isinf(read.Scalars("bound")[0].value)
    assert read.Scalars("summary/best/loss_nats")[0].value == 0.25
    tags = read.Tags()
    assert "unmeasured" not in tags["scalars"]
    assert {"settings/text_summary", "summary/choice/text_summary", "summary/label/text_summary"} <= set(
        tags["tensors"]
    )
    assert b'"lr": 0.001' in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]
    assert_no_secret(tmp_path / "run")


def test_tensorboard_hides_what_a_resumed_run_logs_again(tmp_path):
    storage = Storage.open(tmp_path)
    log_some(LoggersConfig(tensorboard=True), storage, range(1, 8))
    log_some(LoggersConfig(tensorboard=True), storage, range(5, 10))
    assert [e.step for e in events(tmp_path / "tensorboard/target/s2l").Scalars("loss_nats")] == list(range(1, 10))


def test_tensorboard_on_an_object_store(tmp_path, s3_uri, monkeypatch):
    monkeypatch.setattr(loggers, "_FLUSH_EVERY_S", 0.2)
    storage = Storage.open(s3_uri)
    with Loggers(LoggersConfig(tensorboard=True), storage, "trial", "proxy", SETTINGS) as open_loggers:
        open_loggers.log(1, loss_nats=2.0)
        wait_until(lambda: storage.list("tensorboard/proxy"))  # before the end: a dead driver leaves its curves
        open_loggers.log(2, loss_nats=1.0)
    [entry] = storage.list("tensorboard/proxy")
    local = tmp_path / entry.name
    local.parent.mkdir(parents=True)
    local.write_bytes(storage.read_bytes(entry.name))
    assert [e.step for e in events(local.parent).Scalars("loss_nats")] == [1, 2]
    assert_no_secret(local.parent)


def test_a_bucket_that_vanishes_leaves_the_files_here(tmp_path, s3_server, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    s3 = fs.S3FileSystem(endpoint_override=s3_server, scheme="http", region="us-east-1", allow_bucket_creation=True,
                         allow_bucket_deletion=True)  # fmt: skip
    s3.create_dir("vanishing")
    uri = f"s3://vanishing/run?endpoint_override={s3_server}&scheme=http&region=us-east-1"
    with Loggers(
        LoggersConfig(tensorboard=True), Storage.open(uri, RetryPolicy(tries=1)), "r", "s", {}
    ) as open_loggers:
        wait_until(lambda: open_loggers._workers[0]._is_open)
        s3.delete_dir("vanishing")
        open_loggers.log(1, loss_nats=2.0)
    [kept] = tmp_path.glob("s2l-loggers-*")
    assert str(kept) in caplog.text
    assert events(kept).Scalars("loss_nats")[0].value == 2.0


def mlflow_run(uri: str):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("s2l_ray")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    return client, run


@pytest.fixture(scope="module")
def empty_sqlite(tmp_path_factory) -> Path:
    """MLflow takes seconds to make its tables: once is enough."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def sqlite_uri(empty_sqlite, tmp_path) -> str:
    (tmp_path / "m.db").write_bytes(empty_sqlite.read_bytes())
    return f"sqlite:///{tmp_path}/m.db"


@pytest.mark.thorough
def test_mlflow_is_read_back_and_resumed(tmp_path, sqlite_uri):
    config, storage = LoggersConfig(mlflow_uri=sqlite_uri), Storage.open(tmp_path / "run")
    log_some(config, storage)
    client, run = mlflow_run(sqlite_uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "trial/target/s2l"
    assert run.data.params["train.lr"] == "0.001"
    assert run.data.params["hf_token"] == "</s>"
    assert math.isnan(run.data.metrics["heldout/balanced/macro"])
    assert run.data.metrics["summary/best/loss_nats"] == 0.25
    assert run.data.tags["summary/choice"] == "s2l"

    with Loggers(config, storage, "trial", "target/s2l", {**SETTINGS, "model": "other", "new": 1}) as again:
        again.log(5, loss_nats=0.1, **{"odd (name)//../x": 1.0})
    client, run = mlflow_run(sqlite_uri)  # one run only
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss_nats")] == [1, 2, 4, 5]
    assert (run.data.params["model"], run.data.params["new"], run.data.tags["changed.model"]) == ("m", "1", "other")
    assert "odd _name_/x" in run.data.metrics
    assert_no_secret(tmp_path)


def test_mlflow_file_store_only_where_mlflow_allows_it(tmp_path, monkeypatch):
    config = LoggersConfig(mlflow_uri=f"file:{tmp_path}/mlruns")
    with pytest.raises(LoggerError, match=r"sqlite:.*MLFLOW_ALLOW_FILE_STORE=true"):
        check_loggers(config)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_loggers(config)
    log_some(config, Storage.open(tmp_path / "run"))
    client, run = mlflow_run(config.mlflow_uri or "")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss_nats")] == [1, 2, 4]
    assert_no_secret(tmp_path)


@pytest.mark.thorough
def test_an_exception_marks_the_mlflow_run_failed_and_folders_do_not_share_one(tmp_path, sqlite_uri):
    config = LoggersConfig(mlflow_uri=sqlite_uri)
    with pytest.raises(ZeroDivisionError), Loggers(config, Storage.open(tmp_path / "run"), "r", "s", {}):
        raise ZeroDivisionError
    assert mlflow_run(sqlite_uri)[1].info.status == "FAILED"
    (tmp_path / "run/loggers.json").unlink()  # the folder was deleted, and another run is made in its place
    Loggers(config, Storage.open(tmp_path / "run"), "r", "s", {}).close()
    with pytest.raises(ValueError, match="too many values"):
        mlflow_run(sqlite_uri)


def test_a_store_that_breaks_in_the_middle_is_warned_of_once(tmp_path, sqlite_uri, caplog):
    config = LoggersConfig(mlflow_uri=sqlite_uri, tensorboard=True)
    with Loggers(config, Storage.open(tmp_path / "run"), "r", "s", {}) as open_loggers:
        open_loggers.log(1, loss_nats=1.0)
        with sqlite3.connect(tmp_path / "m.db", timeout=60) as database:
            wait_until(lambda: database.execute("SELECT * FROM metrics").fetchall())
            database.execute("DROP TABLE metrics")
        for step in range(2, 5):
            open_loggers.log(step, loss_nats=1.0)
            time.sleep(0.05)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "MLflow fails" in r.message]
    assert len(warnings) == 1
    assert "the run continues" in warnings[0]
    assert len(events(tmp_path / "run/tensorboard/s").Scalars("loss_nats")) == 4  # the other logger is not touched


@pytest.mark.thorough
def test_a_server_that_does_not_answer_holds_nobody_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loggers, "_CLOSE_WAIT_S", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = LoggersConfig(mlflow_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        check_loggers(config)
        started_s = time.monotonic()
        with Loggers(config, Storage.open(tmp_path), "r", "s", {}) as open_loggers:
            for step in range(20_000):
                open_loggers.log(step, loss_nats=1.0)
        assert time.monotonic() - started_s < 60
    assert "did not take the last figures" in caplog.text


def wait_until(ready) -> None:
    deadline_s = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
