"""MLflow as a destination for figures, through its client: no global run, nothing from the command line or git."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray.observability.logger_sinks import Entry, Identity, Sink, as_text, flat

_TEXT = 500
"""Length of params and tags that every MLflow server accepts (characters)."""
_BATCH, _METRICS = 100, 1000
"""Numbers of params or tags, and of metrics, that MLflow accepts in one request."""


class MLflow(Sink):
    """MLflow run, identified by its tag `s2l_run`; MLflow itself retries requests (MLFLOW_HTTP_REQUEST_…)."""

    name = "MLflow"

    def __init__(self, identity: Identity, settings: Mapping[str, Any], uri: str, experiment: str):
        self.identity, self.settings, self.uri, self.experiment = identity, settings, uri, experiment
        self._client: Any = None
        self._run_id = ""

    def open(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._experiment()
        mine = f"tags.s2l_run = '{self.identity.id}'"
        found = self._client.search_runs([experiment], mine, max_results=1)
        if found:
            self._run_id, known = found[0].info.run_id, found[0].data.params
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {
                "s2l_run": self.identity.id,
                "s2l_stage": self.identity.stage_label,
                "s2l_folder": self.identity.folder[:_TEXT],
            }
            run = self._client.create_run(experiment, run_name=self.identity.title, tags=tags)
            self._run_id, known = run.info.run_id, {}
        self._log_settings(known)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(self.experiment))
        except MlflowException:  # perhaps another run created it at the same moment
            found = self._client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _log_settings(self, known: Mapping[str, str]) -> None:
        """Log the settings; MLflow never changes a param, so one that differs after a resume becomes a tag."""
        from mlflow.entities import Param, RunTag

        texts = {_mlflow_name(name): as_text(value)[:_TEXT] for name, value in flat(self.settings, ".")}
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        changed = [RunTag(f"changed.{name}", text) for name, text in texts.items() if known.get(name, text) != text]
        for start in range(0, len(new), _BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + _BATCH])
        for start in range(0, len(changed), _BATCH):
            self._client.log_batch(self._run_id, tags=changed[start : start + _BATCH])

    def write(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric, RunTag

        metrics, tags = [], []
        for entry in entries:
            prefix, time_ms = "summary/" if entry.final else "", int(entry.time_s * 1000)
            for name, value in entry.values.items():
                metrics.append(Metric(_mlflow_name(prefix + name), value, time_ms, entry.step))
            tags += [RunTag(_mlflow_name(prefix + name), text[:_TEXT]) for name, text in entry.texts.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS])
        for start in range(0, len(tags), _BATCH):
            self._client.log_batch(self._run_id, tags=tags[start : start + _BATCH])

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED", int(time.time() * 1000))


def _mlflow_name(name: str) -> str:
    """Convert a name to one that MLflow accepts: no other characters, and no components that leave a folder."""
    parts = [re.sub(r"[^\w\-. /]", "_", part) for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:250] or "_"
