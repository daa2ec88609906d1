"""What an evaluation is refused for."""

from __future__ import annotations

from s2l_ray.errors import UserError


class EvaluationError(UserError):
    """A test set, a setting, or a node that cannot isolate programs; says which, why and what would do."""
