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


@pytest.mark.thorough
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


_STOPPED = """
import os, signal, sys, threading, time
import ray
from s2l_ray.config.schema import ResourcesConfig
from s2l_ray.execution.session import ray_session
from s2l_ray.execution.signals import ending_signals

def stop():
    os.kill(os.getpid(), signal.SIGTERM)

with ending_signals() as signals:
    try:
        with ray_session(ResourcesConfig()):
            if sys.argv[1] == "while it ends":  # Ray's end takes a second, in which it waits for its processes
                disconnect = ray._private.worker.disconnect

                def then_stop(*arguments, **named):
                    disconnect(*arguments, **named)
                    threading.Timer(0.3, stop).start()

                ray._private.worker.disconnect = then_stop
        if sys.argv[1] == "after":
            stop()
        time.sleep(60)
    except KeyboardInterrupt:
        os._exit(signals.exit_code)
"""


@pytest.mark.parametrize("moment", [pytest.param("while it ends", marks=pytest.mark.slow), "after"])
def test_a_stop_is_heeded_when_ray_ends_and_thereafter(ray_cluster: None, moment: str):
    """While the report is drawn. Ray's shutdown leaves SIGTERM to the system without Python's knowledge."""
    environment = dict(os.environ)
    if moment == "while it ends":
        del environment["RAY_ADDRESS"]
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED, moment], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 143, done.stderr
