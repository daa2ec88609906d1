"""What an evaluation is refused for, or fails for."""

from __future__ import annotations

from s2l_ray.errors import EnvironmentFault, UserError


class EvaluationError(UserError):
    """A test set, a setting, or a node that cannot isolate programs; says which, why and what would do."""


class SandboxError(EnvironmentFault):
    """The sandbox's servers die on this node whatever they run."""
