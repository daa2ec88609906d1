"""Check that the configured experiment loggers can work where the driver runs."""

from __future__ import annotations

import contextlib
import importlib
import netrc
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from s2l_ray.errors import UserError, first_line, foreign_named
from s2l_ray.text.display import one_line

if TYPE_CHECKING:  # the configuration's package imports this one
    from s2l_ray.config.loggers import LoggersConfig


class LoggerError(UserError):
    """Error for a configured logger that cannot work; the message says why and what to do."""


def check_loggers(config: LoggersConfig) -> None:
    """Check, before anything is started, that the configured loggers can work here.

    Raises:
        LoggerError: a library is missing or broken, Weights & Biases has no key, or MLflow refuses the kind of store.
    """
    if config.tensorboard:
        _require("torch.utils.tensorboard", "loggers.tensorboard=true", "tensorboard")
    if config.wandb_project:
        _require("wandb", f"loggers.wandb_project={config.wandb_project!r}", "wandb")
        what = f"loggers.wandb_project={config.wandb_project!r}: Weights & Biases cannot be set up here"
        with foreign_named(LoggerError, what, "See its settings (WANDB_*, ~/.config/wandb), or leave the option out"):
            _check_wandb(config.wandb_project)
    if config.mlflow_uri:
        wanted = f"loggers.mlflow_uri={config.mlflow_uri!r}"
        _require("mlflow", wanted, "mlflow")
        if config.mlflow_uri.startswith("sqlite:"):
            _require("sqlalchemy", wanted, "mlflow")
            _require("alembic", wanted, "mlflow")
        if config.mlflow_uri.startswith("file:"):
            what = f"loggers.mlflow_uri={config.mlflow_uri!r}: the store cannot be opened"
            with foreign_named(LoggerError, what, "Give a folder that this user may write, or leave the option out"):
                _check_mlflow_files(config.mlflow_uri)


def _require(module: str, wanted: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise LoggerError(
            f'{wanted} cannot be done, nothing would be logged there: {error}. Run pip install "s2l_ray[{extra}]", or '
            "leave the option out."
        ) from None
    except Exception as error:  # with incompatible versions, libraries can raise anything
        raise LoggerError(
            f"{wanted} cannot be done, nothing would be logged there: the import of {module} ends in "
            f'{type(error).__name__}: {first_line(error)}. Run pip install -U "s2l_ray[{extra}]", or leave the option '
            "out."
        ) from error


def _check_wandb(project: str) -> None:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    import wandb

    settings: Any = wandb.setup().settings  # includes what `wandb offline` and `wandb login --host` have stored
    if settings.mode in ("offline", "disabled", "dryrun") or settings.api_key:
        return
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    hosts = {urlsplit(settings.base_url).netloc}
    if "WANDB_BASE_URL" not in os.environ:
        hosts.add("api.wandb.ai")  # where older versions of wandb logged in
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in paths:
        with contextlib.suppress(OSError, UnicodeDecodeError, netrc.NetrcParseError):
            entries = netrc.netrc(os.path.expanduser(path))
            if any(entries.authenticators(host) for host in hosts):
                return
    raise LoggerError(
        f"loggers.wandb_project={project!r}, but nobody is logged in to Weights & Biases at {settings.base_url}, so "
        "nothing would get there. Set WANDB_API_KEY or run `wandb login` where the driver runs, or set "
        "WANDB_MODE=offline and send the runs later with `wandb sync`."
    )


def _check_mlflow_files(uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        raise LoggerError(
            f"loggers.mlflow_uri={uri!r}: this version of MLflow refuses the store, so nothing would be logged there "
            f"({one_line(str(error))}). Use sqlite:////folder/mlflow.db or a server, or set "
            "MLFLOW_ALLOW_FILE_STORE=true."
        ) from None
