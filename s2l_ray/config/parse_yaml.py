"""Parses YAML text into plain data, within limits: a small file must not expand to gigabytes, nor a deep one crash."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import yaml

from s2l_ray.errors import UserError, first_line, shown
from s2l_ray.text.display import shorten

MAX_BYTES = 256 * 1024
"""Longest YAML text (bytes); a configuration has a few kilobytes."""
MAX_NODES = 20_000
"""Maximum number of values in one configuration; those behind aliases count each time they are used."""
MAX_DEPTH = 32
"""Maximum nesting depth."""
MAX_WHOLE = 2**63 - 1
"""Largest whole number; the run's files cannot hold larger ones."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Place = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""


class NotYaml(UserError):
    """The text is not YAML, or exceeds the limits."""


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `2e-5` is a number, dates and times of day are text, a repeated key is an error."""

    def __init__(self, text: bytes | str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node. Raises NotYaml beyond the limits, before Python's recursion limit is reached."""
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH:
            raise NotYaml(f"values lie more than {MAX_DEPTH} deep in each other, which no configuration needs")
        if self._nodes > 2 * MAX_NODES:
            raise NotYaml(f"it holds more than {MAX_NODES:,} values, which no configuration needs")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in given:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shown(key.value)} is given twice, so one would be lost", key.start_mark
                    )
                given.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1, which PyYAML implements, requires a dot in every float; 1.2 does not:
# https://yaml.org/spec/1.2.2/#10214-floating-point
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: bytes | str) -> Any:
    """The data in `text`; bytes may be UTF-8 or UTF-16.

    Raises:
        NotYaml: with what is wrong.
    """
    if len(text) > MAX_BYTES:
        raise NotYaml(f"it is longer than {MAX_BYTES:,} bytes, and a configuration has some thousand")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except NotYaml:
        raise
    except yaml.YAMLError as error:
        raise NotYaml(shorten(str(error), 600)) from None
    except Exception as error:  # `!!int x`, `!!timestamp x` and the like raise various errors
        raise NotYaml(f"a value is not what its tag or form says ({first_line(error)})") from None
    finally:
        if loader is not None:
            loader.dispose()


class PlainCopy:
    """A copy of nested data that holds only what YAML and JSON have in common; `faults` says what was left out."""

    def __init__(self, source: Any, at: Place = ()) -> None:
        """Args: at: place of the data in the whole configuration."""
        self.faults: dict[Place, str] = {}
        """Place → what is wrong there."""
        self._nodes = 0
        self.data = self._copy(source, at)

    def _copy(self, value: Any, at: Place) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self.faults[()] = f"there are more than {MAX_NODES:,} values (aliases count wherever they are used)"
            return None
        if len(at) > MAX_DEPTH:
            return self._fault(at[:3], f"values lie more than {MAX_DEPTH} deep in each other")
        if isinstance(value, Mapping):
            return {key: self._copy(inner, (*at, key)) for key, inner in self._named(value, at) if not self._is_full}
        if isinstance(value, list | tuple):
            return [self._copy(inner, (*at, i)) for i, inner in enumerate(value) if not self._is_full]
        return self._leaf(value, at)

    @property
    def _is_full(self) -> bool:
        return self._nodes > MAX_NODES

    def _named(self, value: Mapping[Any, Any], at: Place) -> list[tuple[str, Any]]:
        named = []
        for key, inner in list(value.items())[: MAX_NODES + 1]:
            if not isinstance(key, str):
                self._fault((*at, shown(key)), f"the key is {_kind(key)}; keys are text, so put it in quotes")
            elif len(key) > 200 or _CONTROL.search(key):
                self._fault((*at, shown(key)), "the key is longer than 200 characters or holds control characters")
            else:
                named.append((key, inner))
        return named

    def _leaf(self, value: Any, at: Place) -> Any:
        if isinstance(value, str) and (control := _CONTROL.search(value)):
            code = control[0].encode("unicode_escape").decode()
            what = "a byte that is not UTF-8" if control[0] >= "\ud800" else f"the control character {code}"
            return self._fault(at, f"holds {what} (character {control.start() + 1}), which names and texts here cannot")
        if isinstance(value, float) and not math.isfinite(value):
            return self._fault(at, f"{value} is not a finite number")
        if isinstance(value, int) and not -MAX_WHOLE <= value <= MAX_WHOLE:
            return self._fault(at, f"{shown(value)} is beyond {MAX_WHOLE:,}, the largest number that files can hold")
        if isinstance(value, bytes | bytearray | set | frozenset | date):
            return self._fault(at, f"{shown(value)} is {_kind(value)}; give text, a number, true, false, or a list")
        return value

    def _fault(self, at: Place, said: str) -> None:
        self.faults.setdefault(at, said)


def _kind(value: Any) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", bytes: "binary", type(None): "nothing (null)"}
    return names.get(type(value), f"of type {type(value).__name__}")
