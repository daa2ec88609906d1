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
"""A job's log that says nothing for so long is asked for anew, and then every _LONGEST_SILENCE_S at the latest."""
_LONGEST_SILENCE_S = 300.0
_STOPPING_S = 60.0
_POLL_S = 1.0
_PASSING = ("408", "425", "429", "502", "503", "504")
_NOT_UP_YET = "No available agent to submit job"


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
        self.address = _address(address)
        self.printed = 0
        """Characters of the job's log that were shown already."""
        has_token = take_token_if_there()
        # Ray's client lets these variables win over its argument.
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            try:
                self.client = connect(self.address)
            except Exception as error:
                if _is_refusal(error):
                    raise TokenError(explain_refusal(self.address, has_token)) from error
                raise SubmitError(
                    f"{self.address} does not answer as the dashboard of a Ray cluster: {one_line(error)}. Is it up, "
                    "is the tunnel open (`ray dashboard`, `kubectl port-forward`)?"
                ) from error

    def submit(self, submission: Submission) -> str:
        """The job's name. Raises SubmitError if the cluster refuses it."""
        import ray

        there = getattr(self.client, "_server_ray_version", None) or ray.__version__
        if there != ray.__version__:
            submission.warnings.append(
                f"the cluster has Ray {there}, this machine {ray.__version__}; s2l_ray uses the cluster's version there"
            )
        for warning in submission.warnings:
            _tell(f"warning: {warning}")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", submission.name)
        job = f"s2l-{name}-{secrets.token_hex(3)}"
        try:
            self._patiently(lambda: self._submit_once(submission, job), f"Whether {job} was submitted is not known")
        except (RuntimeError, ValueError) as error:
            if isinstance(error, S2LError):
                raise
            raise SubmitError(f"{self.address} did not accept the job: {one_line(error, 1500)}") from error
        return job

    def _submit_once(self, submission: Submission, job: str) -> None:
        """Does nothing if an earlier try, whose answer was lost, has come through."""
        if any(info.submission_id == job for info in self.client.list_jobs()):
            return
        self.client.submit_job(
            entrypoint=submission.entrypoint, runtime_env=dict(submission.runtime_env), submission_id=job
        )

    def say_submitted(self, job: str) -> int:
        """For people on stderr, for scripts the name alone on stdout."""
        _tell(f"submitted to {self.address}; follow it: {self._ray_job('logs --follow', job)}")
        _tell(f"stop it: {self._ray_job('stop', job)}; submit it again to resume")
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
        except (RuntimeError, ValueError) as error:
            if isinstance(error, S2LError):
                raise
            raise JobError(
                f"{self.address} gives no status for the job {job}: {one_line(error)}. If the cluster's head was "
                "restarted, it has forgotten its jobs: submit the command again to resume"
            ) from error
        if info.status == "STOPPED":
            _tell(f"the job {job} was stopped; submit it again to resume")
            return STOPPED
        if info.status == "SUCCEEDED":
            return 0
        code = info.driver_exit_code
        if code is None:
            raise JobError(f"the cluster did not run the job {job}: {info.message}")
        # A driver that a signal killed (out of memory, say) has a negative one; a shell says 128 + signal.
        return int(code) if code > 0 else 128 - int(code)

    def _until_it_ends(self, job: str) -> Any:
        silence_s = _SILENCE_S
        while True:
            before = self.printed
            with contextlib.suppress(Exception):  # the connection broke; _patiently() says if it stays so
                asyncio.run(self._tail(job, silence_s))
            info = self._patiently(lambda: self.client.get_job_info(job), self._goes_on(job))
            if info.status.is_terminal():
                self._show_rest(job)
                return info
            # Each new connection sends the whole log again: seldom, while a job has nothing to say.
            silence_s = _SILENCE_S if self.printed > before else min(2 * silence_s, _LONGEST_SILENCE_S)
            time.sleep(_POLL_S)

    async def _tail(self, job: str, silence_s: float) -> None:
        """The log, from its beginning whenever this is called; shows what was not shown yet.

        Ends when nothing has come for so long: a connection that was cut without a word looks like a silent job.
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
        """`ask()`, repeated for five minutes while the cluster does not answer.

        Raises:
            JobError: it did not; `otherwise` says what is known then.
            TokenError: it does not take the token any more.
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
                        f"{self.address} has been out of reach for {_OUT_OF_REACH_S:.0f} s ({one_line(error)}). "
                        f"{otherwise}"
                    ) from error
                if not told:
                    _tell(f"{self.address} is out of reach ({one_line(error)}); trying for {_OUT_OF_REACH_S:.0f} s …")
                    told = True
                time.sleep(_POLL_S)
            else:
                if told:
                    _tell(f"{self.address} answers again")
                return answer

    def _goes_on(self, job: str) -> str:
        return f"The job {job} may go on there: {self._ray_job('status', job)}"

    def _stop(self, job: str) -> None:
        _tell(f"\nstopping the job {job} … (once more Ctrl-C leaves it to itself: {self._ray_job('stop', job)})")
        self._patiently(lambda: self.client.stop_job(job), self._goes_on(job))
        deadline = time.monotonic() + _STOPPING_S
        while time.monotonic() < deadline:
            if self._patiently(lambda: self.client.get_job_info(job), self._goes_on(job)).status.is_terminal():
                self._show_rest(job)
                return
            time.sleep(0.2)
        _tell(f"it has not ended within {_STOPPING_S:.0f} s: {self._ray_job('status', job)}")

    def _ray_job(self, verb: str, job: str) -> str:
        return f"ray job {verb} {job} --address {self.address}"


def connect(address: str) -> Any:
    """Ray's client, with a limit on how long it waits for a socket: one that was cut without a word says nothing."""
    from ray.job_submission import JobSubmissionClient

    # Lines for each upload and connection. (Its modules set a level of their own when they are imported.)
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=(_CONNECT_S, _ANSWER_S), **options)

    return Client(address)


def _passes(error: Exception) -> bool:
    """Trying again may help: broken connections, proxies without a server behind them, a dashboard that comes up."""
    if _is_refusal(error):
        return False
    if isinstance(error, OSError):  # those of requests too
        return True
    status = re.search(r"status code (\d+)", str(error))
    if status is None:
        return not isinstance(error, (ValueError, TypeError, AttributeError))
    # What a dashboard says of a job that it does not know, as proxies say it of a server that is not up.
    unknown_page = status[1] == "404" and "does not exist" not in str(error)
    return status[1] in _PASSING or unknown_page or _NOT_UP_YET in str(error)


def _is_refusal(error: Exception) -> bool:
    return type(error).__name__ == "AuthenticationError"


def one_line(error: Exception, longest: int = 300) -> str:
    """The error's text, for the middle of a sentence."""
    return shorten(redact_text(" ".join(str(error).split())).rstrip(".") or type(error).__name__, longest)


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
