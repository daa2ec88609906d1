"""The program sandbox: reads programs that a model has written → what they print; nothing else comes of them.

A fork server (`server`, without s2l_ray) forks a process for every program (`supervise`), which forks the one that is
locked (`lock`: limits, capabilities, `landlock`, `seccomp`) and runs it (`child`). `client` starts and feeds servers.
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
