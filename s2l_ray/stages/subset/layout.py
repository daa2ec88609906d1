"""The layout of the selected rows: which columns are used, which keys and role names their turns have.

Training programs need this information, which only the rows themselves contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.data.chats import FUNCTION_CALL, ROLE_KEYS, ROLES, TEXT_KEYS, is_empty

_TURN_COLUMNS = ("messages", "conversations", "conversation", "prompt", "completion")


@dataclass
class RowLayout:
    """Columns, keys and role names that occur in the rows of one file."""

    columns: set[str] = field(default_factory=set)
    """All columns."""
    filled: set[str] = field(default_factory=set)
    """Columns that are not empty in at least one row."""
    lists: set[str] = field(default_factory=set)
    """Columns that are lists or objects in at least one row."""
    packed: set[str] = field(default_factory=set)
    """Columns with turns that are JSON text in at least one row."""
    role_keys: set[str] = field(default_factory=set)
    text_keys: set[str] = field(default_factory=set)
    other_keys: set[str] = field(default_factory=set)
    """Other keys of turns that are not empty."""
    roles: dict[str, set[str]] = field(default_factory=dict)
    """Role (including function_call) → the names used for it."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take note of one row."""
        self.columns.update(row)
        for name, value in row.items():
            if not is_empty(value):
                self.filled.add(name)
                if isinstance(value, list | dict):
                    self.lists.add(name)
        for name in _TURN_COLUMNS:
            turns = row.get(name)
            if isinstance(turns, list):
                for turn in turns:
                    if isinstance(turn, Mapping):
                        self._add_turn(turn)
            elif isinstance(turns, str) and name in _TURN_COLUMNS[:3]:
                self.packed.add(name)

    def _add_turn(self, turn: Mapping[str, Any]) -> None:
        for key, value in turn.items():
            if key in ROLE_KEYS and isinstance(value, str):
                self.role_keys.add(key)
                role = ROLES.get(value.strip().lower(), "")
                self.roles.setdefault(role, set()).add(value)
            elif key in TEXT_KEYS and value is not None:
                self.text_keys.add(key)
            elif not is_empty(value):
                self.other_keys.add(key)

    @property
    def is_of_turns(self) -> bool:
        return bool(self.role_keys)

    def name_of(self, role: str, default: str) -> str | None:
        """The only name that the rows use for a role; `default` if none has that role, None if there are several
        names."""
        names = self.roles.get(role, {default})
        return next(iter(names)) if len(names) == 1 else None

    @property
    def has_tool_calls(self) -> bool:
        return bool(self.other_keys & {"tool_calls", FUNCTION_CALL})
