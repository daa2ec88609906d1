"""What ended a task, in one line."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError

from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.execution.failures import telling_line, what_happened


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (ValueError("no row has a response"), "ValueError: no row has a response"),
        (RuntimeError("CUDA error: out of memory\nmore"), "CUDA error: out of memory"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (KeyError(), "KeyError: KeyError()"),
    ],
)
def test_of_a_tasks_error_its_cause_is_told(cause: Exception, line: str):
    """And not the line of Ray's that names the process, in the colours of a terminal."""
    text = f"\x1b[36mray::_Host.run()\x1b[39m (pid=7, ip=127.0.0.1)\n{type(cause).__name__}: {cause}"
    wrapped = RayTaskError("ray::_Host.run()", text, cause).as_instanceof_cause()
    assert telling_line(wrapped) == telling_line(cause) == line


def test_a_worker_that_raised_is_not_called_lost():
    text = "ray::_Host.run() (pid=7)\nOSError: the disk of the model is gone"
    raised = RayTaskError("ray::_Host.run()", text, OSError("the disk of the model is gone")).as_instanceof_cause()
    assert what_happened(raised) == "a worker failed (OSError: the disk of the model is gone)"
    assert what_happened(EvaluationError("no vLLM")) == "a worker failed (EvaluationError: no vLLM)"


@pytest.mark.parametrize("error", [ActorDiedError(), NodeDiedError("gone"), OutOfMemoryError("Task was killed")])
def test_a_process_that_is_gone_is_called_lost(error: Exception):
    said = what_happened(error)
    assert said.startswith("a process was lost (")
    assert telling_line(error) in said
