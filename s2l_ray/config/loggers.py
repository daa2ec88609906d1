"""The section `loggers`: where a run's metrics are sent in addition to `metrics.jsonl`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from s2l_ray.config.section import Section
from s2l_ray.text.redact import holds_credentials

_SCHEMES = ("http", "https", "file", "sqlite", "databricks")


class LoggersConfig(Section):
    # A refused URI may hold a password, and pydantic would print the input beside the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder, `tensorboard/<stage>/`."""
    wandb_project: str | None = None
    """Weights & Biases project, with one run per stage. The key comes from WANDB_API_KEY or `wandb login`, the team
    from WANDB_ENTITY; WANDB_MODE=offline is respected."""
    mlflow_uri: str | None = None
    """MLflow tracking server or store, with one run per stage: `http(s)://…`, `sqlite:///…`, `file:…`, `databricks`;
    credentials come from MLflow's environment variables."""
    mlflow_experiment: str = Field(default="s2l_ray", min_length=1)
    """MLflow experiment of these runs; created if it does not exist."""

    @field_validator("wandb_project")
    @classmethod
    def _project(cls, project: str | None) -> str | None:
        if project is not None and not re.fullmatch(r"[^/\\#?%:\s][^/\\#?%:]{0,127}", project):
            raise ValueError(
                f"{project!r} is not a name that Weights & Biases accepts for a project: 1 to 128 characters, none of "
                "/ \\ # ? % : in them. A team is not part of it: set WANDB_ENTITY"
            )
        return project

    @field_validator("mlflow_uri")
    @classmethod
    def _uri(cls, uri: str | None) -> str | None:
        """Messages do not repeat what may be a password."""
        if uri is None:
            return None
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise ValueError(
                "it is not a URI; give for example http://host:5000 or sqlite:////folder/mlflow.db"
            ) from None
        if "@" in parts.netloc or holds_credentials(uri):
            raise ValueError(
                f"the {parts.scheme} URI holds credentials, which everyone who reads the run's folder would see; leave "
                "them out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if (parts.scheme or uri) not in _SCHEMES or (parts.scheme in ("http", "https") and not parts.netloc):
            raise ValueError(
                "MLflow would not find its server or store there; give http://host:5000, https://…, "
                "sqlite:////folder/mlflow.db, file:/folder or databricks"
            )
        return uri

    def contradictions(self) -> Iterator[str]:
        if self.mlflow_uri is None and self.mlflow_experiment != "s2l_ray":
            yield (
                f"loggers.mlflow_experiment={self.mlflow_experiment!r} would do nothing without loggers.mlflow_uri; "
                "set the URI or remove the experiment"
            )
