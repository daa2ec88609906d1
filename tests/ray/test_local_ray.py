"""An embedded Ray listens on the loopback interface only, and answers nobody without its own token."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from s2l_ray.execution import local_ray as module
from s2l_ray.execution.local_ray import TempFolderError, local_ray
from s2l_ray.testing.ray_head import kill_family
from tests.support.paths import ROOT

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")

DRIVER = """
import json, os, sys
import ray
from s2l_ray.execution.local_ray import local_ray
with local_ray(num_cpus=3, dashboard=True):
    import ray.data, ray.train, ray.train.torch, torch.distributed
    from ray.util.state import list_actors

    def loop():
        import time
        assert torch.distributed.get_world_size() == 2
        t = torch.ones(1)
        torch.distributed.all_reduce(t)
        assert t.item() == 2
        while not os.path.exists(sys_argv_go):
            time.sleep(0.1)
        ray.train.report({"done": 1})

    sys_argv_go = sys.argv[1]
    assert ray.data.range(100).map_batches(lambda b: b).count() == 100
    @ray.remote
    class Watched:
        def found(self):
            return [a.state for a in list_actors() if a.class_name == "Watched"]
    watched = Watched.remote()
    assert ray.get(watched.found.remote()) == ["ALIVE"], "the State API, from a worker"
    gcs = ray.get_runtime_context().gcs_address
    found = [a.state for a in list_actors(address=gcs) if a.class_name == "Watched"]
    assert found == ["ALIVE"], "and from the driver, which has to say which of the machine's clusters it means"
    print(json.dumps({"gcs": gcs, "dashboard": ray._private.worker.global_worker.node.webui_url}), flush=True)
    ray.train.torch.TorchTrainer(loop, scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name="x", storage_path=sys.argv[2])).fit()
print("ended", {k: v for k, v in os.environ.items() if k.startswith("RAY_AUTH")}, flush=True)
"""
STRANGER = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print("in:", ray.cluster_resources())
except BaseException as error:
    print("out:", type(error).__name__)
"""
RETRIED = """
import logging, socket, sys
from s2l_ray.execution import local_ray as module
logging.basicConfig(stream=sys.stdout, format="told: %(message)s", level="WARNING")
taken = socket.socket()
taken.bind(("0.0.0.0", 0))
free, tried = module._free_port, []
def ports():
    tried.append(1)
    return taken.getsockname()[1] if len(tried) <= int(sys.argv[1]) else free()
module._free_port, module._TRIES = ports, 2
try:
    with module.local_ray(num_cpus=1, dashboard=False):
        import ray
        print("up:", ray.cluster_resources()["CPU"])
except module.LocalRayError as error:
    print("error:", error)
import psutil
print("left:", psutil.wait_procs(psutil.Process().children(recursive=True), timeout=60)[1])
"""

TIDY = """
import os
import ray  # which sets RAY_CLIENT_MODE when it is imported
from s2l_ray.execution.auth import own_token

before = dict(os.environ)
with own_token():
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ
assert dict(os.environ) == before
"""


class Embedded:
    """A process with a Ray of its own in the middle of a training of two workers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "tmp").mkdir()
        self.go, self.home = folder / "go", folder / "home"
        self.home.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "GLOO", "NCCL", "TP_"))}
        self.environment = kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.home), "RAY_AUTH_TOKEN": "the user's own"}
        self.tokens_before = tokens()
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.go), str(folder)], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=(folder / "stderr").open("w"),
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, (folder / "stderr").read_text()[-3000:]
        self.addresses: dict[str, str] = json.loads(first)
        self.family = psutil.Process(self.process.pid)

    def listening(self) -> dict[str, tuple[str, int]]:
        found = {}
        for process in [self.family, *self.family.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                for each in process.net_connections(kind="inet"):
                    if each.status == psutil.CONN_LISTEN:
                        found[f"{process.name()} {each.laddr.ip}:{each.laddr.port}"] = (each.laddr.ip, each.laddr.port)
        return found

    def end(self) -> str:
        self.go.write_text("")
        return self.process.communicate(timeout=300)[0]

    def kill(self) -> None:
        kill_family(self.family)
        self.process.communicate()


def tokens() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("s2l-ray-token-*"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    one = Embedded(tmp_path_factory.mktemp("embedded") / "one")
    yield one
    one.kill()


def in_training(one: Embedded) -> None:
    deadline = time.monotonic() + 400
    while sum("TrainWorker" in command_line(p) for p in one.family.children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(5)


def command_line(process: psutil.Process) -> str:
    """Nothing for a process that has ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.thorough
def test_all_ports_are_the_loopbacks(embedded: Embedded) -> None:
    in_training(embedded)
    listening = embedded.listening()
    deadline = time.monotonic() + 200  # a busy machine: the processes are there, their servers not yet
    while not any("RayTrainWorker" in name for name in listening) and time.monotonic() < deadline:
        time.sleep(1)
        listening = embedded.listening()
    assert any("gcs_server" in name for name in listening)
    assert any("raylet" in name for name in listening)
    assert any("Dashboard" in name for name in listening)
    assert any("RayTrainWorker" in name for name in listening)
    elsewhere = [name for name, (ip, _) in listening.items() if ip not in LOOPBACK]
    # torch.distributed's store for the rendezvous listens everywhere; neither torch nor Ray Train has a switch for it.
    assert [name for name in elsewhere if "RayTrainWorker" not in name] == []
    assert len(elsewhere) <= 1


