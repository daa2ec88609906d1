"""What an evaluation is refused for."""

from __future__ import annotations

from s2l_ray.errors import UserError


class EvaluationError(UserError):
    """A target cannot be evaluated as asked: a setting, a file, or a node that cannot isolate programs."""
