"""Jobs on a Ray cluster, through its dashboard: submit a job, follow its log, stop it."""

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

from s2l_ray.errors import EnvironmentFault, S2LError
from s2l_ray.execution.auth import TokenError, explain_refusal, take_token_if_there
from s2l_ray.execution.signals import STOPPED
from s2l_ray.submission.prepare import Submission, SubmitError
from s2l_ray.text.display import shorten
from s2l_ray.text.redact import redact_text

T = TypeVar("T")

_OUT_OF_REACH_S = 300.0
_CONNECT_S = 10.0
_ANSWER_S = 60.0
_SILENCE_S = 30.0
"""A log that stays silent this long is requested anew, then after ever longer silences up to _LONGEST_SILENCE_S."""
_LONGEST_SILENCE_S = 300.0
_STOPPING_S = 60.0
_POLL_S = 1.0
_PASSING = ("408", "425", "429", "502", "503", "504")
_NOT_UP_YET = "No available agent to submit job"


class JobError(EnvironmentFault, RuntimeError):
    """Error for a cluster that became unreachable, or did not start the job."""


class JobClient:
    """Client of one cluster.

    Args:
        address: of the cluster's dashboard, `http(s)://host:port`; None: from the environment.

    Raises:
        SubmitError: no dashboard answers at the address.
        TokenError: the cluster rejects this machine's token, or requires one.
    """

    def __init__(self, address: str | None) -> None:
        self.address = _address(address)
        self.printed = 0
        """Number of characters of the job's log that have been shown."""
        has_token = take_token_if_there()
        # For Ray's client, these variables take precedence over its argument.
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            try:
                self.client = connect(self.address)
            except Exception as error:
                if _is_refusal(error):
                    raise TokenError(explain_refusal(self.address, has_token)) from error
                raise SubmitError(
                    f"no dashboard of a Ray cluster answers at {self.address}: {one_line(error)}. Check that the "
                    "cluster is up and the tunnel is open (`ray dashboard`, `kubectl port-forward`)"
                ) from error

    def submit(self, submission: Submission) -> str:
        """Submit a job and return its name.

        Raises:
            SubmitError: the cluster refuses the job.
            JobError: the cluster became unreachable.
        """
        import ray

        there = getattr(self.client, "_server_ray_version", None) or ray.__version__
        if there != ray.__version__:
            submission.warnings.append(
                f"the cluster has Ray {there} and this machine {ray.__version__}; the job uses the cluster's version"
            )
        for warning in submission.warnings:
            _tell(f"warning: {warning}")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", submission.name)
        job = f"s2l-{name}-{secrets.token_hex(3)}"
        try:
            self._patiently(lambda: self._submit_once(submission, job), f"It is not known whether {job} was submitted")
        except (RuntimeError, ValueError) as error:
            if isinstance(error, S2LError):
                raise
            raise SubmitError(f"{self.address} did not accept the job: {one_line(error, 1500)}") from error
        return job

    def _submit_once(self, submission: Submission, job: str) -> None:
        """Submit the job, unless an earlier attempt whose answer was lost has succeeded."""
        if any(info.submission_id == job for info in self.client.list_jobs()):
            return
        self.client.submit_job(
            entrypoint=submission.entrypoint, runtime_env=dict(submission.runtime_env), submission_id=job
        )

    def say_submitted(self, job: str) -> int:
        """Print how to follow and stop the job on stderr, for people, and its name alone on stdout, for scripts."""
        _tell(f"submitted to {self.address}; follow it: {self._ray_job('logs --follow', job)}")
        _tell(f"stop it: {self._ray_job('stop', job)}; submit it again to resume")
        print(job)
        return 0

    def follow(self, job: str) -> int:
        """Show the log as it grows, and return the job's exit code. Ctrl-C and SIGTERM stop the job.

        Raises:
            JobError: the cluster was unreachable for five minutes, or never started the job.
            KeyboardInterrupt: after the job has stopped.
        """
        _tell(f"job {job} on {self.address}")
        try:
            info = self._until_it_ends(job)
        except KeyboardInterrupt:
            self._stop(job)
            raise
        except (RuntimeError, ValueError) as error:
            if isinstance(error, S2LError):
                raise
            raise JobError(
                f"{self.address} does not report the status of job {job}: {one_line(error)}. If the cluster's head was "
                "restarted, it has forgotten its jobs; submit the command again to resume"
            ) from error
        if info.status == "STOPPED":
            _tell(f"job {job} was stopped; submit it again to resume")
            return STOPPED
        if info.status == "SUCCEEDED":
            return 0
        code = info.driver_exit_code
        if code is None:
            raise JobError(f"the cluster did not run job {job}: {info.message}")
        # The code of a driver killed by a signal (out of memory, say) is negative; a shell reports 128 + signal.
        return int(code) if code > 0 else 128 - int(code)

    def _until_it_ends(self, job: str) -> Any:
        silence_s = _SILENCE_S
        while True:
            before = self.printed
            with contextlib.suppress(Exception):  # the connection broke; _patiently() reports it if that lasts
                asyncio.run(self._tail(job, silence_s))
            info = self._patiently(lambda: self.client.get_job_info(job), self._goes_on(job))
            if info.status.is_terminal():
                self._show_rest(job)
                return info
            # Each new connection sends the whole log again, so connect rarely while the job prints nothing.
            silence_s = _SILENCE_S if self.printed > before else min(2 * silence_s, _LONGEST_SILENCE_S)
            time.sleep(_POLL_S)

    async def _tail(self, job: str, silence_s: float) -> None:
        """Read the log from its beginning and show what has not been shown.

        Returns after `silence_s` without new text, because a connection that was cut silently looks like a silent job.
        """
        position = 0
        texts = self.client.tail_job_logs(job)
        try:
            while True:
                text = await asyncio.wait_for(anext(texts), silence_s)
                self._show(text, position)
                position += len(text)
        except StopAsyncIteration:
            return

    def _show_rest(self, job: str) -> None:
        with contextlib.suppress(Exception):
            self._show(self.client.get_job_logs(job), 0)

    def _show(self, text: str, position: int) -> None:
        new = text[max(0, self.printed - position) :]
        if new:
            self.printed = position + len(text)
            print(new, end="", flush=True)

    def _patiently(self, ask: Callable[[], T], otherwise: str) -> T:
        """Call `ask()`, repeating it for up to five minutes while the cluster does not answer.

        Raises:
            JobError: the cluster did not answer; `otherwise` completes the message with what is known about the job.
            TokenError: the cluster no longer accepts the token.
        """
        deadline = time.monotonic() + _OUT_OF_REACH_S
        told = False
        while True:
            try:
                answer = ask()
            except Exception as error:
                if not _passes(error):
                    if _is_refusal(error):
                        raise TokenError(explain_refusal(self.address, has_token=True)) from error
                    raise
                if time.monotonic() > deadline:
                    raise JobError(
                        f"{self.address} has been unreachable for {_OUT_OF_REACH_S:.0f} s ({one_line(error)}). "
                        f"{otherwise}"
                    ) from error
                if not told:
                    _tell(f"{self.address} is unreachable ({one_line(error)}); retrying for {_OUT_OF_REACH_S:.0f} s …")
                    told = True
                time.sleep(_POLL_S)
            else:
                if told:
                    _tell(f"{self.address} is reachable again")
                return answer

    def _goes_on(self, job: str) -> str:
        return f"Job {job} may still be running there; to check: {self._ray_job('status', job)}"

    def _stop(self, job: str) -> None:
        _tell(
            f"\nstopping job {job} … (press Ctrl-C again to leave without waiting; to stop it later: "
            f"{self._ray_job('stop', job)})"
        )
        self._patiently(lambda: self.client.stop_job(job), self._goes_on(job))
        deadline = time.monotonic() + _STOPPING_S
        while time.monotonic() < deadline:
            if self._patiently(lambda: self.client.get_job_info(job), self._goes_on(job)).status.is_terminal():
                self._show_rest(job)
                return
            time.sleep(0.2)
        _tell(f"job {job} has not ended within {_STOPPING_S:.0f} s; to check: {self._ray_job('status', job)}")

    def _ray_job(self, verb: str, job: str) -> str:
        return f"ray job {verb} {job} --address {self.address}"


