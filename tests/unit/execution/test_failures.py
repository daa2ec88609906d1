"""What ended a task, in one line."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from s2l_ray.execution.failures import telling_line


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
