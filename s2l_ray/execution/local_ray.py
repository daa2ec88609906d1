"""A Ray on this machine for this process alone, which nobody else reaches."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from s2l_ray.errors import EnvironmentFault, UserError, first_line
from s2l_ray.execution.auth import environment, own_token
from s2l_ray.execution.signals import dispositions_put_back

_TRIES = 4
_DASHBOARD_START_S = 300
"""Ray's own patience is 60 s, too little on a busy machine; without the dashboard's process nothing starts."""
_LONGEST_SOCKET_PATH = 107 if platform.system() == "Linux" else 103
_SOCKET_PATH = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/dash_TaskEventsHead"
"""The longest of Ray's socket paths, below the folder for temporary files."""

_LOOPBACK = "127.0.0.1"
_LOOPBACK_INTERFACE = "lo" if platform.system() == "Linux" else "lo0"


class LocalRayError(EnvironmentFault, RuntimeError):
    """Ray does not start on this machine; the message says why, as far as it can be known."""


class TempFolderError(UserError):
    """Ray cannot keep its sockets where temporary files go; nothing was started."""


@contextlib.contextmanager
def local_ray(num_cpus: int, dashboard: bool) -> Iterator[None]:
    """Inside the block this process is the driver of its own Ray, whatever others run here; afterwards it is gone.

    All of Ray's processes listen on the loopback interface, and answer only who has the token of this Ray alone.

    Raises:
        TempFolderError: the paths of its sockets would be too long.
        LocalRayError: it does not start, and did not when tried again.
    """
    check_temp_folder()
    with own_token(), environment(_environment()), _ray_constants():
        try:
            _start(num_cpus, dashboard)
            yield
        finally:
            shut_down()


def shut_down() -> None:
    """Disconnect this process from Ray, and end what `ray.init` started here; signals are heeded all the while."""
    import ray

    with dispositions_put_back():
        ray.shutdown()


def _environment() -> dict[str, str | None]:
    return {
        # Ray's switch for machines that are no clusters, made for macOS: a node's address is the loopback's, and each
        # of its processes binds to that alone. (`_node_ip_address="127.0.0.1"` would be resolved to a reachable one.)
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Patience with Ray's own processes on a busy machine.
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_raylet_start_wait_time_s": "300",
        # torch.distributed's connections between workers.
        "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        "TP_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
    }


@contextlib.contextmanager
def _ray_constants() -> Iterator[None]:
    """What Ray reads from the environment only when it is imported, and this process may have imported it long ago."""
    from ray._private import ray_constants

    ours = {"ENABLE_RAY_CLUSTER": False, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": _DASHBOARD_START_S}
    before = {name: getattr(ray_constants, name) for name in ours}
    for name, value in ours.items():
        setattr(ray_constants, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


def _start(num_cpus: int, dashboard: bool) -> None:
    """Its processes find their own cluster in RAY_ADDRESS. Without, Ray Train's watchers would ask the machine's latest
    one whether their controller lives, hear that nobody knows it, and take its workers away (Ray 2.60).
    """
    import ray

    for attempt in range(1, _TRIES + 1):
        port = _free_port()
        before = _children()
        try:
            with environment({"RAY_ADDRESS": f"{_LOOPBACK}:{port}", "RAY_GCS_SERVER_PORT": str(port)}):
                # "local": a bare ray.init() would join whatever cluster runs on this machine.
                ray.init(
                    address="local", num_cpus=num_cpus, include_dashboard=dashboard, dashboard_host=_LOOPBACK,
                    logging_level="ERROR", log_to_driver=False,
                )  # fmt: skip
            return
        except BaseException as error:
            shut_down()
            _kill(_children() - before)  # of a node that has not come up Ray leaves processes behind
            if not isinstance(error, Exception) or _is_ours_to_tell(error):
                raise
            if attempt == _TRIES:
                raise LocalRayError(
                    f"Ray did not start on this machine in {_TRIES} tries ({first_line(error)}). It gives its own "
                    "processes about 30 s: too few where the processors or the disk are overloaded, or memory is "
                    f"short. Its logs are in {_temp_folder() / 'ray/session_latest/logs'}. Try again when the machine "
                    "is less busy, or set RAY_ADDRESS to a cluster that runs"
                ) from error
            logging.getLogger(__name__).warning(
                "Ray did not start (try %d of %d): %s", attempt, _TRIES, first_line(error)
            )


def _is_ours_to_tell(error: Exception) -> bool:
    """Starting again would end the same way."""
    return isinstance(error, (ValueError, TypeError, ImportError, PermissionError)) or (
        isinstance(error, OSError) and error.errno is not None
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _temp_folder() -> Path:
    from ray._common.utils import get_default_system_temp_dir

    return Path(get_default_system_temp_dir()).absolute()


def check_temp_folder() -> None:
    """Refuse, before Ray is started, a folder for temporary files in which it could not.

    Raises:
        TempFolderError: the paths of its sockets would be too long, or this user may not write there.
    """
    folder = _temp_folder()
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    length = len(os.fsencode(folder / _SOCKET_PATH.format(pid=os.getpid())))
    if length > _LONGEST_SOCKET_PATH:
        raise TempFolderError(
            f"{name}={folder} is too long: paths of Ray's sockets below it would have {length} bytes, and the system "
            f"allows {_LONGEST_SOCKET_PATH}. Set RAY_TMPDIR to a shorter folder that this user may write, for example "
            "RAY_TMPDIR=/tmp"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise TempFolderError(
            f"{name}={folder}, where Ray keeps its sockets and logs, is not a folder that this user may write; set "
            "RAY_TMPDIR to one that is, for example RAY_TMPDIR=/tmp"
        )


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _kill(processes: set[Any]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)