def connect(address: str) -> Any:
    """Connect Ray's job client, with a limit on how long it waits for a socket that may have been cut silently."""
    from ray.job_submission import JobSubmissionClient

    # These loggers print lines for each upload and connection. (The modules set their own level when imported.)
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=(_CONNECT_S, _ANSWER_S), **options)

    return Client(address)


def _passes(error: Exception) -> bool:
    """Whether trying again may help: broken connections, proxies without a server behind them, a starting dashboard."""
    if _is_refusal(error):
        return False
    if isinstance(error, OSError):  # includes those of requests
        return True
    status = re.search(r"status code (\d+)", str(error))
    if status is None:
        return not isinstance(error, (ValueError, TypeError, AttributeError))
    # A dashboard answers 404 for a job that it does not know, a proxy for a server that is not up.
    unknown_page = status[1] == "404" and "does not exist" not in str(error)
    return status[1] in _PASSING or unknown_page or _NOT_UP_YET in str(error)


def _is_refusal(error: Exception) -> bool:
    return type(error).__name__ == "AuthenticationError"


def one_line(error: Exception, longest: int = 300) -> str:
    """Return the error's text in one line, for use within a sentence."""
    return shorten(redact_text(" ".join(str(error).split())).rstrip(".") or type(error).__name__, longest)


def _address(given: str | None) -> str:
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise SubmitError(
            "--address is missing, so there is no cluster to submit to; give the URL of its dashboard, for example "
            "http://127.0.0.1:8265"
        )
    if not address.startswith(("http://", "https://")):
        raise SubmitError(
            f"{address} is not the URL of a dashboard, so no job can be submitted there; give --address "
            "http://HOST:8265"
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
