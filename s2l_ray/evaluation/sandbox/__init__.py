"""The sandbox runs programs written by a model and returns what they print; they have no other effect.

A fork server (`server`, without s2l_ray) forks a process for every program, which locks itself (`lock`: limits,
capabilities, `landlock`, `seccomp`) and runs the program (`child`). `client` starts and feeds servers.
"""

from s2l_ray.evaluation.errors import EvaluationError, SandboxError
from s2l_ray.evaluation.sandbox.client import EXTRA, Sandbox, check_node, probe_node
from s2l_ray.evaluation.sandbox.probe import ProbeReport
from s2l_ray.evaluation.sandbox.settings import ProgramResult, SandboxSettings

__all__ = [
    "EXTRA",
    "EvaluationError",
    "ProbeReport",
    "ProgramResult",
    "Sandbox",
    "SandboxError",
    "SandboxSettings",
    "check_node",
    "probe_node",
]
