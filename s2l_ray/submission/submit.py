"""`s2l submit`: prepare a command, send it to a Ray cluster as a job, and follow it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from s2l_ray.errors import running
from s2l_ray.submission.job import JobClient
from s2l_ray.submission.prepare import prepare


def submit(options: argparse.Namespace, parsed: argparse.Namespace) -> int:
    """Submit the command, follow the job and return its exit code; the arguments are those of `prepare`."""
    with tempfile.TemporaryDirectory() as folder:
        submission = prepare(options, parsed, Path(folder))
        client = JobClient(options.address)
        job = client.submit(submission)
    with running():
        return client.say_submitted(job) if options.no_wait else client.follow(job)
