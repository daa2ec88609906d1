"""A configuration as a run stores it: the YAML, with a digest of its settings in the first line.

The digest is at the beginning because a truncated file loses its end, and would otherwise look like that of an earlier
version, which had none. It covers the settings, not the bytes, so that other line ends or comments do no harm.
"""

from __future__ import annotations

import re
from typing import Literal

import yaml

from s2l_ray.storage.fingerprint import fingerprint

_MARK = b"# Written by s2l"
_HEAD = re.compile(rb"# Written by s2l [^\n]*\b([0-9a-f]{32})\r?\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it at the beginning


def with_digest(text: str) -> bytes:
    """The YAML of a configuration as it is stored."""
    digest = fingerprint(yaml.safe_load(text))
    head = f"{_MARK.decode()} for this run; for other settings, use a copy without this line. Digest: {digest}"
    return f"{head}\n{text}".encode()


def state_of(content: bytes) -> Literal["intact", "changed", "unmarked"]:
    """Compare a stored configuration with its digest; `unmarked`: it has none, as with earlier versions and other
    files."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.startswith(_MARK):
        return "unmarked"
    head = _HEAD.match(content)
    try:
        is_same = head is not None and fingerprint(yaml.safe_load(content)) == head[1].decode()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        is_same = False
    return "intact" if is_same else "changed"