@pytest.mark.thorough
def test_a_stranger_is_refused(embedded: Embedded, tmp_path: Path) -> None:
    for path in ("/api/version", "/api/jobs/", "/api/v0/actors", "/nodes?view=summary"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{embedded.addresses['dashboard']}{path}", timeout=60)
        assert refused.value.code in (401, 403), path
    for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}):
        environment = {k: v for k, v in embedded.environment.items() if k != "RAY_AUTH_TOKEN"} | mode
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, embedded.addresses["gcs"]],
            env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert "in:" not in done.stdout, done.stdout
    for name, (ip, port) in embedded.listening().items():  # a task, an object, a lease: all of Ray's own servers
        if name.startswith(("raylet", "gcs_server", "ray::")):
            assert not answers_without_token(ip, port), name


def answers_without_token(ip: str, port: int) -> bool:
    """Whether a gRPC server there takes a call of nobody."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in (
            "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
            "/ray.rpc.NodeManagerService/GetNodeStats",
            "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
            "/ray.rpc.ReporterService/GetTraceback",
        ):
            try:
                channel.unary_unary(method)(b"", timeout=20)
                return True
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                    continue
                if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return True
    return False


@pytest.mark.thorough
def test_nobody_sees_the_token(embedded: Embedded) -> None:
    (folder,) = tokens() - embedded.tokens_before
    token = (folder / "token").read_text()
    assert len(token) == 64
    assert (folder.stat().st_mode & 0o777, (folder / "token").stat().st_mode & 0o777) == (0o700, 0o600)
    for process in [embedded.family, *embedded.family.children(recursive=True)]:
        assert token not in command_line(process)
        with contextlib.suppress(psutil.Error):
            assert token not in str(process.environ())
    logs = Path("/tmp/ray")
    session = max(logs.glob(f"session_*_{embedded.process.pid}"), key=os.path.getmtime)
    files = [path for path in session.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not (embedded.home / ".ray").exists(), "the user's home is as it was"


@pytest.mark.slow
def test_two_at_once_and_one_that_is_killed(embedded: Embedded, tmp_path: Path) -> None:
    other = Embedded(tmp_path / "other")
    try:
        assert other.addresses != embedded.addresses
        in_training(other)
        mine = tokens() - other.tokens_before
        assert len(mine) == 1
    finally:
        os.kill(other.process.pid, signal.SIGKILL)
        other.kill()
    assert tokens() >= mine, "nobody could tidy up"
    subprocess.run([sys.executable, "-c", TIDY], env=other.environment, check=True, timeout=100)
    assert not tokens() & mine, "the next one does"
    assert "ended {'RAY_AUTH_TOKEN': \"the user's own\"}" in embedded.end()
    assert not tokens() - embedded.tokens_before


def test_a_folder_that_is_too_long_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    with pytest.raises(TempFolderError, match=r"TMPDIR=.*is too long.*107.*RAY_TMPDIR=/tmp"), local_ray(1, False):
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nothing")
    with pytest.raises(TempFolderError, match=r"RAY_TMPDIR=/proc/nothing.*may write"), local_ray(1, False):
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    module.check_temp_folder()


def test_no_socket_of_rays_has_a_longer_path_than_is_reckoned_with() -> None:
    from ray.dashboard.subprocesses.module import SubprocessModule
    from ray.dashboard.subprocesses.utils import get_socket_path
    from ray.dashboard.utils import get_all_modules

    folder = module._SOCKET_PATH.rpartition("/")[0]
    paths = [get_socket_path(folder, head.__name__) for head in get_all_modules(SubprocessModule)]
    assert len(paths) > 5
    assert max(map(len, [*paths, f"{folder}/plasma_store.10"])) == len(module._SOCKET_PATH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "end"), [(1, "up: 1.0"), (2, "error: Ray did not start on this machine in 2 attempts")]
)
def test_a_start_that_fails_is_tried_again_then_explained(failures: int, end: str) -> None:
    """Its port is taken between the moment that it was found free and its use."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RETRIED, str(failures)], env=environment, capture_output=True, text=True, timeout=500
    )
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("told: Ray did not start (attempt 1 of 2)")]) == 1, (
        done.stdout
    )
    assert any(line.startswith(end) for line in lines), done.stdout + done.stderr
    assert lines[-1] == "left: []"


def test_the_port_of_the_dashboards_agent_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system chose it once, and no Ray started."""
    from ray._private import ray_constants

    chosen = iter([ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT] * 2 + [40_000])

    class Probe(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", next(chosen)

    monkeypatch.setattr(module.socket, "socket", Probe)
    assert module._free_port() == 40_000
    assert not list(chosen)


def test_the_environment_is_as_before() -> None:
    """In a process of its own: Ray caches the token, and this process may be the driver of the session's Ray."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine"}
    subprocess.run([sys.executable, "-c", TIDY], env=environment, check=True, timeout=100)
