"""A Ray of one's own on a machine where others come and go."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

_NEWER = (
    "import sys\nfrom s2l_ray.execution.local_ray import local_ray\nwith local_ray(num_cpus=1, dashboard=True):\n"
    "    print('up', flush=True); sys.stdin.read()"
)


@pytest.mark.timeout(180)
def test_its_processes_ask_their_own_cluster_while_a_newer_one_runs(ray_cluster: None):
    """As Ray Train's watchers do: they take a training's workers away when nobody knows its controller."""

    class Watched:
        def me(self) -> str:
            return ray.get_runtime_context().get_actor_id()

    @ray.remote(num_cpus=0)
    def state_of(actor_id: str) -> str | None:
        from ray.util.state import get_actor

        found = get_actor(actor_id, timeout=30)
        return found and found.state

    watched = ray.remote(num_cpus=0)(Watched).remote()
    actor_id = ray.get(watched.me.remote())
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    newer = subprocess.Popen(
        [sys.executable, "-c", _NEWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert newer.stdout is not None
        assert newer.stdout.readline() == "up\n"
        assert ray.get(state_of.remote(actor_id)) == "ALIVE"
    finally:
        newer.communicate()
        ray.kill(watched)


_STOPPED_AFTER_RAY = """
import os, signal, sys, time
from s2l_ray.config.schema import ResourcesConfig
from s2l_ray.execution.session import ray_session
from s2l_ray.execution.signals import ending_signals

with ending_signals() as signals:
    with ray_session(ResourcesConfig()):
        pass
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(signals.exit_code)
"""


@pytest.mark.parametrize("embedded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stop_after_rays_end_is_heeded(ray_cluster: None, embedded: bool):
    """While the report is drawn. Ray's shutdown takes the handler of SIGTERM away without Python's knowledge."""
    environment = {name: value for name, value in os.environ.items() if not (embedded and name == "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_AFTER_RAY], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 143, done.stderr
