"""A real S3 server (moto's) in a separate process: `pytest_plugins = ("s2l_ray.testing.s3",)`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

S3_TEST_ENV = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Environment for every process that uses the server; pass it to subprocesses and as a Ray runtime env."""

_BUCKET = "s2l-test"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield `host:port` of a running server with one bucket, whose credentials are in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as output:
        for name, value in S3_TEST_ENV.items():
            patch.setenv(name, value)
        command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(port, server, log)
            address = f"127.0.0.1:{port}"
            s3 = fs.S3FileSystem(
                endpoint_override=address, scheme="http", region="us-east-1", allow_bucket_creation=True
            )
            s3.create_dir(_BUCKET)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=10)


@pytest.fixture
def s3_uri(s3_server: str) -> str:
    """Return a folder on the server that no other test uses."""
    return f"s3://{_BUCKET}/{uuid.uuid4().hex[:8]}/run?endpoint_override={s3_server}&scheme=http&region=us-east-1"


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        if server.poll() is not None:
            raise RuntimeError(f"moto_server ended with status {server.returncode}:\n{log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"moto_server did not answer on port {port} within 20 s:\n{log.read_text()}")
