"""A job on a Ray cluster, through its dashboard: submit, follow the log, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from s2l_ray.cluster.signals import STOPPED
from s2l_ray.cluster.submit import Submission, SubmitError
from s2l_ray.errors import EnvironmentFault

T = TypeVar("T")

_OUT_OF_REACH_S = 300.0
_STOPPING_S = 60.0
_POLL_S = 1.0


class JobError(EnvironmentFault, RuntimeError):
    """The cluster went out of reach, or did not start the job."""


class JobClient:
    """One cluster.

    Args:
        address: its dashboard, `http(s)://host:port`; None: from the environment.

    Raises:
        SubmitError: nobody answers there.
    """

    def __init__(self, address: str | None) -> None:
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # lines for each upload
        self.address = _address(address)
        self.printed = 0
        """Characters of the job's log that were shown already."""
        # Ray's client lets these variables win over its argument.
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            try:
                self.client = JobSubmissionClient(self.address)
            except Exception as error:
                raise SubmitError(
                    f"{self.address} does not answer as the dashboard of a Ray cluster: {error} Is it up, is the "
                    "tunnel open (`ray dashboard`, `kubectl port-forward`), does it want a token (RAY_AUTH_MODE=token)?"
                ) from error

    def submit(self, submission: Submission) -> str:
        """The job's name. Raises SubmitError if the cluster refuses it."""
        import ray

        there = getattr(self.client, "_server_ray_version", None) or ray.__version__
        if there != ray.__version__:
            submission.warnings.append(
                f"the cluster has Ray {there}, this machine {ray.__version__}; s2l_ray runs there on what is there"
            )
        for warning in submission.warnings:
            _tell(f"warning: {warning}")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", submission.name)
        try:
            return self.client.submit_job(
                entrypoint=submission.entrypoint,
                runtime_env=submission.runtime_env,
                submission_id=f"s2l-{name}-{secrets.token_hex(3)}",
            )
        except (RuntimeError, ValueError) as error:
            raise SubmitError(f"{self.address} did not take the job: {error}") from error

    def say_submitted(self, job: str) -> int:
        """For people on stderr, for scripts the name alone on stdout."""
        _tell(f"submitted to {self.address}; follow it: {self._ray_job('logs --follow', job)}")
        _tell(f"stop it: {self._ray_job('stop', job)}; submitted again, it goes on from there")
        print(job)
        return 0

    def follow(self, job: str) -> int:
        """Show the log as it grows; the job's exit code. Ctrl-C and SIGTERM stop the job.

        Raises:
            JobError: out of reach for five minutes, or never started.
            KeyboardInterrupt: after the job has stopped.
        """
        _tell(f"job {job} on {self.address}")
        try:
            info = self._until_it_ends(job)
        except KeyboardInterrupt:
            self._stop(job)
            raise
        if info.status == "STOPPED":
            _tell(f"the job {job} was stopped; submitted again, it goes on from there")
            return STOPPED
        if info.status == "SUCCEEDED":
            return 0
        code = info.driver_exit_code
        if code is None:
            raise JobError(f"the cluster did not run the job {job}: {info.message}")
        # A driver that a signal killed (out of memory, say) has a negative one; a shell says 128 + signal.
        return int(code) if code > 0 else 128 - int(code)

    def _until_it_ends(self, job: str) -> Any:
        while True:
            with contextlib.suppress(RuntimeError, OSError):  # the connection broke; _patiently() says if it stays so
                asyncio.run(self._tail(job))
            info = self._patiently(job, lambda: self.client.get_job_info(job))
            if info.status.is_terminal():
                self._show_rest(job)
                return info
            time.sleep(_POLL_S)

    async def _tail(self, job: str) -> None:
        """The log, from its beginning whenever this is called; shows what was not shown yet."""
        position = 0
        async for text in self.client.tail_job_logs(job):
            self._show(text, position)
            position += len(text)

    def _show_rest(self, job: str) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            self._show(self.client.get_job_logs(job), 0)

    def _show(self, text: str, position: int) -> None:
        new = text[max(0, self.printed - position) :]
        if new:
            self.printed = position + len(text)
            print(new, end="", flush=True)

    def _patiently(self, job: str, ask: Callable[[], T]) -> T:
        deadline = time.monotonic() + _OUT_OF_REACH_S
        while True:
            try:
                return ask()
            except (RuntimeError, OSError) as error:
                if time.monotonic() > deadline:
                    raise JobError(
                        f"{self.address} has been out of reach for {_OUT_OF_REACH_S:.0f} s ({error}). The job {job} "
                        f"may go on there: {self._ray_job('status', job)}"
                    ) from error
                time.sleep(_POLL_S)

    def _stop(self, job: str) -> None:
        _tell(f"\nstopping the job {job} … (once more Ctrl-C leaves it to itself: {self._ray_job('stop', job)})")
        self.client.stop_job(job)
        deadline = time.monotonic() + _STOPPING_S
        while time.monotonic() < deadline:
            if self.client.get_job_info(job).status.is_terminal():
                self._show_rest(job)
                return
            time.sleep(0.2)
        _tell(f"it has not ended within {_STOPPING_S:.0f} s: {self._ray_job('status', job)}")

    def _ray_job(self, verb: str, job: str) -> str:
        return f"ray job {verb} {job} --address {self.address}"


def _address(given: str | None) -> str:
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise SubmitError("--address is missing: the URL of the cluster's dashboard, for example http://127.0.0.1:8265")
    if not address.startswith(("http://", "https://")):
        raise SubmitError(
            f"{address} is not the URL of a dashboard, where jobs are submitted; give --address http://HOST:8265"
        )
    return address.rstrip("/")


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
