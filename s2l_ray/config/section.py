"""What all sections of the configuration have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo

from s2l_ray.run_folder.redact import strip_credentials

_STORED = {"stored": True}


def _serialize_location(value: Any, info: SerializationInfo) -> Any:
    return strip_credentials(value) if info.context == _STORED and isinstance(value, str) else value


_LOCATION = PlainSerializer(_serialize_location)
Location = Annotated[str, _LOCATION]
"""A path or URI: what is stored of it lacks credentials."""
OptionalLocation = Annotated[str | None, _LOCATION]


class Section(BaseModel):
    # Frozen: validation never rewrites what the user wrote, and nothing changes it later.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    def stored(self, **options: Any) -> dict[str, Any]:
        """The fields as plain data for whoever reads the run: as they were given, but no credentials in locations.

        Args:
            options: as for `model_dump`.
        """
        return self.model_dump(mode="json", context=_STORED, **options)
