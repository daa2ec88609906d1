"""Joins a Ray cluster, or embeds a local one."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from s2l_ray.config.schema import ResourcesConfig
from s2l_ray.errors import EnvironmentFault, first_line
from s2l_ray.execution.auth import TokenError, explain_refusal, take_token_if_there
from s2l_ray.execution.local_ray import local_ray, shut_down
from s2l_ray.execution.placement import local_cores
from s2l_ray.execution.preemption import WATCHER_ENV
from s2l_ray.execution.signals import own_handlers_kept

_ANSWER_S = 5.0


class ClusterUnreachable(EnvironmentFault):
    """No Ray cluster answers at the address; nothing was started."""


class ClusterLost(EnvironmentFault, RuntimeError):
    """The cluster that this process was connected to is gone."""


@contextlib.contextmanager
def ray_session(resources: ResourcesConfig, dashboard: bool = False) -> Iterator[None]:
    """Connect to Ray for the block; an embedded Ray is shut down afterwards, an existing cluster keeps running.

    An embedded Ray counts two logical CPUs more than there are cores: Ray Data's short tasks must be able to run while
    the workers hold the cores, or the run would deadlock. `dashboard`: applies only to an embedded Ray.

    Raises:
        ClusterLost: replaces whatever error resulted from the loss.
    """
    _quiet_environment()
    import ray

    if ray.is_initialized():
        quiet_ray_data()
        with _loss_is_said():
            yield
        return
    with contextlib.ExitStack() as stack:
        with own_handlers_kept():
            if is_embedded(resources):
                os.environ.setdefault(WATCHER_ENV, "0")  # nothing to watch on one machine
                # Ray ends idle processes after a second; the next stage would wait while new ones import everything.
                os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
                stack.enter_context(local_ray(local_cores() + 2, dashboard))
            else:
                stack.callback(shut_down)
                _join(resources.ray_address or os.environ["RAY_ADDRESS"])
        quiet_ray_data()
        with _loss_is_said():
            yield


def _join(address: str) -> None:
    """Connect to a running cluster. Raises TokenError, ClusterUnreachable."""
    import ray

    has_token = take_token_if_there()
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:
        shut_down()
        if _is_refusal(error):
            raise TokenError(explain_refusal(f"the Ray cluster at {address}", has_token)) from error
        raise ClusterUnreachable(
            f"the Ray cluster at {address} (RAY_ADDRESS or resources.ray_address) cannot be joined: "
            f"{first_line(error)}. Check that it is up and that the address is its head's, HOST:6379, or unset it to "
            "run on this machine only"
        ) from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the error is a rejected token: Ray passes it on as such, or inside another error's text."""
    while error is not None:
        if type(error).__name__ == "AuthenticationError" or "AuthenticationError" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_embedded(resources: ResourcesConfig) -> bool:
    """Whether Ray is (or will be) started here just for this run."""
    address = resources.ray_address or os.environ.get("RAY_ADDRESS")
    return not address or address == "local"


def is_on_head() -> bool:
    """Whether this process runs on the head of the connected cluster."""
    import ray

    host = ray.get_runtime_context().gcs_address.rpartition(":")[0].strip("[]")
    return host in (ray.util.get_node_ip_address(), "127.0.0.1", "localhost", "::1")


@contextlib.contextmanager
def _loss_is_said() -> Iterator[None]:
    """Report the head's death as such: Ray does so in many ways (actor unavailable, task failed, call timed out)."""
    import ray

    address = ray.get_runtime_context().gcs_address
    try:
        yield
    except Exception as error:
        if head_answers(address):
            raise
        raise ClusterLost(
            f"the Ray cluster at {address} is gone: its head no longer answers ({type(error).__name__}). "
            "Completed work stays in the run's folder; start a cluster, and run the same command to resume"
        ) from error


def head_answers(address: str) -> bool:
    """Whether the cluster's head (`host:port` of its control store) can be reached."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def quiet_ray_data() -> None:
    """Apply the Ray Data settings that this project relies on, on the driver and on every worker that iterates."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # A block is what a task yields: one window, one group of parts. Split blocks would have to be joined again.
    context.target_max_block_size = None
    # A long silence is a hang; autoscalers need only minutes.
    context.execution_no_progress_timeout_s = 900
    # This package's errors arrive as exceptions with a message; Ray Data would print its own traceback first.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _quiet_environment() -> None:
    defaults = {
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # workers' prints would appear twice
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # After a failure, workers that wait for a lost one are ended in any case; Ray Train would wait 30 s.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
        "TOKENIZERS_PARALLELISM": "false",  # tokenizers fork-warns otherwise; tasks are the parallelism
        # Small actors without resources are meant to be many here. (Ray reads this when it is imported.)
        "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
