"""A private Ray on this machine, for this process only."""

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
"""Ray's own timeout of 60 s is too short on a busy machine; without the dashboard's process nothing starts."""
_LONGEST_SOCKET_PATH = 107 if platform.system() == "Linux" else 103
_SOCKET_PATH = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/dash_TaskEventsHead"
"""The longest of Ray's socket paths, relative to the folder for temporary files."""

_LOOPBACK = "127.0.0.1"
_LOOPBACK_INTERFACE = "lo" if platform.system() == "Linux" else "lo0"


class LocalRayError(EnvironmentFault, RuntimeError):
    """Ray does not start on this machine; the message says why, as far as is known."""


class TempFolderError(UserError):
    """Ray cannot create its sockets in the folder for temporary files; nothing was started."""


@contextlib.contextmanager
def local_ray(num_cpus: int, dashboard: bool) -> Iterator[None]:
    """Start a private Ray for the block, with this process as its driver, whatever else runs on this machine.

    All of Ray's processes listen only on the loopback interface and require this Ray's own token.

    Raises:
        TempFolderError: the paths of its sockets would be too long.
        LocalRayError: it did not start, even when tried again.
    """
    check_temp_folder()
    with own_token(), environment(_environment()), _ray_constants():
        try:
            _start(num_cpus, dashboard)
            yield
        finally:
            shut_down()


def shut_down() -> None:
    """Disconnect this process from Ray and end what `ray.init` started here; signals still work meanwhile."""
    import ray

    with dispositions_put_back():
        ray.shutdown()


def _environment() -> dict[str, str | None]:
    return {
        # Ray's switch for single machines, made for macOS: the node's address is the loopback address, and all of its
        # processes bind only to that. (`_node_ip_address="127.0.0.1"` would be resolved to a reachable address.)
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Longer timeouts for Ray's own processes on a busy machine.
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_raylet_start_wait_time_s": "300",
        # torch.distributed's connections between workers.
        "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        "TP_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
    }


@contextlib.contextmanager
def _ray_constants() -> Iterator[None]:
    """Set constants that Ray reads from the environment only on import, which may have happened long ago."""
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
    """Start Ray, with its address in RAY_ADDRESS. Without it, Ray Train's watchers would ask the machine's most recent
    cluster whether their controller is alive, get no for an answer, and remove its workers (Ray 2.60).
    """
    import ray

    for attempt in range(1, _TRIES + 1):
        port = _free_port()
        before = _children()
        try:
            with environment({"RAY_ADDRESS": f"{_LOOPBACK}:{port}", "RAY_GCS_SERVER_PORT": str(port)}):
                # "local": a plain ray.init() would join any cluster that runs on this machine.
                ray.init(
                    address="local", num_cpus=num_cpus, include_dashboard=dashboard, dashboard_host=_LOOPBACK,
                    logging_level="ERROR", log_to_driver=False,
                )  # fmt: skip
            return
        except BaseException as error:
            shut_down()
            _kill(_children() - before)  # Ray leaves the processes of a failed start behind
            if not isinstance(error, Exception) or _is_ours_to_tell(error):
                raise
            if attempt == _TRIES:
                raise LocalRayError(
                    f"Ray did not start on this machine in {_TRIES} attempts ({first_line(error)}). It gives its "
                    "processes about 30 s, which is too short if CPUs or disk are overloaded or memory is low. Logs "
                    f"are in {_temp_folder() / 'ray/session_latest/logs'}. Try again when the machine is less busy, or "
                    "set RAY_ADDRESS to a running cluster"
                ) from error
            logging.getLogger(__name__).warning(
                "Ray did not start (attempt %d of %d): %s", attempt, _TRIES, first_line(error)
            )


def _is_ours_to_tell(error: Exception) -> bool:
    """Whether the error is ours to report because another attempt would fail the same way."""
    return isinstance(error, (ValueError, TypeError, ImportError, PermissionError)) or (
        isinstance(error, OSError) and error.errno is not None
    )


def _free_port() -> int:
    """Return a free port. Not the one that Ray gives the dashboard's agent: it lies in the range from which the system
    chooses, and Ray refuses to use one port twice.
    """
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT as AGENT

    port = AGENT
    while port == AGENT:
        with socket.socket() as probe:
            probe.bind((_LOOPBACK, 0))
            port = probe.getsockname()[1]
    return port


def _temp_folder() -> Path:
    from ray._common.utils import get_default_system_temp_dir

    return Path(get_default_system_temp_dir()).absolute()


def check_temp_folder() -> None:
    """Refuse a folder for temporary files in which Ray could not start.

    Raises:
        TempFolderError: the paths of its sockets would be too long, or this user may not write there.
    """
    folder = _temp_folder()
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    length = len(os.fsencode(folder / _SOCKET_PATH.format(pid=os.getpid())))
    if length > _LONGEST_SOCKET_PATH:
        raise TempFolderError(
            f"{name}={folder} is too long: the paths of Ray's sockets in it would have {length} bytes, but the system "
            f"allows {_LONGEST_SOCKET_PATH}, so Ray could not start. Set RAY_TMPDIR to a folder with a shorter path to "
            "which this user may write, for example RAY_TMPDIR=/tmp"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise TempFolderError(
            f"{name}={folder}, where Ray keeps its sockets and logs, is not a folder that this user may write to; set "
            "RAY_TMPDIR to one that is, for example RAY_TMPDIR=/tmp"
        )


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _kill(processes: set[Any]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)
