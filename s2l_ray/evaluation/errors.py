"""Errors of evaluations."""

from __future__ import annotations

from s2l_ray.errors import EnvironmentFault, UserError


class EvaluationError(UserError):
    """A test set, setting or node is unsuitable; the message says which, why, and how to fix it."""


class SandboxError(EnvironmentFault):
    """The sandbox's servers die on this node, whatever they run."""
