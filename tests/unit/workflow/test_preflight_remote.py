"""What is checked of a run's folder before anything starts, where the folder is on S3."""

from __future__ import annotations

import pytest

from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.preflight import PreflightError, _refuse_folder_within_run, _refuse_others_config


def test_a_runs_own_configuration_is_told_from_others(s3_uri: str) -> None:
    run = Storage.open(s3_uri).sub("run")
    _refuse_others_config(run.uri)  # nothing is there yet
    run.write_bytes("config.yaml", b"database: mine")
    with pytest.raises(PreflightError, match=r"has a config\.yaml that no run has written"):
        _refuse_others_config(run.uri)
    run.write_bytes("locks/run.json", b"{}")
    _refuse_others_config(run.uri)
    with pytest.raises(PreflightError, match="would be inside another run's folder"):
        _refuse_folder_within_run(run.sub("stage").uri)


@pytest.mark.parametrize("path", ["run", "a/b/run", ""])
def test_a_folder_on_a_file_system_whose_paths_begin_with_a_slash_is_looked_at_to_its_root(path: str) -> None:
    """As on memory://, sftp:// and hdfs://; the search upwards did not end."""
    uri = f"memory://looked-at/{path}"
    _refuse_folder_within_run(uri)
    _refuse_others_config(uri)
    Storage.open("memory://looked-at").sub("a").write_bytes("config.yaml", b"name: x")
    Storage.open("memory://looked-at").sub("a").write_bytes("metrics.jsonl", b"")
    if path == "a/b/run":
        with pytest.raises(PreflightError, match="would be inside another run's folder"):
            _refuse_folder_within_run(uri)
    Storage.open("memory://looked-at").delete_dir("a")
