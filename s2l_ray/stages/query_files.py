"""The user's own examples of their task (`selection.query`): the files and their fingerprint."""

from __future__ import annotations

from s2l_ray.config.schema import S2LConfig
from s2l_ray.data import user_files
from s2l_ray.data.sources import ReadUnit, plan_files
from s2l_ray.data.unchanged import unit_content
from s2l_ray.errors import UserError, foreign_named
from s2l_ray.storage.fingerprint import fingerprint

WHERE = "selection.query.paths"


class QueryError(UserError):
    """The examples of the task cannot be used; the message says why."""


def query_units(config: S2LConfig) -> list[ReadUnit]:
    """The units to read from the files.

    Raises:
        SourceError: a file is missing.
    """
    return plan_files(config.selection.query.paths, 2**40, WHERE, config.run_uri)


def query_content(config: S2LConfig) -> str:
    """Fingerprint of the files' bytes; reads them."""
    return fingerprint([unit_content(unit) for unit in query_units(config)])


def check_query_files(config: S2LConfig) -> None:
    """Check the first rows, before hours of training.

    Raises:
        SourceError, QueryError: a file is missing, or contains nothing usable.
    """
    if not config.selection.query.paths:
        return
    with foreign_named(QueryError, f"{WHERE} cannot be used", "Check the files, or name others"):
        user_files.format_of(WHERE, query_units(config), config.corpus, QueryError)
