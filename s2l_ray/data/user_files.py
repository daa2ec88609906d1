"""Read and tokenise files of examples that users name in addition to the corpus: held-out sets, examples of a task.

Each set is read like the corpus if its columns fit, otherwise in its own format, and rendered accordingly.

Memory: all examples of a set.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.conversation import CHAT_COLUMN, unpack, unpack_table
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, Messages, array_to_ids, ids_to_array
from s2l_ray.data.formats import UnknownFormat, fits, rendered_as, tells_format
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import first_rows, is_chat, read_rows, sample_format
from s2l_ray.data.render import Renderer
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.data.units import ReadUnit, SourceError, UnusableRow
from s2l_ray.errors import UserError
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class UserRows:
    """Examples of one set of files, sorted by id and without duplicates."""

    ids: np.ndarray
    """(N, 2) uint64."""
    sources: list[str]
    messages: list[Messages]
    tools: list[list[Any] | None] | None = None
    """Tools of each example; None: no example has any."""

    def __len__(self) -> int:
        return len(self.sources)

    def without(self, dropped: np.ndarray) -> UserRows:
        """Return the rows for which `dropped` (N,) bool is False."""
        kept = np.flatnonzero(~dropped)
        tools = None if self.tools is None else [self.tools[i] for i in kept]
        return UserRows(self.ids[kept], [self.sources[i] for i in kept], [self.messages[i] for i in kept], tools)


class UserFileError(UserError):
    """Error for a set of examples that cannot be used; names the set and the reason."""


def read_split(corpus: Storage, parts: list[int]) -> UserRows:
    """Read the examples that the corpus stage held out."""
    columns = ["example_id", "source", "messages"]
    tables = [corpus.read_table(f"heldout/{part_name(p)}", columns, optional=[CHAT_COLUMN]) for p in parts]
    table = pa.concat_tables(tables, promote_options="default")
    return unique_rows(ids_to_array(table["example_id"]), table["source"].to_pylist(), *unpack_table(table))


def format_of(where: str, units: list[ReadUnit], config: CorpusConfig, error: type[UserError]) -> str:
    """Detect the format in which to render the files from their first rows; see `formats.rendered_as`.

    Args:
        where: the setting that names the files, for messages.
        error: raised if there are no rows, or none can be used.
    """
    config, format = _own_format(where, units, config, error)
    raws = first_rows(units, config.max_row_bytes)
    return rendered_as(format, any(is_chat(raw, config, format) for raw in raws))


def read_files(
    where: str, units: list[ReadUnit], config: CorpusConfig, error: type[UserError]
) -> tuple[UserRows, str, int]:
    """Read the examples; return them, the format in which to render them, and the number of unusable rows.

    Args:
        where, error: see `format_of`.
    """
    config, format = _own_format(where, units, config, error)
    good: list[dict[str, Any]] = []
    reasons: list[str] = []
    for record, _, reason in chain.from_iterable(read_rows(unit, config, format) for unit in units):
        if record is None:
            reasons.append(reason)
        else:
            good.append(record)
    if not good:
        raise error(f"{where}: none of its {len(reasons)} rows can be used ({reasons[0]}); correct them")
    ids = ids_to_array(pa.array([r["id"] for r in good], ID_TYPE))
    chats = [unpack(r["messages"], r["chat"]) for r in good]
    rows = unique_rows(ids, [r["source"] for r in good], [c.turns for c in chats], [c.tools for c in chats])
    return rows, rendered_as(format, any(r["is_chat"] for r in good)), len(reasons)


def unique_rows(
    ids: np.ndarray, sources: list[str], messages: list[Messages], tools: list[list[Any] | None] | None = None
) -> UserRows:
    """Sort rows by id and keep the first of each id."""
    _, first = np.unique(ids, axis=0, return_index=True)
    mine = None if tools is None else [tools[i] for i in first]
    return UserRows(ids[first], [sources[i] for i in first], [messages[i] for i in first], mine)


def tokenise(where: str, rows: UserRows, render: Renderer, error: type[UserError]) -> tuple[pa.Table, int]:
    """Tokenise examples; return TOKEN_SCHEMA rows, one per sequence, and the number of examples left out.

    Examples are left out if they cannot be rendered within the model's length.

    Args:
        where: name of the examples, for messages.
        error: raised if no example can be rendered.
    """
    done = render(rows.messages, rows.tools)
    bad = [row for row in done if isinstance(row, UnusableRow)]
    sequences = [(i, tokens) for i, row in enumerate(done) if not isinstance(row, UnusableRow) for tokens in row]
    if not sequences:
        raise error(
            f"{where}: none of its {len(rows)} examples can be used ({bad[0]}); give others, or change how they are "
            "rendered"
        )
    table = pa.table(
        {
            "example_id": array_to_ids(rows.ids[[i for i, _ in sequences]]),
            "source": pa.array([rows.sources[i] for i, _ in sequences]),
            "input_ids": pa.array([tokens.input_ids for _, tokens in sequences], pa.list_(pa.int32())),
            "response_mask": pa.array([tokens.response_mask for _, tokens in sequences], pa.list_(pa.bool_())),
        }
    )
    return table.cast(TOKEN_SCHEMA), len(bad)


def _own_format(
    where: str, units: list[ReadUnit], config: CorpusConfig, error: type[UserError]
) -> tuple[CorpusConfig, str]:
    """Return (corpus settings for reading the files, their format): the corpus's format if it fits, else their own."""
    try:
        columns = {column for raw in first_rows(units, config.max_row_bytes) if raw.row for column in raw.row}
        if not fits(config, columns) and tells_format(columns):
            config = config.model_copy(update={"template": None, "format": "auto"})
        return config, sample_format(units, config)
    except (SourceError, UnknownFormat, QuarantineLimitError) as fault:
        raise error(f"{where} cannot be used: {fault}") from fault
