"""Progress output of a run as text, for tests."""

from __future__ import annotations

import io

from s2l_ray.observability.progress import Progress


class Quiet(Progress):
    def __init__(self) -> None:
        self.text = io.StringIO()
        super().__init__(self.text, interactive=False)

    def lines(self) -> str:
        return self.text.getvalue()
